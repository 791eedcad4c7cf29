//! The least bytes of memory that a pass can move: each op reads its inputs once and writes its outputs
//! once, whatever its kernels do. An adjoint that an op adds to is an input as well.

use super::tape::Tape;
use crate::ops::{ActivationId, Pass, Role};
use std::collections::BTreeSet;

/// Bytes that `pass` of `tape` moves at least, with `storage` bytes an element of activations, and f32 for
/// θ, directions and gradients.
pub fn floor_bytes(tape: &Tape, pass: Pass, storage: usize) -> u64 {
    // θ is read once by the op of each parameter, and so is the direction; the gradient is written once.
    let vectors = match pass {
        Pass::Forward => 1,
        Pass::Backward | Pass::Tangent => 2,
        Pass::TangentBackward => 3,
    };
    let ops: u64 = floor_of_ops(tape, pass, storage).iter().sum();
    ops + (vectors * 4 * tape.theta_len()) as u64
}

/// The part of each op in [`floor_bytes`], parameters aside.
pub fn floor_of_ops(tape: &Tape, pass: Pass, storage: usize) -> Vec<u64> {
    let graph = &tape.graph;
    let bytes = |id: ActivationId| {
        let activation = graph.activation(id);
        let elements = graph.batch * activation.height * activation.width * activation.channels;
        (elements * storage) as u64
    };
    let reversed = matches!(pass, Pass::Backward | Pass::TangentBackward);
    let mut written: BTreeSet<(ActivationId, Role)> = BTreeSet::new();
    let count = tape.ops.len();
    let mut floors = vec![0; count];
    for step in 0..count {
        let i = if reversed { count - 1 - step } else { step };
        let uses = tape.ops[i].uses(graph, pass);
        let reads: BTreeSet<_> = uses.reads.into_iter().collect();
        let writes: BTreeSet<_> = uses.writes.into_iter().collect();
        floors[i] += reads.iter().map(|&(id, _)| bytes(id)).sum::<u64>();
        for &(id, role) in &writes {
            floors[i] += bytes(id);
            let owner = graph.owner(id);
            let before = written.contains(&(id, role)) || written.contains(&(owner, role));
            if reversed && before && !reads.contains(&(id, role)) {
                floors[i] += bytes(id);
            }
        }
        written.extend(writes);
    }
    floors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_convolution_reads_its_input_and_writes_its_output() {
        let mut tape = Tape::new(2, 4, 6);
        let weight = tape.weight(3 * 5);
        let images = tape.images;
        let z = tape.conv(images, (1, 1), 5, false, false, (weight, None));
        let linear = (tape.weight(5 * 7), tape.weight(7));
        tape.classifier(z, false, linear.0, linear.1);
        tape.finish();
        let pixels = 2 * 4 * 6;
        let theta = 4 * (15 + 35 + 7);
        let forward = floor_bytes(&tape, Pass::Forward, 2);
        // Images and z by the convolution, z again by the classifier.
        assert_eq!(forward, (pixels * 2 * (3 + 5 + 5) + theta) as u64);
    }
}
