//! Autograd on a static tape: a network is recorded once, planned once, and run by four passes.
//!
//! - [`tape`]: recording. Ops over numbered activations and parameters; shapes are fixed.
//! - [`plan`]: the memory plan. Each buffer's lifetime is known before anything runs, so buffers
//!   that are never alive together share bytes and a step allocates nothing.
//! - [`floor`]: the least bytes that a pass can move.
//! - [`executor`]: the passes `forward`, `backward`, `tangent`, `tangent_backward`. The last two
//!   give H·v and ∂²L/∂α∂ω·v for any direction v of θ = (ω, α), in one pass each.

pub mod executor;
pub mod floor;
pub mod plan;
pub mod tape;

pub use executor::{Candidates, Executor, Series};
pub use plan::Mode;
pub use tape::Tape;
