//! The flow protocol as state machines: numbers in, numbers out.
//!
//! A flow is one chain of batches from a shard to a destination. [`Owner`] is the machine of the router that reads the shard,
//! [`Applier`] that of the router that writes the destination. Both are told what happened (`handle_*`) and asked what to do
//! (`poll_*`); they know no payload, no socket and no clock: `now` is a [`Duration`](std::time::Duration) since an origin that the
//! driver chooses once. Which call must follow which output stands at the top of `owner.rs` and `applier.rs`.
//!
//! Refused here: anything that would acknowledge an event before the destination has it durably, accept a batch that does not
//! follow the last accepted one, or hold more than the credit that was given.
//!
//! Read [`Span`] first, then [`Owner`], then [`Applier`].

mod applier;
mod credit;
mod driver;
mod owner;
mod reset;
mod span;
mod state;
mod timer;
mod window;

pub use applier::Applier;
pub use credit::{BYTES_CAP_MAX, BYTES_START, Credit, EVENTS_START};
pub use driver::{Allowance, ApplierConfig, ApplierOutput, Fault, Heard, Offer, OwnerConfig, OwnerOutput, StaleEpoch};
pub use owner::Owner;
pub use reset::{Reset, ResetCode};
pub use span::Span;
pub use state::{ApplierState, OwnerState};
pub use window::SPANS_MAX;
