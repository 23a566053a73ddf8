//! Congestion control: which one a link uses, and one of our own for long paths.
//!
//! Start with [`model`]. The others are quinn's.

mod loss;
mod model;
#[cfg(test)]
mod path;
mod rate;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use longhaul_topology::Congestion;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};

/// What makes the controllers of a link.
pub(crate) fn factory(congestion: Congestion) -> Arc<dyn ControllerFactory + Send + Sync> {
    match congestion {
        Congestion::Model => Arc::new(model::ModelConfig),
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::Bbr => Arc::new(BbrConfig::default()),
        Congestion::NewReno => Arc::new(NewRenoConfig::default()),
    }
}
