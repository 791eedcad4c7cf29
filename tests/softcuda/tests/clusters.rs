//! What clusters of blocks get wrong: reading the shared memory of a block that has gone, a rank that there isn't,
//! a barrier that not all come to. Each kernel takes the number of the mistake; 0 is the clean twin.

mod common;

use common::{Argument, Device, options};
use softcuda::{Checks, FaultKind};

/// Blocks write their rank, meet, read the next block's word, and meet again.
const NEIGHBOURS: &str = "
.version 7.8
.target sm_90
.address_size 64
.visible .entry neighbours(.param .u64 out, .param .u32 mistake)
{
    .shared .align 4 .b32 word;
    .reg .pred %p<5>;
    .reg .b32 %r<12>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [mistake];
    setp.eq.u32 %p1, %r1, 1;
    setp.eq.u32 %p2, %r1, 2;
    setp.eq.u32 %p3, %r1, 3;
    mov.u32 %r2, %cluster_ctarank;
    mov.u32 %r3, word;
    @!%p2 st.shared.u32 [%r3], %r2;
    setp.eq.and.u32 %p4, %r2, 1, %p3;
    @%p4 bra SECOND;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    setp.eq.and.u32 %p4, %r2, 3, %p1;
    @%p4 exit;
    add.u32 %r4, %r2, 1;
    and.b32 %r4, %r4, 3;
    setp.eq.u32 %p4, %r1, 4;
    @%p4 add.u32 %r4, %r4, 9;
    mapa.shared::cluster.u32 %r5, %r3, %r4;
    ld.shared::cluster.u32 %r6, [%r5];
    getctarank.shared::cluster.u32 %r7, %r5;
    mad.lo.u32 %r6, %r7, 16, %r6;
    mov.u32 %r8, %ctaid.x;
    mul.wide.u32 %rd2, %r8, 4;
    add.u64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r6;
SECOND:
    barrier.cluster.wait.aligned;
    ret;
}
";

fn run(mistake: i32) -> Result<Vec<u32>, softcuda::Fault> {
    // The barrier before the end: arrival and waiting, unless the mistake is to wait alone.
    let ptx = NEIGHBOURS.replace(
        "    st.global.u32 [%rd3], %r6;\n",
        "    st.global.u32 [%rd3], %r6;\n    barrier.cluster.arrive.aligned;\n",
    );
    let device = Device::new(&ptx, options(Checks::ALL));
    let out = device.buffer(&[0u32; 8]);
    let arguments = [Argument::Pointer(out), Argument::Int(mistake)];
    device.launch_in(
        "neighbours",
        [8, 1, 1],
        [32, 1, 1],
        0,
        &arguments,
        false,
        [4, 1, 1],
    )?;
    Ok(device.read(out, 8))
}

#[test]
fn blocks_of_a_cluster_read_each_others_shared_memory() {
    let ranks = [1, 2, 3, 0].map(|next| next * 17);
    assert_eq!(run(0).unwrap(), [ranks, ranks].concat());
}

fn fault(mistake: i32, kind: FaultKind, words: &str) {
    let found = run(mistake).unwrap_err();
    assert_eq!(found.kind, kind, "{found}");
    assert!(found.text.contains(words), "{found}");
}

#[test]
fn reading_the_shared_memory_of_a_block_that_has_exited_is_found() {
    fault(1, FaultKind::IllegalAddress, "which has exited");
}

#[test]
fn reading_what_the_other_block_has_not_written_is_found() {
    fault(2, FaultKind::Uninitialised, "another block's shared memory");
}

#[test]
fn waiting_for_a_clusters_barrier_without_arriving_is_found() {
    fault(3, FaultKind::Barrier, "without having arrived");
}

#[test]
fn a_rank_that_the_cluster_does_not_have_is_found() {
    fault(4, FaultKind::IllegalAddress, "of a cluster of 4 blocks");
}
