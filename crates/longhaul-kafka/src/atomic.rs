//! The sink, effectively once: events and cursor in one transaction, the name of the bucket taken before the cursor is read.
//!
//! Takes writes without a cursor too, in order with the others, each confirmed when its transaction is through.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use longhaul_broker::{Opened, Sink, SinkError, Writer};
use longhaul_event::{Event, Position};
use longhaul_topology::{FlowKey, Partition};

use crate::bucket::{AtomicFlow, Bucket, Buckets, Work};
use crate::sink::{Destination, shape, spent};

/// A sink of one cluster that writes in transactions.
pub(crate) struct AtomicSink {
    pub(crate) destination: Arc<Destination>,
    pub(crate) buckets: Arc<Buckets>,
    pub(crate) partition: Partition,
    pub(crate) tombstone_on_empty: bool,
}

impl AtomicSink {
    async fn open_flow(&self, key: &FlowKey, partition: Option<u32>) -> Result<Opened, SinkError> {
        let shape = shape(self.partition, self.tombstone_on_empty, key, partition)?;
        let id = key.id();
        let pending = self.destination.take_over(id).await?;
        let bucket = self.buckets.of(id)?;
        // Only what is read after nobody else can commit any more is the last cursor.
        let life = bucket.open().await?;
        let cursor = self.destination.cursors.read(id).await?;
        let flow = Arc::new(AtomicFlow { key: key.clone(), id, shape, pending, life });
        Ok(Opened { writer: Box::new(AtomicWriter { flow, bucket, cursor }), cursor })
    }
}

impl Sink for AtomicSink {
    fn open<'a>(&'a self, flow: &'a FlowKey, partition: Option<u32>) -> BoxFuture<'a, Result<Opened, SinkError>> {
        Box::pin(self.open_flow(flow, partition))
    }
}

/// Writes one flow.
struct AtomicWriter {
    flow: Arc<AtomicFlow>,
    bucket: Arc<Bucket>,
    /// The last one that was found or put in line.
    cursor: Option<Position>,
}

impl AtomicWriter {
    fn put(&mut self, events: Vec<Event>, cursor: Option<Position>) -> BoxFuture<'static, Result<(), SinkError>> {
        if self.flow.pending.is_spent() {
            return ready(Err(spent())).boxed();
        }
        self.cursor = cursor.or(self.cursor);
        let work = Work::new(Arc::clone(&self.flow), events, cursor);
        let batch = Arc::clone(&work.batch);
        self.bucket.write(work);
        async move { batch.finished().await }.boxed()
    }
}

impl Writer for AtomicWriter {
    fn write(&mut self, events: Vec<Event>) -> BoxFuture<'static, Result<(), SinkError>> {
        self.put(events, None)
    }

    fn write_with_cursor(&mut self, events: Vec<Event>, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>> {
        self.put(events, Some(cursor))
    }

    fn commit(&mut self, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>> {
        // Later writes may have brought it further already, and it must not go back.
        if !self.flow.pending.is_spent() && self.cursor.is_some_and(|at| !is_ahead(cursor, at)) {
            return ready(Ok(())).boxed();
        }
        self.put(Vec::new(), Some(cursor))
    }
}

impl Drop for AtomicWriter {
    fn drop(&mut self) {
        self.flow.pending.spend();
    }
}

/// Whether a cursor stands behind that one, or in another life of the source. `u64::MAX` stands before offset 0.
fn is_ahead(cursor: Position, at: Position) -> bool {
    cursor.incarnation != at.incarnation || cursor.offset.wrapping_add(1) > at.offset.wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_goes_forward_only_except_into_another_life() {
        let at = |incarnation, offset| Position { incarnation, offset };
        assert!(is_ahead(at(1, 0), at(1, u64::MAX)));
        assert!(is_ahead(at(1, 8), at(1, 7)));
        assert!(!is_ahead(at(1, 7), at(1, 7)));
        assert!(!is_ahead(at(1, u64::MAX), at(1, 0)));
        assert!(is_ahead(at(2, 0), at(1, 7)));
    }
}
