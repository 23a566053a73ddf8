//! Where does this event go, and why not elsewhere.
//!
//! Read in the order in which an event meets them: [`RouteTable`] is built from a mesh document and never changes; [`ingress`] judges
//! once what a batch of events brought along; [`CompiledRoute::decide_batch`] says for each flow which of them it takes, each refusal
//! being an enum that is also the metric label; [`CompiledRoute::render`] and [`CompiledRoute::stamp`] give the topic and the
//! provenance to write. Pure values: no clock, no locks, nothing is allocated for an event that is not taken.

mod decide;
mod fingerprint;
mod ingress;
mod predicate;
mod refusal;
mod render;
mod table;
#[cfg(test)]
mod tests;

pub use ingress::{Admission, IngressContext, ingress};
pub use predicate::CompiledPredicate;
pub use refusal::Refusal;
pub use render::render;
pub use table::{CompiledRoute, RouteTable};
