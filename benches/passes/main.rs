//! Every op in each of the four passes, the updates of flat vectors, and the passes over both
//! supernets, beside what the machine can do.
//!
//! `cargo bench --bench passes` measures all; a word after `--` filters by name, `--test` runs each
//! once. Floating-point operations are those of the formula, a multiply-add counted as two: what a
//! pass computes again (depthwise rows, activations) is not counted twice. Bytes are each buffer that
//! the op names in `uses`, read or written once. The table at the end gives both against the peaks,
//! and the share of the roof, the longer of the two times that the peaks allow. A share of the copy's
//! bandwidth above 100 % means that the buffers stayed in a cache.

mod chain;
mod peaks;
mod report;

use chain::Chain;
use criterion::Criterion;
use ndarts::autograd::{Executor, Mode, Tape};
use ndarts::device::Device;
use ndarts::device::random::{Philox, Purpose};
use ndarts::network::Supernet;
use ndarts::network::parameters::initial_theta;
use ndarts::ops::perturb::{Noise, perturb, recombine};
use ndarts::ops::update::{Sgd, axpy, cpu::neumann_step, norm, sgd};
use ndarts::ops::{Op, Pass};
use ndarts::space::Space;
use peaks::Peaks;
use report::{Floor, Report};
use std::collections::BTreeSet;
use std::time::Duration;

/// Images of the ops' network.
const BATCH: usize = 64;
/// Images of the supernets.
const SUPERNET_BATCH: usize = 16;
/// Elements of the flat vectors: ω of the DARTS supernet of 16 channels and 8 cells.
const FLAT: usize = 1_930_618;

const PASSES: [(Pass, &str); 4] = [
    (Pass::Forward, "forward"),
    (Pass::Backward, "backward"),
    (Pass::Tangent, "tangent"),
    (Pass::TangentBackward, "tangent_backward"),
];

fn main() {
    // As in the program, the main thread is one of the pool's.
    let pool = rayon::ThreadPoolBuilder::new().use_current_thread();
    pool.build_global().expect("the first use of the pool");
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut report = Report::new(Peaks::measure());
    ops(&mut criterion, &mut report);
    flat_vectors(&mut criterion, &mut report);
    supernets(&mut criterion, &mut report);
    criterion.final_summary();
    report.print();
    for space in Space::ALL {
        let seconds = |pass| report.seconds(&format!("supernet {}/{pass}", space.name()));
        let [f, b, t, tb] = PASSES.map(|(_, name)| seconds(name));
        if let (Some(f), Some(b), Some(t), Some(tb)) = (f, b, t, tb) {
            println!(
                "{}: (tangent + tangent_backward) / (forward + backward) = {:.2}",
                space.name(),
                (t + tb) / (f + b)
            );
        }
    }
}

const ON_THE_HOST: &str = "only a GPU's call fails";

/// An executor in which all four passes ran once, and the vectors it runs on.
struct Prepared {
    executor: Executor,
    theta: Vec<f32>,
    direction: Vec<f32>,
    gradient: Vec<f32>,
}

impl Prepared {
    fn new(tape: Tape, theta: Vec<f32>) -> Prepared {
        let [height, width] = tape.size(tape.images);
        let batch = tape.graph.batch;
        let mut images = vec![0.0; batch * height * width * 3];
        normal(1, &mut images);
        let labels: Vec<u32> = (0..batch as u32).map(|i| i % 10).collect();
        let mut direction = vec![0.0; theta.len()];
        normal(2, &mut direction);
        let mut executor = Executor::new(tape, Device::Cpu);
        executor.load(&images, &labels).expect(ON_THE_HOST);
        let mut prepared = Prepared {
            gradient: vec![0.0; theta.len()],
            executor,
            theta,
            direction,
        };
        for (pass, _) in PASSES {
            prepared.run(pass);
        }
        prepared
    }

    /// A whole pass.
    fn run(&mut self, pass: Pass) {
        let (theta, direction) = (&self.theta, &self.direction);
        let gradient = &mut self.gradient;
        let executor = &mut self.executor;
        match pass {
            Pass::Forward => executor.forward(Mode::Products, theta).map(|_| ()),
            Pass::Backward => executor.backward(theta, gradient),
            Pass::Tangent => executor.tangent(theta, direction),
            Pass::TangentBackward => executor.tangent_backward(theta, direction, gradient),
        }
        .expect(ON_THE_HOST);
    }

    /// One entry of a pass.
    fn repeat(&mut self, pass: Pass, index: usize) {
        let (theta, direction) = (&self.theta, &self.direction);
        let gradient = &mut self.gradient;
        self.executor
            .repeat_entry(pass, index, theta, direction, gradient);
    }
}

fn normal(stream: u64, out: &mut [f32]) {
    Philox::new(0, Purpose::Bench).fill_normal(0, stream, out);
}

/// Bytes of the buffers that an entry touches in a pass, each once.
fn bytes(tape: &Tape, op: &dyn Op, pass: Pass) -> f64 {
    let uses = op.uses(&tape.graph, pass);
    let touched: BTreeSet<_> = uses.reads.iter().chain(&uses.writes).collect();
    let size = |id| {
        let a = tape.graph.activation(id);
        tape.graph.batch * a.height * a.width * a.channels * size_of::<f32>()
    };
    touched.iter().map(|(id, _)| size(*id)).sum::<usize>() as f64
}

fn ops(criterion: &mut Criterion, report: &mut Report) {
    let Chain { tape, entries } = Chain::record();
    let mut theta = vec![0.0; tape.theta_len()];
    normal(0, &mut theta);
    // Small weights keep what backward entries add up finite over many repetitions.
    theta.iter_mut().for_each(|w| *w *= 0.1);
    let mut prepared = Prepared::new(tape, theta);
    for entry in entries {
        for (pass, pass_name) in PASSES {
            let terms = match (pass, entry.bilinear) {
                (Pass::Forward, _) | (_, false) => 1.0,
                (Pass::Backward | Pass::Tangent, true) => 2.0,
                (Pass::TangentBackward, true) => 4.0,
            };
            let tape = prepared.executor.tape();
            let op = tape.ops[entry.index].as_ref();
            // The classifier leaves its tangent to `tangent_backward`.
            if pass == Pass::Tangent && op.name() == "classifier" {
                continue;
            }
            let floor = Floor {
                flop: Some(2.0 * terms * entry.multiply_adds),
                bytes: bytes(tape, op, pass),
            };
            let name = (entry.name, pass_name);
            report.measure(criterion, name, floor, || {
                prepared.repeat(pass, entry.index)
            });
        }
    }
}

fn flat_vectors(criterion: &mut Criterion, report: &mut Report) {
    let vector = |stream| {
        let mut vector = vec![0.0; FLAT];
        normal(stream, &mut vector);
        vector
    };
    let (x, mut y, mut z) = (vector(1), vector(2), vector(3));
    let floor = |flop: f64, vectors: f64| Floor {
        flop: Some(flop * FLAT as f64),
        bytes: vectors * (FLAT * size_of::<f32>()) as f64,
    };
    let name = |name| ("flat vectors", name);
    report.measure(criterion, name("norm"), floor(2.0, 1.0), || {
        std::hint::black_box(norm(&x).expect(ON_THE_HOST));
    });
    report.measure(criterion, name("axpy"), floor(2.0, 3.0), || {
        axpy(1e-9, &x, &mut y).expect(ON_THE_HOST);
    });
    report.measure(criterion, name("neumann_step"), floor(5.0, 5.0), || {
        std::hint::black_box(neumann_step(1e-9, &x, &mut y, &mut z));
    });
    let step = Sgd {
        lr: 1e-9,
        momentum: 0.9,
        weight_decay: 3e-4,
        clip: 5.0,
    };
    report.measure(criterion, name("sgd, clipped"), floor(9.0, 6.0), || {
        sgd(step, &x, &mut y, &mut z).expect(ON_THE_HOST);
    });
    // The noise is drawn, not read; its operations are integer ones and not counted.
    let noise = Noise::new(0, 0, 8, false);
    report.measure(criterion, name("perturb"), floor(2.0, 2.0), || {
        perturb(&noise, 3, 0.01, &x, &mut y);
    });
    report.measure(
        criterion,
        name("recombine, 8 members"),
        floor(16.0, 2.0),
        || {
            recombine(&noise, &[1e-9; 8], &mut y);
        },
    );
}

fn supernets(criterion: &mut Criterion, report: &mut Report) {
    for space in Space::ALL {
        let cells = if space == Space::NasBench201 { 5 } else { 8 };
        let size = [32, 32];
        let supernet = Supernet::record(space, 16, cells, 10, SUPERNET_BATCH, size);
        let supernet = supernet.expect("sizes of a supernet");
        let theta = initial_theta(&supernet.parameters, 0);
        let mut prepared = Prepared::new(supernet.tape, theta);
        for (pass, pass_name) in PASSES {
            let tape = prepared.executor.tape();
            let ops = tape.ops.iter();
            let floor = Floor {
                flop: None,
                bytes: ops.map(|op| bytes(tape, op.as_ref(), pass)).sum(),
            };
            let group = format!("supernet {}", space.name());
            report.measure(criterion, (&group, pass_name), floor, || prepared.run(pass));
        }
    }
}
