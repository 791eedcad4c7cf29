//! Functions and kernels: names, parameters, attributes.

use std::ffi::{c_char, c_int};

use super::entry::{Handle, Outcome, entries, put, put_if_wanted};
use super::errors::Code;
use super::state::{Driver, current, lock};

entries! {
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
