//! Modules and libraries: PTX in, functions and variables out.
//!
//! The machine runs PTX. A cubin is accepted when it carries its PTX, as those that NVRTC and ptxas make
//! with `-lineinfo` or `-G` do (section `.nv_debug_ptx_txt`); so a program that compiles to a cubin for an
//! older driver runs here unchanged but for that flag. Other cubins and fat binaries are refused.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::Arc;

use super::entry::{Handle, Outcome, entries, put, put_if_wanted, say, text};
use super::errors::Code;
use super::link::Jit;
use super::state::{Driver, Function, Guard, LoadedModule, current, lock, ready, started};
use crate::{Kernel, LoadError, Module};

entries! {
    fn cuModuleLoad(module: *mut Handle, path: *const c_char) {
        let (driver, context) = current()?;
        let image = read(&text(path)?)?;
        load(driver, context, module, &image, &mut Jit::default())
    }

    fn cuModuleLoadData(module: *mut Handle, image: *const u8) {
        let (driver, context) = current()?;
        let image = image_at(image)?;
        load(driver, context, module, &image, &mut Jit::default())
    }

    fn cuModuleLoadDataEx(
        module: *mut Handle,
        image: *const u8,
        count: u32,
        options: *const u32,
        values: *mut usize,
    ) {
        let (driver, context) = current()?;
        let mut jit = Jit::read(count, options, values)?;
        let image = image_at(image)?;
        load(driver, context, module, &image, &mut jit)
    }

    fn cuModuleLoadFatBinary(_module: *mut Handle, _image: *const c_void) {
        ready()?;
        say(FATBIN);
        Err(Code::NO_BINARY_FOR_GPU)
    }

    fn cuModuleUnload(module: Handle) {
        let (mut driver, context) = current()?;
        if driver.modules.get(module)?.context != context {
            return Err(Code::INVALID_HANDLE);
        }
        driver.unload(module);
        Ok(())
    }

    fn cuModuleGetLoadingMode(mode: *mut u32) {
        started()?;
        // CU_MODULE_EAGER_LOADING.
        put(mode, 1)
    }

    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) {
        let (driver, _) = current()?;
        get_function(driver, function, module, name)
    }

    fn cuModuleGetFunctionCount(count: *mut u32, module: Handle) {
        let (driver, _) = current()?;
        put(count, driver.modules.get(module)?.module.kernels().len() as u32)
    }

    fn cuModuleEnumerateFunctions(functions: *mut Handle, count: u32, module: Handle) {
        let (driver, _) = current()?;
        enumerate(driver, functions, count, module)
    }

    fn cuModuleGetGlobal(address: *mut u64, bytes: *mut usize, module: Handle, name: *const c_char) {
        let (driver, _) = current()?;
        get_global(&driver, address, bytes, module, name)
    }

    fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: Handle, name: *const c_char) {
        let (driver, _) = current()?;
        get_global(&driver, address, bytes, module, name)
    }

    fn cuLibraryLoadData(
        library: *mut Handle,
        image: *const u8,
        options: *const u32,
        values: *mut usize,
        count: u32,
        _library_options: *const u32,
        _library_values: *const *mut c_void,
        _library_count: u32,
    ) {
        let driver = lock()?;
        let mut jit = Jit::read(count, options, values)?;
        let image = image_at(image)?;
        load(driver, 0, library, &image, &mut jit)
    }

    fn cuLibraryLoadFromFile(
        library: *mut Handle,
        path: *const c_char,
        options: *const u32,
        values: *mut usize,
        count: u32,
        _library_options: *const u32,
        _library_values: *const *mut c_void,
        _library_count: u32,
    ) {
        let driver = lock()?;
        let mut jit = Jit::read(count, options, values)?;
        let image = read(&text(path)?)?;
        load(driver, 0, library, &image, &mut jit)
    }

    fn cuLibraryUnload(library: Handle) {
        let mut driver = lock()?;
        if driver.modules.get(library)?.context != 0 {
            return Err(Code::INVALID_HANDLE);
        }
        driver.unload(library);
        Ok(())
    }

    fn cuLibraryGetKernel(kernel: *mut Handle, library: Handle, name: *const c_char) {
        get_function(lock()?, kernel, library, name)
    }

    fn cuLibraryGetKernelCount(count: *mut u32, library: Handle) {
        let driver = lock()?;
        put(count, driver.modules.get(library)?.module.kernels().len() as u32)
    }

    fn cuLibraryEnumerateKernels(kernels: *mut Handle, count: u32, library: Handle) {
        enumerate(lock()?, kernels, count, library)
    }

    fn cuLibraryGetModule(module: *mut Handle, library: Handle) {
        let (driver, _) = current()?;
        driver.modules.get(library)?;
        put(module, library)
    }

    fn cuLibraryGetGlobal(address: *mut u64, bytes: *mut usize, library: Handle, name: *const c_char) {
        let (driver, _) = current()?;
        get_global(&driver, address, bytes, library, name)
    }

    fn cuLibraryGetManaged(_address: *mut u64, _bytes: *mut usize, library: Handle, name: *const c_char) {
        let driver = lock()?;
        driver.modules.get(library)?;
        text(name)?;
        // Managed variables are an attribute of the fat binary's, which PTX alone does not have.
        Err(Code::NOT_FOUND)
    }

    fn cuLibraryGetUnifiedFunction(_function: *mut *mut c_void, library: Handle, name: *const c_char) {
        let driver = lock()?;
        driver.modules.get(library)?;
        text(name)?;
        Err(Code::NOT_FOUND)
    }

    fn cuKernelGetFunction(function: *mut Handle, kernel: Handle) {
        let (driver, _) = current()?;
        driver.functions.get(kernel)?;
        put(function, kernel)
    }

    fn cuKernelGetLibrary(library: *mut Handle, kernel: Handle) {
        let driver = lock()?;
        put(library, driver.functions.get(kernel)?.module)
    }

    fn cuFuncGetModule(module: *mut Handle, function: Handle) {
        let (driver, _) = current()?;
        put(module, driver.functions.get(function)?.module)
    }

    fn cuKernelGetName(name: *mut *const c_char, kernel: Handle) {
        let driver = lock()?;
        put(name, driver.functions.get(kernel)?.name.as_ptr())
    }

    fn cuFuncGetName(name: *mut *const c_char, function: Handle) {
        let driver = lock()?;
        put(name, driver.functions.get(function)?.name.as_ptr())
    }

    fn cuKernelGetParamInfo(kernel: Handle, index: usize, offset: *mut usize, bytes: *mut usize) {
        parameter(kernel, index, offset, bytes)
    }

    fn cuFuncGetParamInfo(function: Handle, index: usize, offset: *mut usize, bytes: *mut usize) {
        parameter(function, index, offset, bytes)
    }

    fn cuKernelGetParamCount(kernel: Handle, count: *mut usize) {
        let driver = lock()?;
        put(count, driver.functions.get(kernel)?.kernel.params.len())
    }

    fn cuFuncGetParamCount(function: Handle, count: *mut usize) {
        let driver = lock()?;
        put(count, driver.functions.get(function)?.kernel.params.len())
    }

    fn cuFuncIsLoaded(state: *mut u32, function: Handle) {
        lock()?.functions.get(function)?;
        // CU_FUNCTION_LOADING_STATE_LOADED.
        put(state, 1)
    }

    fn cuFuncLoad(function: Handle) {
        lock()?.functions.get(function).map(drop)
    }

    fn cuFuncGetAttribute(value: *mut c_int, attribute: u32, function: Handle) {
        let (driver, _) = current()?;
        put(value, driver.function_attribute(function, attribute)?)
    }

    fn cuKernelGetAttribute(value: *mut c_int, attribute: u32, kernel: Handle, device: c_int) {
        let driver = lock()?;
        super::device::check(device)?;
        put(value, driver.function_attribute(kernel, attribute)?)
    }

    fn cuFuncSetAttribute(function: Handle, attribute: u32, value: c_int) {
        let (mut driver, _) = current()?;
        driver.set_function_attribute(function, attribute, value)
    }

    fn cuKernelSetAttribute(attribute: u32, value: c_int, kernel: Handle, device: c_int) {
        let mut driver = lock()?;
        super::device::check(device)?;
        driver.set_function_attribute(kernel, attribute, value)
    }

    fn cuFuncSetCacheConfig(function: Handle, config: u32) {
        let (driver, _) = current()?;
        driver.functions.get(function)?;
        if config <= 3 { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }

    fn cuKernelSetCacheConfig(kernel: Handle, config: u32, device: c_int) {
        let driver = lock()?;
        super::device::check(device)?;
        driver.functions.get(kernel)?;
        if config <= 3 { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }

    fn cuFuncSetSharedMemConfig(function: Handle, config: u32) {
        let (driver, _) = current()?;
        driver.functions.get(function)?;
        if config <= 2 { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }
}

const FATBIN: &str = "a fat binary cannot be loaded; load PTX text, or a cubin that carries its PTX \
                      (compiled with -lineinfo)";

/// The most bytes of an image.
const LARGEST_IMAGE: u64 = 1 << 30;

/// # Safety
/// `module` must be null or writable.
unsafe fn load(
    mut driver: Guard,
    context: Handle,
    module: *mut Handle,
    image: &[u8],
    jit: &mut Jit,
) -> Outcome {
    if module.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    match driver.load(context, image) {
        Ok(handle) => {
            // SAFETY: `Jit::read` checked the caller's buffers; `module` is writable by the contract.
            unsafe {
                jit.finish("");
                put(module, handle)
            }
        }
        Err((code, sentence)) => {
            say(&sentence);
            // SAFETY: as above.
            unsafe { jit.finish(&sentence) };
            Err(code)
        }
    }
}

fn read(path: &str) -> Result<Vec<u8>, Code> {
    std::fs::read(path).map_err(|reason| {
        say(&format!(
            "{path}: {reason}; expected a file of PTX or a cubin"
        ));
        Code::FILE_NOT_FOUND
    })
}

/// A copy of the image at `image`: an ELF file by its own header, else text up to its NUL.
///
/// # Safety
/// `image` must be null or point to a whole image.
pub(super) unsafe fn image_at(image: *const u8) -> Result<Vec<u8>, Code> {
    if image.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let starts_with = |magic: &[u8]| {
        // SAFETY: a byte is only read after those before it matched, so within the image.
        magic
            .iter()
            .enumerate()
            .all(|(index, &byte)| unsafe { *image.add(index) } == byte)
    };
    if starts_with(b"\x7fELF") {
        // SAFETY: an ELF file begins with a header of 64 bytes, which tells where its last table ends.
        let header = unsafe { std::slice::from_raw_parts(image, 64) };
        let end = elf_end(header)
            .filter(|&end| end <= LARGEST_IMAGE)
            .ok_or(Code::INVALID_IMAGE)?;
        // SAFETY: the file's own word for its size.
        return Ok(unsafe { std::slice::from_raw_parts(image, end as usize) }.to_vec());
    }
    if starts_with(&FATBIN_MAGIC) || starts_with(&FATBIN_WRAPPER_MAGIC) {
        say(FATBIN);
        return Err(Code::NO_BINARY_FOR_GPU);
    }
    // SAFETY: text images end in NUL, says the interface.
    Ok(unsafe { std::ffi::CStr::from_ptr(image.cast()) }
        .to_bytes()
        .to_vec())
}

/// First bytes of a fat binary, and of the structure that points to one.
const FATBIN_MAGIC: [u8; 4] = [0x50, 0xed, 0x55, 0xba];
const FATBIN_WRAPPER_MAGIC: [u8; 4] = [0xb1, 0x43, 0x62, 0x46];

fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let mut value = [0; 8];
    value[..width].copy_from_slice(bytes.get(at..at.checked_add(width)?)?);
    Some(u64::from_le_bytes(value))
}

/// Where an ELF file's section or program header table ends, whichever is later: its size.
fn elf_end(header: &[u8]) -> Option<u64> {
    let table = |offset, entry, count| {
        let bytes = number(header, entry, 2)? * number(header, count, 2)?;
        number(header, offset, 8)?.checked_add(bytes)
    };
    Some(
        table(0x28, 0x3a, 0x3c)?
            .max(table(0x20, 0x36, 0x38)?)
            .max(64),
    )
}

/// The PTX that a cubin carries, lines again ended by newlines.
///
/// # Errors
/// A sentence that says what is missing and how to get it.
fn ptx_of_cubin(cubin: &[u8]) -> Result<Vec<u8>, String> {
    let damaged = || "the cubin's section table is damaged".to_owned();
    let section = |index: u64| -> Option<(u64, usize, usize)> {
        let at = number(cubin, 0x28, 8)?.checked_add(index.checked_mul(64)?)?;
        let at = usize::try_from(at).ok()?;
        let field = |offset, width| number(cubin, at.checked_add(offset)?, width);
        Some((
            field(0, 4)?,
            field(0x18, 8)?.try_into().ok()?,
            field(0x20, 8)?.try_into().ok()?,
        ))
    };
    let count = number(cubin, 0x3c, 2).ok_or_else(damaged)?;
    let names = number(cubin, 0x3e, 2)
        .and_then(section)
        .ok_or_else(damaged)?
        .1;
    for index in 0..count {
        let (name, offset, bytes) = section(index).ok_or_else(damaged)?;
        let name = names.saturating_add(name as usize);
        if !cubin
            .get(name..)
            .is_some_and(|rest| rest.starts_with(b".nv_debug_ptx_txt\0"))
        {
            continue;
        }
        let text = offset
            .checked_add(bytes)
            .and_then(|end| cubin.get(offset..end))
            .ok_or_else(damaged)?;
        return Ok(text
            .iter()
            .map(|&byte| if byte == 0 { b'\n' } else { byte })
            .collect());
    }
    Err("the cubin holds machine code only, which softcuda cannot run; compile it with -lineinfo, so that it \
         carries its PTX, or load PTX"
        .to_owned())
}

/// The number of the first `.target sm_N` in PTX text.
fn target_of(ptx: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(ptx);
    let (_, rest) = text.split_once(".target")?;
    let digits = rest.trim_start().strip_prefix("sm_")?;
    digits
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// # Safety
/// `function` must be null or writable, `name` null or a string.
unsafe fn get_function(
    mut driver: Guard,
    function: *mut Handle,
    module: Handle,
    name: *const c_char,
) -> Outcome {
    // SAFETY: this function's contract.
    let name = unsafe { text(name)? };
    let handle = driver.function(module, &name)?;
    // SAFETY: this function's contract.
    unsafe { put(function, handle) }
}

/// # Safety
/// `functions` must be null or have room for `count` handles.
unsafe fn enumerate(
    mut driver: Guard,
    functions: *mut Handle,
    count: u32,
    module: Handle,
) -> Outcome {
    let kernels = driver.modules.get(module)?.module.kernels();
    let names: Vec<String> = kernels.iter().map(|kernel| kernel.name.clone()).collect();
    for (index, name) in names.iter().take(count as usize).enumerate() {
        let handle = driver.function(module, name)?;
        // SAFETY: `index < count` of this function's contract; null stays null.
        unsafe {
            let slot = if functions.is_null() {
                functions
            } else {
                functions.add(index)
            };
            put(slot, handle)?;
        }
    }
    Ok(())
}

/// # Safety
/// The output pointers must be null or writable, `name` null or a string.
unsafe fn get_global(
    driver: &Driver,
    address: *mut u64,
    bytes: *mut usize,
    module: Handle,
    name: *const c_char,
) -> Outcome {
    // SAFETY: this function's contract.
    let name = unsafe { text(name)? };
    let variable = driver
        .modules
        .get(module)?
        .module
        .global(&name)
        .ok_or(Code::NOT_FOUND)?;
    // SAFETY: this function's contract.
    unsafe {
        put_if_wanted(address, variable.0);
        put_if_wanted(bytes, variable.1 as usize);
    }
    Ok(())
}

/// # Safety
/// Both output pointers must be null or writable.
unsafe fn parameter(
    function: Handle,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> Outcome {
    let driver = lock()?;
    let parameters = &driver.functions.get(function)?.kernel.params;
    let parameter = parameters.get(index).ok_or(Code::INVALID_VALUE)?;
    // SAFETY: this function's contract.
    unsafe {
        put(offset, parameter.offset as usize)?;
        put_if_wanted(bytes, parameter.size as usize);
    }
    Ok(())
}

impl Driver {
    /// Loads an image into `context`, or as a library where that is 0.
    fn load(&mut self, context: Handle, image: &[u8]) -> Result<Handle, (Code, String)> {
        let mut options = self.machine.options.clone();
        let cubin = image.starts_with(b"\x7fELF");
        let carried;
        let ptx = if cubin {
            carried =
                ptx_of_cubin(image).map_err(|sentence| (Code::NO_BINARY_FOR_GPU, sentence))?;
            self.check_cubin_target(&carried)?;
            // Machine code runs on every driver that knows the device; its PTX is never compiled there.
            options.ptx_version = (u32::MAX, u32::MAX);
            carried.as_slice()
        } else if self.settings.failures.old_driver {
            let sentence = "planted failure: the PTX is too new (SOFTCUDA_FAIL=old-driver)";
            return Err((Code::UNSUPPORTED_PTX_VERSION, sentence.to_owned()));
        } else {
            image
        };
        let module = Module::load(ptx, &self.settings.target, &self.memory, &options)
            .map_err(|error| (code_of(&error), error.to_string()))?;
        self.profile.examine(self.settings, &module, ptx);
        Ok(self.modules.add(LoadedModule {
            context,
            module,
            functions: HashMap::new(),
        }))
    }

    /// Machine code runs on devices of its major version from its minor version on.
    fn check_cubin_target(&self, ptx: &[u8]) -> Result<(), (Code, String)> {
        let device = self.settings.target.sm;
        match target_of(ptx) {
            Some(sm) if sm / 10 == device / 10 && sm <= device => Ok(()),
            Some(sm) => Err((
                Code::NO_BINARY_FOR_GPU,
                format!(
                    "a cubin for sm_{sm} does not run on sm_{device}; compile it for sm_{device}"
                ),
            )),
            None => Err((
                Code::INVALID_IMAGE,
                "the cubin's PTX names no .target".to_owned(),
            )),
        }
    }

    /// The handle of a module's function, the same each time.
    fn function(&mut self, module: Handle, name: &str) -> Result<Handle, Code> {
        let loaded = self.modules.get(module)?;
        if let Some(&handle) = loaded.functions.get(name) {
            return Ok(handle);
        }
        let kernel: Arc<Kernel> = loaded.module.kernel(name).ok_or(Code::NOT_FOUND)?;
        let c_name = CString::new(name).map_err(|_| Code::NOT_FOUND)?;
        let dynamic = self
            .settings
            .target
            .shared_per_block
            .saturating_sub(kernel.static_shared);
        let handle = self.functions.add(Function {
            module,
            kernel,
            name: c_name.into(),
            max_dynamic_shared: dynamic,
            attributes: HashMap::new(),
        });
        self.modules
            .get_mut(module)?
            .functions
            .insert(name.to_owned(), handle);
        Ok(handle)
    }

    /// Unloads a module: its functions' handles go stale, its variables' memory is freed.
    pub fn unload(&mut self, module: Handle) {
        if let Ok(module) = self.modules.remove(module) {
            for function in module.functions.values() {
                self.functions.remove(*function).ok();
            }
        }
    }

    fn function_attribute(&self, function: Handle, attribute: u32) -> Result<c_int, Code> {
        let function = self.functions.get(function)?;
        let kernel = &function.kernel;
        let kept = |default| {
            function
                .attributes
                .get(&attribute)
                .copied()
                .unwrap_or(default)
        };
        Ok(match attribute {
            0 => kernel.max_threads as c_int,
            1 => kernel.static_shared as c_int,
            2 => kernel.const_bytes as c_int,
            3 => kernel.local_bytes as c_int,
            4 => kernel.registers as c_int,
            5 => kernel.ptx_version as c_int,
            6 => self.settings.target.sm as c_int,
            7 => 0,
            8 => function.max_dynamic_shared as c_int,
            9 => kept(-1),
            10..=16 => kept(0),
            _ => return Err(Code::INVALID_VALUE),
        })
    }

    fn set_function_attribute(
        &mut self,
        function: Handle,
        attribute: u32,
        value: c_int,
    ) -> Outcome {
        let most = self.settings.target.shared_per_block_optin;
        let function = self.functions.get_mut(function)?;
        match attribute {
            8 => {
                let value = u32::try_from(value).map_err(|_| Code::INVALID_VALUE)?;
                if value > most.saturating_sub(function.kernel.static_shared) {
                    return Err(Code::INVALID_VALUE);
                }
                function.max_dynamic_shared = value;
            }
            9 if (-1..=100).contains(&value) => drop(function.attributes.insert(9, value)),
            11..=15 if value >= 0 => drop(function.attributes.insert(attribute, value)),
            _ => return Err(Code::INVALID_VALUE),
        }
        Ok(())
    }
}

fn code_of(error: &LoadError) -> Code {
    match error {
        LoadError::Invalid { .. } => Code::INVALID_PTX,
        LoadError::UnsupportedVersion { .. } => Code::UNSUPPORTED_PTX_VERSION,
        LoadError::WrongTarget { .. } => Code::NO_BINARY_FOR_GPU,
        LoadError::NotPtx => Code::INVALID_IMAGE,
        LoadError::OutOfMemory(_) => Code::OUT_OF_MEMORY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_cubins_are_refused_with_a_sentence() {
        for length in [0, 4, 63, 64] {
            let mut cubin = vec![0xff; length];
            cubin
                .iter_mut()
                .zip(b"\x7fELF")
                .for_each(|(byte, magic)| *byte = *magic);
            assert!(ptx_of_cubin(&cubin).is_err());
        }
    }

    #[test]
    fn the_target_of_ptx_is_its_number() {
        assert_eq!(
            target_of(b".version 8.0\n.target sm_90a, debug\n"),
            Some(90)
        );
        assert_eq!(target_of(b".target compute_90"), None);
    }
}
