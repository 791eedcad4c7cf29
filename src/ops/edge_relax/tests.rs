//! The weights of a node's edges; the passes are those of whole PC-DARTS supernets, on the CPU against the
//! oracle (`tests/oracle/engine/supernets.rs`) and here on the device against the CPU.

use crate::oracle::engine::ops::{check_variant_kernels, partial_variant};

#[test]
fn four_passes_of_edge_relax_on_the_device_match_the_cpu() {
    check_variant_kernels(&partial_variant(), 4, "edge_relax");
}
