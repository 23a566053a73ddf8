//! What an event is: its parts, its position, its identity and its provenance.
//!
//! Pure values. Read [`Event`] first, then [`Headers`] and [`Provenance`](provenance::Provenance).

pub mod cloudevents;
mod context;
mod event;
mod headers;
mod id;
mod position;
pub mod provenance;
#[cfg(test)]
mod testing;
mod text;

pub use context::{CORRELATION_BYTES_MAX, TraceParent, correlation};
pub use event::{Event, Identity};
pub use headers::{HEADER_BYTES_MAX, HEADER_COUNT_MAX, Header, HeaderError, HeaderTag, Headers, HeadersBuilder};
pub use id::{EventId, FlowId, hash64};
pub use position::{Position, Start};
pub use text::{header_text, rfc3339};
