//! Two routers in one process over real QUIC on loopback, with brokers in memory that fail on demand.
//!
//! What is judged is what a destination holds in the end: everything, in order, and repeated only where a test says that a repeat is
//! the price. Times here are only patience; nothing is judged by a clock.

mod broker;
mod crashes;
mod delivery;
mod gaps;
mod mesh;
mod poison;
mod queues;
mod reloads;
mod stalls;
mod tap;
