//! The writing port.

use futures::future::{BoxFuture, ready};
use longhaul_event::{Event, Position};
use longhaul_topology::{FlowKey, Guarantee, SinkKind};

use crate::SinkError;

/// What a sink writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SinkSpec {
    /// What the route says.
    pub sink: SinkKind,
    /// What the route promises. A connector that cannot keep it refuses the sink, or the flow when it only knows then, with a sentence.
    pub guarantee: Guarantee,
}

/// A sink: opens flows.
pub trait Sink: Send + Sync + 'static {
    /// Opens a flow for writing: connects, takes what lock the broker has, **then** reads the cursor. `partition` is the partition
    /// number at the source, for `partition: same`.
    fn open<'a>(&'a self, flow: &'a FlowKey, partition: Option<u32>) -> BoxFuture<'a, Result<Opened, SinkError>>;
}

/// A flow that is open for writing.
pub struct Opened {
    /// Writes it.
    pub writer: Box<dyn Writer>,
    /// The last position that this destination has durably, if it ever had one.
    pub cursor: Option<Position>,
}

/// Writes one flow in order. After any error it is spent: every later call fails, and the caller opens the flow again. Dropping it
/// gives the lock back.
pub trait Writer: Send + 'static {
    /// Starts writing these events, in order and behind all earlier calls, and returns at once; the future resolves when the broker has
    /// confirmed all of them. Several writes may be under way. A future that is dropped says nothing about what was written. An event
    /// has its final topic and provenance already; the writer maps, strips control headers and sends.
    fn write(&mut self, events: Vec<Event>) -> BoxFuture<'static, Result<(), SinkError>>;

    /// Writes like [`write`](Self::write), and makes `cursor` durable with the last of the events, as one: after a crash the destination
    /// has both or neither. Called instead of `write`, on a sink for effectively-once. An event that is refused as poison is refused
    /// alone: everything before it is written and the cursor stands before it. Other sinks refuse.
    fn write_with_cursor(&mut self, events: Vec<Event>, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>> {
        let _ = (events, cursor);
        let reason = "this destination does not take events and their cursor as one";
        Box::pin(ready(Err(SinkError::Config(reason.to_owned()))))
    }

    /// Writes the cursor; where a write with a cursor has brought it there or beyond, resolves at once. The caller calls it only after
    /// every write up to that position has resolved, and waits for one commit before it starts the next; writes beyond that position may
    /// be under way.
    fn commit(&mut self, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>>;
}
