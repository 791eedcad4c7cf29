//! How large the processor's last cache is.

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Bytes of the last-level cache, as the processor tells them; 0 where it does not.
pub fn last_level() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        // Leaf 4 is Intel's; AMD has the same table in a leaf of its own.
        [(0, 4), (0x8000_0000, 0x8000_001D)]
            .into_iter()
            .filter(|&(first, leaf)| cpuid(first, 0)[0] >= leaf)
            .map(|(_, leaf)| largest(leaf))
            .max()
            .unwrap_or(0)
    })
}

fn cpuid(leaf: u32, sub_leaf: u32) -> [u32; 4] {
    #[allow(unused_unsafe, reason = "not every compiler asks for it")]
    // SAFETY: every x86-64 processor has the instruction, which reads registers alone.
    let found = unsafe {
        match sub_leaf {
            0 => __cpuid(leaf),
            _ => __cpuid_count(leaf, sub_leaf),
        }
    };
    [found.eax, found.ebx, found.ecx, found.edx]
}

/// The largest cache in the table at `leaf`: a sub-leaf each, until one has type 0.
fn largest(leaf: u32) -> usize {
    let caches = (0..16).map(|sub_leaf| cpuid(leaf, sub_leaf));
    let caches = caches.take_while(|[eax, ..]| eax & 0x1F != 0);
    let bytes = caches.map(|[_, ebx, ecx, _]| {
        let field = |from: u32, bits: u32| ((ebx >> from) & ((1 << bits) - 1)) as usize + 1;
        let (line, partitions, ways) = (field(0, 12), field(12, 10), field(22, 10));
        line * partitions * ways * (ecx as usize + 1)
    });
    bytes.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cache_is_the_one_that_the_system_knows() {
        let folder = "/sys/devices/system/cpu/cpu0/cache";
        let size = |index: u32| {
            let text = std::fs::read_to_string(format!("{folder}/index{index}/size")).ok()?;
            text.trim().strip_suffix('K')?.parse::<usize>().ok()
        };
        let Some(known) = (0..8).map_while(size).max() else {
            println!("skipped: {folder} does not say how large the caches are");
            return;
        };
        assert_eq!(last_level(), known << 10);
    }
}
