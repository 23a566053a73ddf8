//! The event: what is carried between brokers.

use bytes::Bytes;
use longhaul_topic::Topic;

use crate::{EventId, Headers};

/// One event as it was read from a shard and as it will be written to a destination.
///
/// All bytes are shared slices of the batch that the event came in; cloning an event copies no payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Offset in its shard; the incarnation stands with the batch.
    pub offset: u64,
    /// Where it is addressed to.
    pub topic: Topic,
    /// What orders it among its likes; `None` is not the empty key.
    pub key: Option<Bytes>,
    /// Headers of the application, in order and with repeats; never Longhaul's own, never CloudEvents-rewritten.
    pub headers: Headers,
    /// The body. `None` is a Kafka tombstone, which is not the empty body.
    pub payload: Option<Bytes>,
    /// Milliseconds since the Unix epoch, as the source broker recorded it; 0 when it did not.
    pub time_ms: i64,
    /// The stable 128-bit identity.
    pub id: EventId,
    /// Where the identity came from.
    pub identity: Identity,
    /// The encoded provenance as it was found at the source or as it is to be written at the destination; empty when there is none.
    pub provenance: Bytes,
}

/// Where an identity came from: may a destination throw away a second event with the same one?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// From a position in a log, or given by the publisher: the same identity is the same event.
    Unique,
    /// From the content alone (a RabbitMQ queue, no `message_id`): two events with the same bytes share it, so a destination
    /// must never drop one because of it.
    Content,
}

impl Event {
    /// Bytes that this event is charged for in credit and memory: topic, key, headers, payload and provenance, and a fixed
    /// share for what surrounds them.
    #[must_use]
    pub fn size(&self) -> usize {
        const OVERHEAD_BYTES: usize = 64;
        OVERHEAD_BYTES
            + self.topic.bytes().len()
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.headers.encoded_len()
            + self.payload.as_ref().map_or(0, Bytes::len)
            + self.provenance.len()
    }
}
