//! Planted faults: each check finds its own, and its clean twin stays silent.

mod common;

use common::Argument::{Int, Pointer};
use common::{Device, options};
use softcuda::{Checks, Fault, FaultKind, Options};

const PTX: &str = include_str!("fixtures/faults.ptx");
const SOURCE: &str = include_str!("fixtures/faults.cu");

fn device() -> Device {
    Device::new(PTX, Options::default())
}

/// `faults.cu:LINE` of the line that holds `text`.
fn place(text: &str) -> String {
    let line = SOURCE
        .lines()
        .position(|line| line.contains(text))
        .expect("the source has it");
    format!("faults.cu:{}", line + 1)
}

fn assert_finding(result: Result<softcuda::Counters, Fault>, kind: FaultKind, words: &[&str]) {
    let fault = result.expect_err("the fault should be found");
    assert_eq!(fault.kind, kind, "{fault}");
    for word in words {
        assert!(fault.text.contains(word), "no `{word}` in: {fault}");
    }
}

#[test]
fn an_out_of_bounds_write_names_line_thread_and_allocation() {
    let d = device();
    let x = d.empty(4 * 40);
    let args = [Pointer(x), Int(1)];
    d.launch("out_of_bounds", [1, 1, 1], [40, 1, 1], 0, &args)
        .unwrap();
    let line = place("KERNEL out_of_bounds");
    assert_finding(
        d.launch("out_of_bounds", [1, 1, 1], [64, 1, 1], 0, &args),
        FaultKind::IllegalAddress,
        &[
            "out-of-bounds",
            &line,
            "thread (40,0,0)",
            "block (0,0,0)",
            "`buffer`",
            "160 bytes",
        ],
    );
}

#[test]
fn a_misaligned_write_is_found() {
    let d = device();
    let x = d.empty(128);
    d.launch("misaligned", [1, 1, 1], [1, 1, 1], 0, &[Pointer(x)])
        .unwrap();
    assert_finding(
        d.launch("misaligned", [1, 1, 1], [2, 1, 1], 0, &[Pointer(x)]),
        FaultKind::MisalignedAddress,
        &["misaligned", "thread (1,0,0)", &place("KERNEL misaligned")],
    );
}

#[test]
fn use_after_free_is_found() {
    let d = device();
    let (x, out) = (d.buffer(&[1i32; 32]), d.empty(128));
    let args = [Pointer(x), Pointer(out)];
    d.launch("read_global", [1, 1, 1], [32, 1, 1], 0, &args)
        .unwrap();
    d.memory.free(x).unwrap();
    assert_finding(
        d.launch("read_global", [1, 1, 1], [32, 1, 1], 0, &args),
        FaultKind::IllegalAddress,
        &["use after free", "`buffer`", "freed"],
    );
}

#[test]
fn uninitialised_reads_are_found_in_every_space() {
    let d = device();
    let (x, out) = (d.empty(128), d.empty(256));
    d.write(x, &[1i32; 31]);
    let args = [Pointer(x), Pointer(out)];
    d.launch("read_global", [1, 1, 1], [31, 1, 1], 0, &args)
        .unwrap();
    assert_finding(
        d.launch("read_global", [1, 1, 1], [32, 1, 1], 0, &args),
        FaultKind::Uninitialised,
        &["uninitialised", "thread (31,0,0)"],
    );
    d.launch(
        "uninitialised_shared",
        [1, 1, 1],
        [64, 1, 1],
        0,
        &[Pointer(out), Int(1)],
    )
    .unwrap();
    assert_finding(
        d.launch(
            "uninitialised_shared",
            [1, 1, 1],
            [64, 1, 1],
            0,
            &[Pointer(out), Int(0)],
        ),
        FaultKind::Uninitialised,
        &["shared memory", "thread (58,0,0)"],
    );
    d.write(out, &[3i32; 64]);
    d.launch(
        "uninitialised_local",
        [1, 1, 1],
        [1, 1, 1],
        0,
        &[Pointer(out), Int(4)],
    )
    .unwrap();
    assert_finding(
        d.launch(
            "uninitialised_local",
            [1, 1, 1],
            [1, 1, 1],
            0,
            &[Pointer(out), Int(3)],
        ),
        FaultKind::Uninitialised,
        &["local memory"],
    );
}

#[test]
fn shared_and_local_bounds_are_kept() {
    let d = device();
    let out = d.empty(256);
    let launch = |n: i32| {
        d.launch(
            "shared_out_of_bounds",
            [1, 1, 1],
            [64, 1, 1],
            256,
            &[Pointer(out), Int(n)],
        )
    };
    launch(0).unwrap();
    assert_finding(
        launch(1),
        FaultKind::IllegalAddress,
        &["shared memory", "thread (63,0,0)"],
    );
    let local = |k: i32| {
        d.launch(
            "local_out_of_bounds",
            [1, 1, 1],
            [1, 1, 1],
            0,
            &[Pointer(out), Int(k)],
        )
    };
    local(7).unwrap();
    assert_finding(local(100_000), FaultKind::IllegalAddress, &["local memory"]);
}

#[test]
fn shared_races_name_both_parties() {
    let d = device();
    let out = d.empty(512);
    assert_finding(
        d.launch("shared_race", [1, 1, 1], [64, 1, 1], 0, &[Pointer(out)]),
        FaultKind::Race,
        &[
            "race: write",
            "and read by thread",
            "faults.cu:",
            "without a barrier",
        ],
    );
    d.launch(
        "shared_race_clean",
        [1, 1, 1],
        [64, 1, 1],
        0,
        &[Pointer(out)],
    )
    .unwrap();
    let war = |clean: i32| {
        d.launch(
            "shared_write_after_read",
            [1, 1, 1],
            [64, 1, 1],
            0,
            &[Pointer(out), Int(clean)],
        )
    };
    assert_finding(
        war(0),
        FaultKind::Race,
        // Either of the two may come first.
        &["race: ", "read", "write", "by thread", "without a barrier"],
    );
    war(1).unwrap();
    d.launch(
        "same_value_by_all",
        [1, 1, 1],
        [128, 1, 1],
        0,
        &[Pointer(out)],
    )
    .unwrap();
    let warp = |clean: i32| {
        d.launch(
            "warp_race",
            [1, 1, 1],
            [32, 1, 1],
            0,
            &[Pointer(out), Int(clean)],
        )
    };
    assert_finding(warp(0), FaultKind::Race, &["race"]);
    warp(1).unwrap();
    d.launch("shared_lock", [1, 1, 1], [128, 1, 1], 0, &[Pointer(out)])
        .unwrap();
    assert_eq!(d.read::<i32>(out, 1), [32 + 64 + 96]);
    d.launch("named_barriers", [1, 1, 1], [128, 1, 1], 0, &[Pointer(out)])
        .unwrap();
    assert_finding(
        d.launch(
            "named_barriers_race",
            [1, 1, 1],
            [128, 1, 1],
            0,
            &[Pointer(out)],
        ),
        FaultKind::Race,
        &["race"],
    );
}

#[test]
fn races_between_blocks_are_found_at_any_number_of_cores() {
    for threads in [1, 3] {
        let d = Device::new(
            PTX,
            Options {
                threads,
                ..Options::default()
            },
        );
        let x = d.buffer(&[0i32; 4096]);
        let y = d.buffer(&[0i32; 4096]);
        let write = |shift: i32| {
            d.launch(
                "global_race",
                [8, 1, 1],
                [96, 1, 1],
                0,
                &[Pointer(x), Int(shift)],
            )
        };
        write(0).unwrap();
        assert_finding(
            write(-1),
            FaultKind::Race,
            &["race: write", "block (", "`buffer`"],
        );
        let read = |to: u64, shift: i32| {
            let args = [Pointer(x), Pointer(to), Int(shift)];
            d.launch("global_read_race", [8, 1, 1], [100, 1, 1], 0, &args)
        };
        read(y, 37).unwrap();
        read(x, 0).unwrap();
        assert_finding(read(x, 100), FaultKind::Race, &["race"]);
        assert_finding(
            d.launch("in_place_stencil", [8, 1, 1], [64, 1, 1], 0, &[Pointer(x)]),
            FaultKind::Race,
            &["race", "faults.cu:"],
        );
        // All blocks write the same value: the result is the same in any order.
        d.launch(
            "same_value_by_blocks",
            [9, 1, 1],
            [64, 1, 1],
            0,
            &[Pointer(x)],
        )
        .unwrap();
        // Blocks that write neighbouring bytes of one word don't race.
        d.launch(
            "bytes_of_words",
            [9, 1, 1],
            [64, 1, 1],
            0,
            &[Pointer(x), Int(37)],
        )
        .unwrap();
    }
}

#[test]
fn fences_and_atomics_order_blocks_and_a_missing_fence_is_found() {
    let d = device();
    let (partial, out) = (d.empty(4 * 64), d.empty(4));
    let launch = |fenced: i32| {
        let args = [Pointer(partial), Pointer(out), Int(fenced)];
        d.launch("last_block", [64, 1, 1], [64, 1, 1], 0, &args)
    };
    launch(1).unwrap();
    assert_eq!(d.read::<i32>(out, 1), [63 * 32]);
    launch(1).unwrap();
    assert_finding(
        launch(0),
        FaultKind::Race,
        &["race: read", "and write by block"],
    );
    for kernel in ["chained", "chained_backwards"] {
        let (value, flag) = (d.buffer(&[0i32; 20]), d.buffer(&[0i32; 20]));
        d.launch(
            kernel,
            [20, 1, 1],
            [32, 1, 1],
            0,
            &[Pointer(value), Pointer(flag)],
        )
        .unwrap();
        let mut values = d.read::<i32>(value, 20);
        values.sort_unstable();
        assert_eq!(values, (1..=20).collect::<Vec<_>>(), "{kernel}");
    }
}

#[test]
fn divergent_barriers_are_found() {
    let d = device();
    let out = d.empty(1024);
    let launch = |kernel: &str, threads: u32| {
        d.launch(kernel, [1, 1, 1], [threads, 1, 1], 0, &[Pointer(out)])
    };
    let line = place("if (threadIdx.x < 16) __syncthreads");
    assert_finding(
        launch("divergent_barrier", 64),
        FaultKind::Barrier,
        &["divergent barrier", &line],
    );
    launch("divergent_barrier", 16).unwrap();
    assert_finding(
        launch("divergent_barrier_of_block", 64),
        FaultKind::Barrier,
        &["barrier"],
    );
    launch("divergent_barrier_of_block", 32).unwrap();
    assert_finding(
        launch("two_barriers", 32),
        FaultKind::Barrier,
        &["divergent barrier"],
    );
    launch("two_barriers", 16).unwrap();
    assert_finding(
        launch("lonely_barrier", 64),
        FaultKind::Barrier,
        &["barrier 3"],
    );
}

#[test]
fn wrong_member_masks_are_found() {
    let d = device();
    let out = d.empty(256);
    let launch = |kernel: &str, mask: u32| {
        let args = [Pointer(out), Int(mask as i32)];
        d.launch(kernel, [1, 1, 1], [32, 1, 1], 0, &args)
    };
    launch("wrong_mask", 0xffff).unwrap();
    assert_finding(
        launch("wrong_mask", u32::MAX),
        FaultKind::Barrier,
        &[
            "wrong mask",
            "0xffffffff",
            &place("KERNEL wrong_mask")[..10],
        ],
    );
    launch("not_in_mask", u32::MAX).unwrap();
    assert_finding(
        launch("not_in_mask", 0x7fff_ffff),
        FaultKind::Barrier,
        &["lane 31"],
    );
}

#[test]
fn endless_kernels_are_stopped_with_the_line_they_are_on() {
    let timeout = Some(std::time::Duration::from_millis(200));
    let d = Device::new(
        PTX,
        Options {
            timeout,
            ..Options::default()
        },
    );
    let x = d.buffer(&[0i32; 4]);
    for kernel in ["endless", "endless_loop"] {
        assert_finding(
            d.launch(kernel, [2, 1, 1], [64, 1, 1], 0, &[Pointer(x)]),
            FaultKind::Timeout,
            &["time limit", "faults.cu:"],
        );
    }
}

#[test]
fn endless_recursion_and_traps_are_faults() {
    let d = device();
    let x = d.buffer(&[20i32]);
    d.launch("endless_recursion", [1, 1, 1], [1, 1, 1], 0, &[Pointer(x)])
        .unwrap();
    d.write(x, &[-1i32]);
    assert_finding(
        d.launch("endless_recursion", [1, 1, 1], [1, 1, 1], 0, &[Pointer(x)]),
        FaultKind::StackOverflow,
        &["recursion"],
    );
    d.write(x, &[1i32]);
    assert_finding(
        d.launch("traps", [1, 1, 1], [1, 1, 1], 0, &[Pointer(x)]),
        FaultKind::Trap,
        &["trap"],
    );
}

#[test]
fn launches_past_the_limits_are_refused() {
    let d = device();
    let x = d.empty(4096);
    let launch = |kernel: &str, grid: [u32; 3], block: [u32; 3], shared: u32| {
        d.launch(kernel, grid, block, shared, &[Pointer(x)])
            .map(|_| ())
    };
    let kind = |result: Result<(), Fault>| result.unwrap_err().kind;
    use FaultKind::InvalidConfiguration as Invalid;
    assert_eq!(kind(launch("bounded", [0, 1, 1], [1, 1, 1], 0)), Invalid);
    assert_eq!(
        kind(launch("bounded", [1, 70_000, 1], [1, 1, 1], 0)),
        Invalid
    );
    assert_eq!(kind(launch("bounded", [1, 1, 1], [1025, 1, 1], 0)), Invalid);
    assert_eq!(kind(launch("bounded", [1, 1, 1], [1, 1, 65], 0)), Invalid);
    assert_eq!(kind(launch("bounded", [1, 1, 1], [129, 1, 1], 0)), Invalid);
    assert_eq!(
        kind(launch("uses_shared_48k", [1, 1, 1], [32, 1, 1], 300 << 10)),
        Invalid
    );
    launch("bounded", [1, 1, 1], [128, 1, 1], 0).unwrap();
    let too_large = d.launch_with(
        "bounded",
        [132 * 32 + 1, 1, 1],
        [32, 1, 1],
        0,
        &[Pointer(x)],
        true,
    );
    assert_eq!(kind(too_large.map(|_| ())), FaultKind::CooperativeTooLarge);
}

#[test]
fn without_checks_only_what_hardware_would_stop_is_stopped() {
    let d = Device::new(PTX, options(Checks::NONE));
    let out = d.empty(256);
    d.launch("shared_race", [1, 1, 1], [64, 1, 1], 0, &[Pointer(out)])
        .unwrap();
    d.launch(
        "divergent_barrier",
        [1, 1, 1],
        [32, 1, 1],
        0,
        &[Pointer(out)],
    )
    .unwrap();
    let result = d.launch(
        "out_of_bounds",
        [1, 1, 1],
        [32, 1, 1],
        0,
        &[Pointer(64), Int(1)],
    );
    assert_eq!(result.unwrap_err().kind, FaultKind::IllegalAddress);
}

/// Lanes from 16 on leave; the others vote and shuffle with a mask that names all 32.
const LEAVERS: &str = "
.version 7.0
.target sm_70
.address_size 64
.visible .entry leavers(.param .u64 out, .param .u32 distance)
{
    .reg .pred %p<3>;
    .reg .b32 %r<7>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [distance];
    mov.u32 %r2, %tid.x;
    setp.ge.u32 %p1, %r2, 16;
    @%p1 exit;
    vote.sync.ballot.b32 %r3, !%p1, 0xffffffff;
    shfl.sync.down.b32 %r4|%p2, %r2, %r1, 31, 0xffffffff;
    mul.wide.u32 %rd2, %r2, 8;
    add.u64 %rd3, %rd1, %rd2;
    st.global.v2.u32 [%rd3], {%r3, %r4};
    ret;
}
";

#[test]
fn a_mask_may_name_lanes_that_have_exited_but_a_shuffle_must_not_read_them() {
    let d = Device::new(LEAVERS, Options::default());
    let out = d.buffer(&[0u32; 64]);
    let launch = |distance: i32| {
        d.launch(
            "leavers",
            [1; 3],
            [32, 1, 1],
            0,
            &[Pointer(out), Int(distance)],
        )
    };
    launch(0).unwrap();
    let expected: Vec<u32> = (0..16).flat_map(|lane| [0xffff, lane]).collect();
    assert_eq!(d.read::<u32>(out, 32), expected);
    assert_finding(
        launch(16),
        FaultKind::Barrier,
        &["wrong mask", "reads from lane 16, which has exited"],
    );
}
