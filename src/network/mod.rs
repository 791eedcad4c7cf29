//! Supernets and derived networks, and the files that hold their tensors.

pub mod state_dict;
