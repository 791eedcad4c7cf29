//! A program of `programs/` on the device, and a short way to launch its kernels.

#![allow(dead_code)] // each test binary uses its part

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr};

use crate::support::compile;

/// A program on the device.
pub struct Program {
    /// The default stream.
    pub stream: Arc<CudaStream>,
    /// Its kernels and variables.
    pub module: Arc<CudaModule>,
}

impl Program {
    /// Compiles and loads `programs/NAME`.
    pub fn load(name: &str) -> Program {
        let path = format!("{}/programs/{name}", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(&path).unwrap();
        let context = CudaContext::new(0).unwrap();
        let module = context.load_module(compile(name, &source, &[])).unwrap();
        Program {
            stream: context.default_stream(),
            module,
        }
    }

    /// A kernel.
    pub fn function(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).unwrap()
    }

    /// Copies to the device.
    pub fn put<T: DeviceRepr>(&self, host: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(host).unwrap()
    }

    /// Copies from the device.
    pub fn get<T: DeviceRepr + Clone + Default>(&self, device: &CudaSlice<T>) -> Vec<T> {
        self.stream.clone_dtoh(device).unwrap()
    }

    /// Room for `n` elements that nothing has written.
    pub fn room<T: DeviceRepr>(&self, n: usize) -> CudaSlice<T> {
        // SAFETY: the kernels write it first; softcuda would tell.
        unsafe { self.stream.alloc(n).unwrap() }
    }
}

/// Launches `function` of a program: `launch!(program, "name", grid, block, arguments…)`.
macro_rules! launch {
    ($program:expr, $name:expr, $grid:expr, $block:expr, $($argument:expr),* $(,)?) => {{
        use cudarc::driver::PushKernelArg as _;
        let function = $program.function($name);
        let shape = cudarc::driver::LaunchConfig { grid_dim: $grid, block_dim: $block, shared_mem_bytes: 0 };
        // SAFETY: the arguments are the kernel's parameters; softcuda watches the accesses.
        unsafe { $program.stream.launch_builder(&function)$(.arg($argument))*.launch(shape) }.unwrap();
    }};
}
pub(crate) use launch;
