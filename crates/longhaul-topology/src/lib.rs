//! The declared mesh: regions, brokers, links and routes, and the checks over them.
//!
//! Start with [`Mesh`]. Pure values: no files, no clock, no network.

mod model;
mod template;

pub use model::*;
pub use template::{Part, Template, TemplateError};
