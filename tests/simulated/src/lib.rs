//! Real links over a simulated network in simulated time: `longhaul-link`, QUIC and TLS as they are, everything around them from a seed.
//!
//! Start with [`World`]: routers at addresses, one runtime on one thread whose clock stands still until there is nothing left to do, and a
//! [`Net`] that cuts, loses, delays, reorders, repeats, spoils and swallows datagrams. A router is killed without a word and started anew at
//! its addresses. [`Books`] holds what was sent against what came and notes every link that comes up or goes down.
//!
//! From the seed follow the faults, the shapes of the paths and what QUIC leaves to chance; keys of TLS and connection ids do not, but have
//! the same lengths always, so that the same seed is the same history, datagram by datagram.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod applier;
mod books;
mod dice;
mod flow;
mod identity;
mod net;
mod owner;
mod port;
mod story;
mod weather;
mod world;

pub use books::{Books, Change, Generation, Note};
pub use dice::Dice;
pub use flow::{FLOWS, Plan};
pub use net::{Net, Packet, Tally, Verdict};
pub use owner::BackOff;
pub use story::{Outcome, tell};
pub use weather::Weather;
pub use world::{World, in_simulated_time};
