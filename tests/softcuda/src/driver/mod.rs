//! The CUDA driver API over the machine, by C ABI: what `libcuda.so.1` exports.
//!
//! | file | subject |
//! |---|---|
//! | [`entry`] | what every exported function shares |
//! | [`library`] | `cuInit`, versions, `cuGetProcAddress` |
//! | [`device`], [`context`] | device, attributes, primary context, context stack, limits |
//! | [`memory`], [`pools`], [`pointers`] | allocations, pinned and managed memory; pools; what an address is |
//! | [`copy`] | copies and fills |
//! | [`stream`], [`event`] | queues, waits, host functions, timing |
//! | [`module`], [`image`], [`link`] | modules and libraries, what they are loaded from, the JIT linker |
//! | [`function`], [`launch`], [`occupancy`] | kernels and their attributes, launches, occupancy |
//! | [`capture`], [`graph`], [`graph_nodes`], [`graph_params`], [`graph_exec`] | capture and graphs |
//! | [`unsupported`] | every other symbol: `CUDA_ERROR_NOT_SUPPORTED`, said once |
//!
//! The exported functions stand on four files that export nothing: [`state`] holds the objects behind the
//! handles, [`work`] performs one piece of work (a launch, a copy, …) and [`order`] knows what is ordered
//! before what. [`settings`] reads the environment, [`profile`] writes the counters, with what [`ptxas`] knows of
//! registers.
//!
//! Work runs when it is submitted. Submission order always respects streams and events, so results are
//! those of a correct program; a program that forgot an event is told so by [`order`].

pub mod capture;
pub mod context;
pub mod copy;
pub mod device;
pub mod entry;
pub mod errors;
pub mod event;
pub mod function;
pub mod graph;
pub mod graph_exec;
pub mod graph_nodes;
pub mod graph_params;
pub mod image;
pub mod join;
pub mod launch;
pub mod library;
pub mod link;
pub mod memory;
pub mod module;
pub mod occupancy;
pub mod order;
pub mod pointers;
pub mod pools;
pub mod profile;
pub mod ptxas;
pub mod settings;
pub mod state;
pub mod stream;
pub mod types;
pub mod unsupported;
pub mod work;
