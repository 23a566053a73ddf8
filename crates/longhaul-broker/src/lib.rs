//! The ports that a broker connector implements, and the suite that every connector passes.
//!
//! A [`Connector`] is one broker of this region. A [`Source`] lists shards and opens readers; a [`Sink`] opens flows, returning
//! the durable cursor that it found, and writes. Forgetting fails safe: what is dropped is not delivered, not released.

#[cfg(feature = "testing")]
pub mod conformance;
mod connector;
mod error;
mod parking;
mod sink;
mod source;
mod standing;

pub use connector::{Connector, Context, Health};
pub use error::{Gap, Poison, SinkError, SourceError};
pub use parking::{PIECE_BYTES_MAX, ParkName, Parking};
pub use sink::{Opened, Sink, SinkSpec, Writer};
pub use source::{ReadBatch, Reader, Shard, Source, SourceSpec};
pub use standing::Standing;
