//! Real QUIC on loopback: what links promise, one behaviour per file.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod certificates;
mod garbage;
mod liveness;
mod parcels;
mod revocation;
mod support;
mod talk;
mod versions;
