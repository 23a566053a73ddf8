//! The declared mesh: regions, brokers, links and routes, and the checks over them.
//!
//! Start with [`Mesh`]; [`check`] says all that is wrong with one, [`diff`] what changed between two, [`Graph`] which regions
//! are joined. Pure values: no files, no clock, no network.

mod check;
mod diff;
mod graph;
mod image;
mod model;
mod names;
mod paths;
mod pattern;
mod template;

pub use check::{Place, Problem, ProblemKind, Severity, check};
pub use diff::{MeshDiff, diff};
pub use graph::{Edge, Graph};
pub use model::*;
pub use names::{nearest, suggest_name};
pub use paths::{Path, WAY_LINKS_MAX};
pub use template::{Part, Template, TemplateError};
