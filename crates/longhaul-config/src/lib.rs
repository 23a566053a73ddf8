//! YAML text to typed documents, every error with file, line and column.
//!
//! Start with [`Router`] and with `longhaul_topology::Mesh`: the two documents once they are compiled.

mod router;

pub use router::*;
