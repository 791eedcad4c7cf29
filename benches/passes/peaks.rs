//! What the machine can do, measured in the run that the kernels are measured in: a large matrix
//! product, and a copy of vectors that no cache holds.

use rayon::prelude::*;
use std::time::Instant;

/// Peaks on the threads of the pool.
#[derive(Clone, Copy)]
pub struct Peaks {
    /// Of an f32 matrix product, FLOP a second.
    pub flops: f64,
    /// Of a copy, bytes read and written a second.
    pub bytes: f64,
}

/// Repetitions, of which the fastest counts.
const TRIES: usize = 15;

impl Peaks {
    /// Measures both, in a few seconds.
    pub fn measure() -> Peaks {
        Peaks {
            flops: matrix_product(),
            bytes: copy(),
        }
    }
}

fn fastest(mut work: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..TRIES).map(time).fold(f64::INFINITY, f64::min)
}

/// `[N, N]`·`[N, N]`, a block of rows a task.
fn matrix_product() -> f64 {
    const N: usize = 2048;
    let a: Vec<f32> = (0..N * N).map(|i| (i % 7) as f32).collect();
    let b: Vec<f32> = (0..N * N).map(|i| (i % 5) as f32).collect();
    let mut c = vec![0.0f32; N * N];
    let rows = N.div_ceil(rayon::current_num_threads());
    let seconds = fastest(|| {
        let blocks = c.par_chunks_mut(rows * N).zip(a.par_chunks(rows * N));
        blocks.for_each(|(c, a)| {
            let (stride, m) = (N as isize, c.len() / N);
            // SAFETY: `a` and `c` hold m rows of N, `b` holds N rows of N, all row-major.
            unsafe {
                let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
                matrixmultiply::sgemm(m, N, N, 1.0, a, stride, 1, b, stride, 1, 0.0, c, stride, 1);
            }
        });
    });
    2.0 * (N * N * N) as f64 / seconds
}

fn copy() -> f64 {
    const LEN: usize = 1 << 26;
    let from = vec![1.0f32; LEN];
    let mut to = vec![0.0f32; LEN];
    let part = LEN.div_ceil(4 * rayon::current_num_threads());
    let seconds = fastest(|| {
        let parts = to.par_chunks_mut(part).zip(from.par_chunks(part));
        parts.for_each(|(to, from)| to.copy_from_slice(from));
    });
    2.0 * size_of_val(&from[..]) as f64 / seconds
}
