//! What the checks remember costs at most an eighth of the memory that a program uses.

mod common;

use common::{Argument, Device, options};
use softcuda::Checks;

/// y[i] = x[i], in a grid of which each thread copies one float4.
const COPY: &str = "
.version 7.0
.target sm_70
.address_size 64
.visible .entry copy(.param .u64 y, .param .u64 x)
{
    .reg .b32 %r<4>;
    .reg .f32 %f<5>;
    .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [y];
    ld.param.u64 %rd2, [x];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %tid.x;
    mad.lo.u32 %r3, %r1, 256, %r2;
    mul.wide.u32 %rd3, %r3, 16;
    add.u64 %rd4, %rd1, %rd3;
    add.u64 %rd5, %rd2, %rd3;
    ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd5];
    st.global.v4.f32 [%rd4], {%f1, %f2, %f3, %f4};
    ret;
}
";

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

#[test]
fn shadow_memory_is_at_most_an_eighth_of_what_a_launch_touches() {
    const BYTES: u64 = 128 << 20;
    let device = Device::new(COPY, options(Checks::ALL));
    let (x, y) = (device.empty(BYTES as usize), device.empty(BYTES as usize));
    // The program's own: both buffers, resident before any check has seen them.
    for address in [x, y] {
        let bytes = device.memory.slice(address, BYTES).unwrap();
        // SAFETY: the allocation is that long.
        unsafe { std::ptr::write_bytes(bytes, 1, BYTES as usize) };
    }
    let before = resident();
    assert!(before > 2 * BYTES || before == 0, "{before}");
    device.memory.mark_written(x, BYTES);
    let arguments = [Argument::Pointer(y), Argument::Pointer(x)];
    let grid = [(BYTES / 16 / 256) as u32, 1, 1];
    device
        .launch("copy", grid, [256, 1, 1], 0, &arguments)
        .unwrap();
    let shadow = resident().saturating_sub(before);
    // Threads' stacks and the blocks' registers come on top, whatever the memory.
    let most = 2 * BYTES / 8 + (2 << 20);
    println!(
        "shadow: {shadow} bytes of {} ({:.4})",
        2 * BYTES,
        shadow as f64 / (2 * BYTES) as f64
    );
    assert!(shadow <= most, "{shadow} bytes, at most {most}");
    // A second launch over the same memory takes nothing more.
    device
        .launch("copy", grid, [256, 1, 1], 0, &arguments)
        .unwrap();
    let again = resident().saturating_sub(before);
    assert!(again <= most, "{again} bytes, at most {most}");
    // Freed memory takes its shadow along, but for the races' lines, which the next user of the addresses has.
    device.memory.free(x).unwrap();
    device.memory.free(y).unwrap();
    assert!(resident() < before - 2 * BYTES + most || before == 0);
}
