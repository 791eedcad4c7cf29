//! Loads PTX files and lists their kernels, or says why they can't be loaded: `load FILE.ptx…`

use softcuda::{Checks, Memory, Module, Options, Target};

fn main() {
    let target = Target::of(120).unwrap_or_default();
    let memory = Memory::new(1 << 30, &Checks::NONE);
    for path in std::env::args().skip(1) {
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        let start = std::time::Instant::now();
        match Module::load(&text, &target, &memory, &Options::default()) {
            Ok(module) => {
                println!("{path}: loaded in {:?}", start.elapsed());
                for kernel in module.kernels() {
                    println!(
                        "    {}: {} registers, {} bytes shared, {} bytes local",
                        kernel.name, kernel.registers, kernel.static_shared, kernel.local_bytes
                    );
                }
            }
            Err(error) => println!("{path}: {error}"),
        }
    }
}
