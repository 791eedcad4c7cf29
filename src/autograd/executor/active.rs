//! Which part of a tape runs, where some op weights take no part.
//!
//! A term of a mix that is left out leaves its branch unread; so does everything that only leads
//! there. One sweep from the loss back finds what something still reads: an op says by
//! [`Op::uses`](crate::ops::Op::uses) what it reads for the outputs that are live. Entries without a live
//! output are skipped, branches within an entry skip themselves, and the readers of an activation that
//! do not run are dropped from its adjoint. The memory plan stays the whole tape's.

use crate::autograd::tape::Tape;
use crate::ops::{ActivationId, Graph, Pass, Source};

/// The running part of a tape.
pub(super) struct Active {
    /// The tape's graph with what is live, active and still read.
    pub graph: Graph,
    /// Entries that run.
    pub entries: Vec<bool>,
    /// Activations whose adjoint each entry writes.
    pub writes: Vec<Vec<ActivationId>>,
}

impl Active {
    /// The part of `tape` that runs where only the `active` op weights (in α's order) take part.
    pub fn new(tape: &Tape, active: &[bool]) -> Active {
        let mut found = Active {
            graph: tape.graph.clone(),
            entries: Vec::new(),
            writes: Vec::new(),
        };
        found.choose(tape, active);
        found
    }

    /// How many entries run.
    pub fn running(&self) -> usize {
        self.entries.iter().filter(|&&runs| runs).count()
    }

    /// Chooses anew.
    pub fn choose(&mut self, tape: &Tape, active: &[bool]) {
        assert_eq!(active.len(), tape.alpha_len, "one flag an op weight");
        let graph = &mut self.graph;
        let mut flags = active.iter().copied();
        let vectors = graph.weights.iter();
        graph.active = vectors
            .map(|&len| flags.by_ref().take(len).collect())
            .collect();
        for activation in &mut graph.activations {
            activation.live = false;
        }
        self.entries.clear();
        self.entries.resize(tape.ops.len(), true);
        for (op, runs) in tape.ops.iter().zip(&mut self.entries).rev() {
            let uses = op.uses(graph, Pass::Forward);
            // The loss writes no activation, and the relaxation touches none at all.
            *runs =
                !uses.writes.is_empty() || op.uses(&tape.graph, Pass::Forward).writes.is_empty();
            for (id, _) in uses.reads {
                graph.activations[id.0].live = true;
            }
        }
        for (index, whole) in tape.graph.activations.iter().enumerate() {
            let running =
                |source: &&Source| graph.is_active(source.scale) && graph.is_live(source.at);
            let sources: Vec<_> = whole.sources.iter().filter(running).copied().collect();
            graph.activations[index].sources = sources;
        }
        self.writes.clear();
        self.writes.extend(tape.ops.iter().map(|op| {
            let writes = op.uses(graph, Pass::Backward).writes;
            writes.iter().map(|&(id, _)| id).collect::<Vec<_>>()
        }));
    }
}
