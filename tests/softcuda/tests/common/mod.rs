//! A device for tests: memory, machine, one module.

#![allow(dead_code)]

use std::sync::{Arc, Mutex};

use softcuda::{Checks, Counters, Fault, Launch, Machine, Memory, Module, Options, Target};

/// A machine with one module loaded.
pub struct Device {
    pub memory: Arc<Memory>,
    pub machine: Machine,
    pub module: Module,
    pub printed: Arc<Mutex<Vec<u8>>>,
}

impl Device {
    pub fn new(ptx: &str, options: Options) -> Device {
        Device::on(ptx, Target::default(), options)
    }

    pub fn on(ptx: &str, target: Target, options: Options) -> Device {
        let memory = Memory::new(1 << 30, &options.checks);
        let module = match Module::load(ptx.as_bytes(), &target, &memory, &options) {
            Ok(module) => module,
            Err(error) => panic!("{error}"),
        };
        let mut machine = Machine::new(target, memory.clone(), options);
        let printed = Arc::new(Mutex::new(Vec::new()));
        let sink = printed.clone();
        machine.output = Box::new(move |bytes| sink.lock().unwrap().extend_from_slice(bytes));
        Device {
            memory,
            machine,
            module,
            printed,
        }
    }

    /// A device buffer with these values.
    pub fn buffer<T: Copy>(&self, values: &[T]) -> u64 {
        let bytes = size_of_val(values);
        let address = self.empty(bytes);
        self.write(address, values);
        address
    }

    /// An uninitialised device buffer.
    pub fn empty(&self, bytes: usize) -> u64 {
        self.memory.allocate(bytes as u64, "buffer").unwrap()
    }

    pub fn write<T: Copy>(&self, address: u64, values: &[T]) {
        let bytes = size_of_val(values);
        let to = self.memory.slice(address, bytes as u64).unwrap();
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr().cast::<u8>(), to, bytes) };
        self.memory.mark_written(address, bytes as u64);
    }

    pub fn read<T: Copy + Default>(&self, address: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        let bytes = size_of_val(values.as_slice());
        let from = self.memory.slice(address, bytes as u64).unwrap();
        unsafe { std::ptr::copy_nonoverlapping(from, values.as_mut_ptr().cast::<u8>(), bytes) };
        values
    }

    pub fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        arguments: &[Argument],
    ) -> Result<Counters, Fault> {
        self.launch_with(kernel, grid, block, shared, arguments, false)
    }

    pub fn launch_with(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        arguments: &[Argument],
        cooperative: bool,
    ) -> Result<Counters, Fault> {
        self.launch_in(kernel, grid, block, shared, arguments, cooperative, [1; 3])
    }

    #[allow(clippy::too_many_arguments, reason = "a launch has as many parts")]
    pub fn launch_in(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        arguments: &[Argument],
        cooperative: bool,
        cluster: [u32; 3],
    ) -> Result<Counters, Fault> {
        let kernel = self
            .module
            .kernel(kernel)
            .expect("the module has the kernel");
        let size = kernel.params.last().map_or(0, |p| p.offset + p.size) as usize;
        let mut params = vec![0; size];
        for (param, argument) in kernel.params.iter().zip(arguments) {
            let bytes = argument.bytes();
            assert_eq!(bytes.len(), param.size as usize);
            params[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let launch = Launch {
            grid,
            block,
            cluster,
            dynamic_shared: shared,
            params,
            cooperative,
        };
        self.machine.launch(&kernel, &launch)
    }
}

/// A kernel argument.
pub enum Argument {
    Pointer(u64),
    Int(i32),
    Float(f32),
    Double(f64),
}

impl Argument {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Argument::Pointer(value) => value.to_le_bytes().to_vec(),
            Argument::Int(value) => value.to_le_bytes().to_vec(),
            Argument::Float(value) => value.to_le_bytes().to_vec(),
            Argument::Double(value) => value.to_le_bytes().to_vec(),
        }
    }
}

/// Options with these checks.
pub fn options(checks: Checks) -> Options {
    Options {
        checks,
        ..Options::default()
    }
}

/// A reproducible sequence of numbers.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn bits(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mut z = self.0;
        z = (z ^ z >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        z ^ z >> 32
    }

    /// Uniform in [−1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
