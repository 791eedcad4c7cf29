//! Loads a module: variables into device memory, functions into programs.

use std::collections::HashMap;
use std::sync::Arc;

use super::function::{FUNCTION_BASE, KernelScope, ModuleScope, ModuleVariable, lower};
use super::types::Type;
use super::{Kernel, LoadError, Module, Param};
use crate::ptx::ast::{self, Init, Space, Variable};
use crate::target::THREADS_PER_BLOCK;
use crate::{Memory, Options, Target};

/// Constant memory of a module, at most.
const CONSTANT_BYTES: u64 = 64 << 10;

/// Bytes and alignment of a variable; `None` for an unknown type or an impossible size.
pub(super) fn size_of(variable: &Variable) -> Option<(u64, u32)> {
    let element = match variable.ty {
        "texref" | "samplerref" | "surfref" => 8,
        ty => Type::parse(ty)?.bytes(),
    };
    let mut bytes = u64::from(element) * u64::from(variable.vector);
    let natural = bytes as u32;
    for (i, dim) in variable.dims.iter().enumerate() {
        let count = match dim {
            Some(count) => *count,
            // An open array is as long as its initialiser.
            None if i == 0 => variable.init.len() as u64,
            None => return None,
        };
        bytes = bytes.checked_mul(count)?;
    }
    if bytes > 1 << 40 {
        return None;
    }
    Some((bytes, variable.align.unwrap_or(natural).max(1)))
}

fn invalid(line: u32, message: impl Into<String>) -> LoadError {
    LoadError::Invalid {
        line,
        message: message.into(),
    }
}

pub(super) fn load(
    image: &[u8],
    target: &Target,
    memory: &Arc<Memory>,
    options: &Options,
) -> Result<Module, LoadError> {
    let end = image
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(image.len());
    let text = std::str::from_utf8(&image[..end]).map_err(|_| LoadError::NotPtx)?;
    if !text.contains(".version") {
        return Err(LoadError::NotPtx);
    }
    let tree = crate::ptx::parse(text).map_err(|e| invalid(e.line, e.message))?;
    if tree.version > options.ptx_version {
        return Err(LoadError::UnsupportedVersion {
            found: tree.version,
            newest: options.ptx_version,
        });
    }
    let binary_version = check_target(&tree.target, target)?;
    let mut loader = Loader {
        tree: &tree,
        memory,
        module: Module::empty(memory.clone()),
    };
    loader.load(binary_version)?;
    Ok(loader.module)
}

/// PTX runs on its own device and newer ones; with `a` only on its own, with `f` on its family.
fn check_target(words: &[&str], target: &Target) -> Result<u32, LoadError> {
    let Some(name) = words.first() else {
        return Err(invalid(1, "expected a `.target` directive, found none"));
    };
    let wrong = || LoadError::WrongTarget {
        found: name.to_string(),
        device: target.sm,
    };
    let digits = name.strip_prefix("sm_").unwrap_or("");
    let suffix = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u32 = digits[..digits.len() - suffix.len()]
        .parse()
        .map_err(|_| invalid(1, format!("unknown target `{name}`")))?;
    let runs = match suffix {
        "" => number <= target.sm,
        "a" => number == target.sm,
        "f" => number <= target.sm && number / 10 == target.sm / 10,
        _ => return Err(invalid(1, format!("unknown target `{name}`"))),
    };
    if runs { Ok(number) } else { Err(wrong()) }
}

struct Loader<'a, 'm> {
    tree: &'a ast::Module<'a>,
    memory: &'m Arc<Memory>,
    module: Module,
}

impl<'a> Loader<'a, '_> {
    fn load(&mut self, binary_version: u32) -> Result<(), LoadError> {
        let mut functions: HashMap<&str, u32> = HashMap::new();
        for (index, function) in self.tree.functions.iter().enumerate() {
            let known = functions.get(function.name);
            // A definition wins over declarations.
            if known.is_none() || function.body.is_some() {
                functions.insert(function.name, index as u32);
            }
        }
        for (alias, name) in &self.tree.aliases {
            if let Some(&index) = functions.get(name) {
                functions.insert(alias, index);
            }
        }
        let variables = self.place_variables()?;
        self.initialise(&variables, &functions)?;
        let scope = ModuleScope {
            variables,
            functions,
            ast: &self.tree.functions,
        };
        let files: Arc<[(u32, String)]> = self
            .tree
            .files
            .iter()
            .map(|(n, path)| (*n, path.to_string()))
            .collect();
        for (index, function) in self.tree.functions.iter().enumerate() {
            if function.body.is_none() {
                continue;
            }
            if function.entry {
                let kernel = self.kernel(&scope, index as u32, binary_version, &files)?;
                self.module.kernels.push(Arc::new(kernel));
            } else {
                // Lowered with each kernel that calls it; here only to find what can't be.
                lower(&scope, &mut KernelScope::default(), index as u32)
                    .map_err(|e| invalid(e.line, e.message))?;
            }
        }
        Ok(())
    }

    /// Every variable of every scope that lives in device memory, and the shared ones of the module.
    fn place_variables(&mut self) -> Result<HashMap<&'a str, ModuleVariable>, LoadError> {
        let tree = self.tree;
        let mut variables = HashMap::new();
        let mut constants = 0u64;
        let mut inner = Vec::new();
        for function in &tree.functions {
            collect(function.body.as_deref().unwrap_or(&[]), &mut inner);
        }
        // Definitions first: what is only declared may say less of its size.
        let (declared, defined): (Vec<_>, Vec<_>) = tree.variables.iter().partition(|v| v.external);
        for variable in defined.into_iter().chain(declared).chain(inner) {
            let known = variables.contains_key(variable.name);
            if variable.external && known {
                continue;
            }
            let open = variable.dims.first() == Some(&None) && variable.init.is_empty();
            if variable.space == Space::Shared && open {
                let align = variable.align.unwrap_or(16);
                variables.insert(variable.name, ModuleVariable::DynamicShared { align });
                continue;
            }
            let (bytes, align) = size_of(variable).ok_or_else(|| {
                invalid(
                    variable.line,
                    format!("`{}`: unknown type or size", variable.name),
                )
            })?;
            let placed = match variable.space {
                Space::Shared => {
                    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                    ModuleVariable::Shared { bytes, align }
                }
                Space::Global | Space::Constant => {
                    if variable.space == Space::Constant {
                        constants += bytes;
                    }
                    if constants > CONSTANT_BYTES {
                        return Err(invalid(
                            variable.line,
                            format!("constant memory is 64 KiB, the module uses {constants} bytes"),
                        ));
                    }
                    self.place_one(variable, bytes)?
                }
                _ => {
                    return Err(invalid(
                        variable.line,
                        format!("`{}` cannot be declared at module scope", variable.name),
                    ));
                }
            };
            variables.insert(variable.name, placed);
        }
        self.module.const_bytes = constants as u32;
        Ok(variables)
    }

    fn place_one(&mut self, variable: &Variable, bytes: u64) -> Result<ModuleVariable, LoadError> {
        if let Some(&(address, _)) = self.module.globals.get(variable.name) {
            return Ok(ModuleVariable::Placed(address));
        }
        let address = self.memory.allocate(bytes, variable.name)?;
        self.module
            .globals
            .insert(variable.name.to_string(), (address, bytes));
        if let Ok(pointer) = self.memory.slice(address, bytes) {
            // SAFETY: `slice` checked that the range is one live allocation, and nobody else knows
            // of it yet.
            unsafe { std::ptr::write_bytes(pointer, 0, bytes as usize) };
            // Variables without an initial value are zero.
            self.memory.mark_written(address, bytes);
        }
        Ok(ModuleVariable::Placed(address))
    }

    fn initialise(
        &mut self,
        variables: &HashMap<&str, ModuleVariable>,
        functions: &HashMap<&str, u32>,
    ) -> Result<(), LoadError> {
        let mut inner = Vec::new();
        for function in &self.tree.functions {
            collect(function.body.as_deref().unwrap_or(&[]), &mut inner);
        }
        for variable in self.tree.variables.iter().chain(inner) {
            let Some(ModuleVariable::Placed(address)) = variables.get(variable.name) else {
                continue;
            };
            let element = Type::parse(variable.ty).map_or(8, Type::bytes);
            let mut bytes = Vec::with_capacity(variable.init.len() * element as usize);
            for value in &variable.init {
                let value = match value {
                    Init::Int(value) if variable.ty == "f32" => {
                        u64::from((*value as i64 as f32).to_bits())
                    }
                    Init::Int(value) if variable.ty == "f64" => (*value as i64 as f64).to_bits(),
                    Init::Int(value) => *value,
                    Init::F32(bits) => u64::from(*bits),
                    Init::F64(bits) if element == 4 => {
                        u64::from((f64::from_bits(*bits) as f32).to_bits())
                    }
                    Init::F64(bits) => *bits,
                    Init::Address {
                        name,
                        offset,
                        mask_shift,
                    } => {
                        let base = match variables.get(name) {
                            Some(ModuleVariable::Placed(address)) => *address,
                            _ => match functions.get(name) {
                                Some(&index) => FUNCTION_BASE + u64::from(index) * 16,
                                None => {
                                    return Err(invalid(
                                        variable.line,
                                        format!("`{name}` has no address known at load"),
                                    ));
                                }
                            },
                        };
                        let value = base.wrapping_add_signed(*offset);
                        mask_shift.map_or(value, |shift| value >> shift & 0xff)
                    }
                };
                bytes.extend_from_slice(&value.to_le_bytes()[..element.min(8) as usize]);
            }
            let pointer = self
                .memory
                .slice(*address, bytes.len() as u64)
                .map_err(|_| {
                    invalid(
                        variable.line,
                        format!("`{}` has more initial values than room", variable.name),
                    )
                })?;
            // SAFETY: `slice` checked the range; the module isn't in use yet.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, bytes.len()) };
        }
        Ok(())
    }

    fn kernel(
        &self,
        scope: &ModuleScope<'a>,
        index: u32,
        binary_version: u32,
        files: &Arc<[(u32, String)]>,
    ) -> Result<Kernel, LoadError> {
        let function = &self.tree.functions[index as usize];
        let mut shared = KernelScope::default();
        shared.function(index);
        let mut program = Vec::new();
        while let Some(&next) = shared.program.get(program.len()) {
            program.push(lower(scope, &mut shared, next).map_err(|e| invalid(e.line, e.message))?);
            // A call by address may reach any function whose address the module has.
            if shared.indirect && program.len() == shared.program.len() {
                for (i, other) in self.tree.functions.iter().enumerate() {
                    if !other.entry && other.body.is_some() {
                        shared.function(i as u32);
                    }
                }
            }
        }
        let directive = |name: &str| {
            function
                .directives
                .iter()
                .find(|(found, _)| *found == name)
                .map(|(_, n)| n)
        };
        let shape = |numbers: &Vec<u64>| -> [u32; 3] {
            std::array::from_fn(|i| numbers.get(i).map_or(1, |&n| n.min(1 << 20) as u32))
        };
        let required_block = directive("reqntid").map(shape);
        let max_threads = required_block
            .or(directive("maxntid").map(shape))
            .map_or(THREADS_PER_BLOCK, |s| {
                s.iter().product::<u32>().min(THREADS_PER_BLOCK)
            });
        let local_bytes = program.iter().map(|f| f.frame_bytes).max().unwrap_or(0);
        let (params, program_registers) = (
            program[0]
                .params
                .iter()
                .map(|&(offset, size)| Param { offset, size })
                .collect(),
            program.iter().map(|f| f.pressure).max().unwrap_or(0),
        );
        Ok(Kernel {
            name: function.name.to_string(),
            params,
            static_shared: shared.shared_bytes,
            dynamic_align: shared.dynamic_align.max(16),
            local_bytes,
            registers: (program_registers + 8).next_multiple_of(8).clamp(16, 255),
            max_threads,
            required_block,
            required_cluster: directive("reqnctapercluster").map(shape),
            const_bytes: self.module.const_bytes,
            ptx_version: self.tree.version.0 * 10 + self.tree.version.1,
            binary_version,
            traits: super::Traits::of(&program),
            function_index: shared.program.clone(),
            program,
            files: files.clone(),
        })
    }
}

/// Variables in device memory that are declared inside functions.
fn collect<'a, 't>(statements: &'t [ast::Statement<'a>], out: &mut Vec<&'t Variable<'a>>) {
    for statement in statements {
        match statement {
            ast::Statement::Block(inner) => collect(inner, out),
            ast::Statement::Variable(variable)
                if matches!(variable.space, Space::Global | Space::Constant) =>
            {
                out.push(variable);
            }
            _ => {}
        }
    }
}
