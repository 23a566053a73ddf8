//! The whole mesh in one thread, from a seed.
//!
//! The real machines of `longhaul-flow`, decisions of `longhaul-route` and bytes of `longhaul-wire` stand here between models of brokers,
//! of a network and of router processes, all of which fail in the ways that [`Fault`] names. Time is virtual, and every choice comes from
//! the seed, so that a seed is a whole history, replayed identically. What must hold is checked at every step by a ledger that knows the
//! truth and nothing of the protocol. Refused here: threads, clocks, sockets, and any order that depends on a hash map.
//!
//! Read [`Plan`] (what a seed stands for), then [`run`] (what becomes of it).

mod applier;
mod broker;
mod core;
mod coverage;
mod fault;
mod ledger;
mod owner;
mod plan;
mod rng;
mod router;
mod serve;
mod shard;
mod shrink;
mod transit;
mod way;
mod world;

pub use coverage::Coverage;
pub use fault::Fault;
pub use ledger::Violation;
pub use plan::Plan;
pub use shrink::shrink;
pub use world::{Outcome, run};
