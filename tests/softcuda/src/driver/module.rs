//! Modules and libraries: PTX in, kernels and variables out.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;

use super::entry::{Handle, Outcome, entries, put, put_if_wanted, say, text};
use super::errors::Code;
use super::image::{FATBIN, image_at, ptx_of_cubin, read, target_of};
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
}

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
