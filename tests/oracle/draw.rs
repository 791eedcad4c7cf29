//! Numbers drawn from a name, the same here and in `tests/torch/oracle_values.py`.
//!
//! Element i of the array `name` is a uniform number from SplitMix64 at FNV-1a(name) + i: no state,
//! so the order in which a network asks for its weights does not matter.

/// `len` uniform numbers in [−1, 1).
pub fn uniform(name: &str, len: usize) -> Vec<f64> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (0..len as u64)
        .map(|i| split_mix(seed.wrapping_add(i)))
        .collect()
}

fn split_mix(state: u64) -> f64 {
    let mut z = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

#[test]
fn draws_are_spread_over_the_interval_and_differ_by_name() {
    let draws = uniform("a", 4000);
    assert!(draws.iter().all(|x| (-1.0..1.0).contains(x)));
    assert!(draws.iter().sum::<f64>().abs() / 4000.0 < 0.05);
    assert_ne!(draws[..4], uniform("b", 4));
    assert_eq!(draws[..4], uniform("a", 4));
}
