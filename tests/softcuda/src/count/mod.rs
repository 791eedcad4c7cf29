//! The counters of a launch.

/// What a launch did. Names follow Nsight Compute where it has one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Global memory read by the launch: sorted, disjoint ranges `(first address, bytes)`,
    /// one or a few for each allocation.
    pub reads: Vec<(u64, u64)>,
    /// Global memory written by the launch, as `reads`.
    pub writes: Vec<(u64, u64)>,
}
