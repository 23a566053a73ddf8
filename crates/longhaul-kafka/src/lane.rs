//! The lane of one reader: a bounded queue between the thread that polls Kafka and the task that reads.
//!
//! The thread pauses the partition when the lane holds more than its share and resumes it at a quarter of that; what arrives between
//! the two is bounded by what one poll hands over.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use longhaul_broker::{ReadBatch, SourceError};
use longhaul_event::Event;
use tokio::sync::Notify;

/// About what one read returns at most.
pub(crate) const READ_BYTES_MAX: usize = 256 << 10;

/// A queue with one writer and one reader.
#[derive(Default)]
pub(crate) struct Lane {
    queue: Mutex<Queue>,
    filled: Notify,
    bytes: AtomicUsize,
    /// The offset behind the newest event of the shard; 0 while unknown.
    end: AtomicU64,
    closed: AtomicBool,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<(ReadBatch, usize)>,
    failed: Option<SourceError>,
}

impl Lane {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was read.
    pub(crate) fn push(&self, batch: ReadBatch) {
        let bytes = batch.events.iter().map(Event::size).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.know_end(batch.last.wrapping_add(1));
        self.queue().batches.push_back((batch, bytes));
        self.filled.notify_one();
    }

    /// Ends the lane: behind what it holds, the reader finds this error. The first one stays.
    pub(crate) fn fail(&self, error: SourceError) {
        self.queue().failed.get_or_insert(error);
        self.filled.notify_one();
    }

    /// Waits for events or for the end. Cancel safe: nothing is taken before it is returned.
    pub(crate) async fn read(&self) -> Result<ReadBatch, SourceError> {
        loop {
            if let Some(taken) = self.take() {
                return taken;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<Result<ReadBatch, SourceError>> {
        let mut queue = self.queue();
        let Some((mut batch, mut bytes)) = queue.batches.pop_front() else {
            return queue.failed.clone().map(Err);
        };
        while queue.batches.front().is_some_and(|(_, more)| bytes + more <= READ_BYTES_MAX) {
            let (next, more) = queue.batches.pop_front().expect("the front was just seen");
            batch.events.extend(next.events);
            batch.last = next.last;
            bytes += more;
        }
        drop(queue);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some(Ok(batch))
    }

    /// Bytes that wait for the reader.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The log reaches at least up to before that offset.
    pub(crate) fn know_end(&self, end: u64) {
        self.end.fetch_max(end, Ordering::Relaxed);
    }

    /// Offset of the newest event as far as it is known.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.end.load(Ordering::Relaxed).checked_sub(1)
    }

    /// The reader is gone.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether the reader is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt;
    use longhaul_event::{EventId, Headers, Identity};
    use longhaul_topic::Topic;

    use super::*;

    fn batch(offset: u64, bytes: usize) -> ReadBatch {
        let event = Event {
            offset,
            topic: Topic::default(),
            key: None,
            headers: Headers::default(),
            payload: Some(Bytes::from(vec![0; bytes])),
            time_ms: 0,
            id: EventId::default(),
            identity: Identity::Unique,
            provenance: Bytes::new(),
        };
        ReadBatch { events: vec![event], last: offset }
    }

    fn read(lane: &Lane) -> Option<Result<(usize, u64), String>> {
        let read = lane.read().now_or_never()?;
        Some(read.map(|batch| (batch.events.len(), batch.last)).map_err(|error| error.to_string()))
    }

    #[test]
    fn small_batches_are_joined_up_to_the_limit_and_a_large_one_comes_alone() {
        let lane = Lane::default();
        assert_eq!(read(&lane), None);
        lane.push(batch(1, 100_000));
        lane.push(batch(2, 100_000));
        lane.push(batch(3, 100_000));
        lane.push(batch(4, 1_000_000));
        lane.push(ReadBatch { events: Vec::new(), last: 9 });
        assert_eq!(read(&lane), Some(Ok((2, 2))));
        assert_eq!(read(&lane), Some(Ok((1, 3))));
        assert_eq!(read(&lane), Some(Ok((1, 4))), "a large one alone");
        assert_eq!(read(&lane), Some(Ok((0, 9))), "markers only");
        assert_eq!(lane.bytes(), 0);
        assert_eq!(lane.newest(), Some(9));
        assert_eq!(read(&lane), None);
    }

    #[test]
    fn an_error_stands_behind_what_was_read_and_stays() {
        let lane = Lane::default();
        lane.push(batch(1, 1));
        lane.fail(SourceError::Transient("first".to_owned()));
        lane.fail(SourceError::Transient("second".to_owned()));
        assert_eq!(read(&lane), Some(Ok((1, 1))));
        assert_eq!(read(&lane), Some(Err("first".to_owned())));
        assert_eq!(read(&lane), Some(Err("first".to_owned())));
    }

    #[test]
    fn a_read_that_is_dropped_takes_nothing() {
        let lane = Lane::default();
        for offset in 0..100 {
            let mut waiting = Box::pin(lane.read());
            assert!(waiting.as_mut().now_or_never().is_none());
            lane.push(batch(offset, 1));
            drop(waiting);
            assert_eq!(read(&lane), Some(Ok((1, offset))));
        }
    }
}
