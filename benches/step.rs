//! One weight step, and the products of one hypergradient, timed on random data.
//!
//! `cargo bench --bench step -- [darts|nb201] [channels] [cells] [batch] [rounds]` prints one JSON
//! line a measurement: median, least and most of the rounds after one warm-up, in seconds, and the
//! process's peak resident memory so far. A step is forward, backward, clipping to norm 5, and SGD
//! with momentum 0.9 and decay 3e-4; a product is tangent and tangent_backward.

use ndarts::autograd::{Executor, Mode};
use ndarts::device::Device;
use ndarts::device::random::{Philox, Purpose};
use ndarts::network::Supernet;
use ndarts::network::parameters::initial_theta;
use ndarts::ops::update::{Sgd, sgd};
use ndarts::space::Space;
use std::time::Instant;

fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap_or_default();
    let kilobytes = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) / 1024.0
}

fn report(what: &str, setting: &str, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    println!(
        "{{\"what\":\"{what}\",{setting},\"device\":\"cpu\",\"median_s\":{:.4},\"min_s\":{:.4},\
         \"max_s\":{:.4},\"peak_rss_mb\":{:.0}}}",
        seconds[seconds.len() / 2],
        seconds[0],
        seconds[seconds.len() - 1],
        peak_rss_mb()
    );
}

fn timed(rounds: usize, mut work: impl FnMut()) -> Vec<f64> {
    work();
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..rounds).map(time).collect()
}

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let number = |i: usize, otherwise: usize| -> usize {
        words
            .get(i)
            .map_or(otherwise, |w| w.parse().expect("a whole number"))
    };
    let space = match words.first().map_or("darts", String::as_str) {
        "nb201" => Space::NasBench201,
        _ => Space::Darts,
    };
    let default_cells = if space == Space::Darts { 8 } else { 5 };
    let (channels, cells) = (number(1, 16), number(2, default_cells));
    let (batch, rounds) = (number(3, 64), number(4, 3));
    let setting = format!(
        "\"space\":\"{}\",\"channels\":{channels},\"cells\":{cells},\"batch\":{batch}",
        space.name()
    );
    let supernet = Supernet::record(space, channels, cells, 10, batch, [32, 32]).expect("sizes");
    let mut theta = initial_theta(&supernet.parameters, 0);
    let omega = supernet.tape.omega_len;
    let mut executor = Executor::new(supernet.tape, Device::Cpu);
    let philox = Philox::new(0, Purpose::Bench);
    let images: Vec<f32> = (0..(batch * 32 * 32 * 3) as u64)
        .map(|i| philox.normal4(i / 4, 0)[(i % 4) as usize])
        .collect();
    let labels: Vec<u32> = (0..batch as u32).map(|i| i % 10).collect();
    executor.load(&images, &labels).expect("on the host");
    let mut gradient = vec![0.0; theta.len()];
    let mut buffer = vec![0.0; omega];
    let forward = timed(rounds, || {
        executor
            .forward(Mode::Evaluate, &theta)
            .expect("on the host");
    });
    report("forward", &setting, forward);
    let step = timed(rounds, || {
        executor
            .forward(Mode::Gradient, &theta)
            .expect("on the host");
        executor
            .backward(&theta, &mut gradient)
            .expect("on the host");
        let step = Sgd {
            lr: 0.025,
            momentum: 0.9,
            weight_decay: 3e-4,
            clip: 5.0,
        };
        sgd(step, &gradient[..omega], &mut buffer, &mut theta[..omega]).expect("on the host");
    });
    report("step", &setting, step);
    if batch > 32 {
        return;
    }
    executor
        .forward(Mode::Products, &theta)
        .expect("on the host");
    executor
        .backward(&theta, &mut gradient)
        .expect("on the host");
    let direction = gradient.clone();
    report(
        "product",
        &setting,
        timed(rounds, || {
            executor
                .product(&theta, &direction, &mut gradient)
                .expect("on the host");
        }),
    );
}
