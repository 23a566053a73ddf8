//! Congestion control: which one a link uses, and one of our own for long paths.
//!
//! Start with [`model`]. The others are quinn's.

mod farewell;
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

pub(crate) use self::farewell::Farewell;
use self::farewell::Polite;

/// What makes the controllers of a link that heeds that farewell.
pub(crate) fn factory(congestion: Congestion, farewell: &Farewell) -> Arc<dyn ControllerFactory + Send + Sync> {
    let within: Arc<dyn ControllerFactory + Send + Sync> = match congestion {
        Congestion::Model => Arc::new(model::ModelConfig),
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::Bbr => Arc::new(BbrConfig::default()),
        Congestion::NewReno => Arc::new(NewRenoConfig::default()),
    };
    Arc::new(Polite { within, farewell: farewell.clone() })
}
