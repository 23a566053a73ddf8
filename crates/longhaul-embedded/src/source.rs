//! Reading: one shard, any number of readers at any position. A reader at the end sleeps until the log grows; nobody polls.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_broker::{Gap, ReadBatch, Reader, Shard, Source, SourceError};
use longhaul_event::{Position, Start};
use longhaul_topic::Filter;
use tokio::sync::watch;

use crate::log::Log;
use crate::store::{Extent, ReadError, StoreError};
use crate::writer::SHARD;

/// The log as a source, through filters.
pub(crate) struct LogSource {
    log: Arc<Log>,
    filters: Arc<[Filter]>,
    /// Held for its receivers' sake: the one shard never changes.
    shards: watch::Sender<Arc<Vec<Shard>>>,
}

impl LogSource {
    /// No filter takes every topic.
    pub(crate) fn new(log: Arc<Log>, filters: Vec<Filter>) -> Self {
        let shard = Shard { name: SHARD.to_owned(), topic: None, partition: None, replayable: true };
        Self { log, filters: filters.into(), shards: watch::channel(Arc::new(vec![shard])).0 }
    }

    /// The reader itself, for those who need no trait.
    pub(crate) async fn reader(&self, start: Start) -> Result<LogReader, SourceError> {
        let mut watch = self.log.watch_extent();
        let extent = *watch.borrow_and_update();
        let before = match start {
            Start::Latest => extent.next - 1,
            Start::Earliest => extent.first - 1,
            Start::Time(ms) => self.log.first_stored_at(ms).await.map_err(|error| told(error, extent.first))? - 1,
            Start::After(position) => after(position, &extent)?,
        };
        Ok(LogReader {
            log: Arc::clone(&self.log),
            filters: Arc::clone(&self.filters),
            extent: watch,
            incarnation: extent.incarnation,
            start: before,
            // Offsets begin with 1: what stands behind "before 0" is 1 too.
            next: before.wrapping_add(1).max(1),
            reading: None,
        })
    }
}

/// The offset itself, when what follows it is there or is yet to come.
fn after(position: Position, extent: &Extent) -> Result<u64, SourceError> {
    let next = position.offset.wrapping_add(1).max(1);
    let gap = if position.incarnation != extent.incarnation {
        Gap::Recreated { cursor: position.incarnation, found: extent.incarnation }
    } else if next < extent.first {
        Gap::Purged { from: next, to: extent.first }
    } else if next > extent.next {
        Gap::Truncated { cursor: position.offset, end: extent.next }
    } else {
        return Ok(position.offset);
    };
    Err(SourceError::Gap(gap))
}

impl Source for LogSource {
    fn shards(&self) -> watch::Receiver<Arc<Vec<Shard>>> {
        self.shards.subscribe()
    }

    fn open<'a>(&'a self, shard: &'a Shard, start: Start) -> BoxFuture<'a, Result<Box<dyn Reader>, SourceError>> {
        async move {
            if shard.name != SHARD {
                return Err(SourceError::Config(format!(
                    "an embedded broker has one shard, `{SHARD}`, and no `{}`",
                    shard.name
                )));
            }
            Ok(Box::new(self.reader(start).await?) as Box<dyn Reader>)
        }
        .boxed()
    }
}

/// Reads the log in order.
pub(crate) struct LogReader {
    log: Arc<Log>,
    filters: Arc<[Filter]>,
    extent: watch::Receiver<Extent>,
    incarnation: u64,
    start: u64,
    next: u64,
    /// A read under way. It stays here when the future that waits for it is dropped, so that nothing is lost.
    reading: Option<BoxFuture<'static, Result<ReadBatch, ReadError>>>,
}

impl LogReader {
    /// As [`Reader::read`].
    pub(crate) async fn next_batch(&mut self) -> Result<ReadBatch, SourceError> {
        if self.reading.is_none() {
            let next = self.next;
            let grown = self.extent.wait_for(|extent| extent.next > next).await;
            grown.map_err(|_| SourceError::Transient(StoreError::Closed.to_string()))?;
        }
        let (log, next, filters) = (&self.log, self.next, &self.filters);
        let reading = self.reading.get_or_insert_with(|| {
            let (log, filters) = (Arc::clone(log), Arc::clone(filters));
            async move { log.read(next, filters).await }.boxed()
        });
        let read = reading.await;
        self.reading = None;
        match read {
            Ok(batch) if batch.last.wrapping_add(1) == next => {
                // Behind the extent that was seen, yet nothing is there: it was all purged.
                Err(SourceError::Gap(Gap::Purged { from: next, to: self.extent.borrow().first }))
            }
            Ok(batch) => {
                self.next = batch.last + 1;
                Ok(batch)
            }
            Err(error) => Err(told(error, next)),
        }
    }
}

impl Reader for LogReader {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn start(&self) -> u64 {
        self.start
    }

    fn read(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        self.next_batch().boxed()
    }

    /// Retention alone decides what goes; a release changes nothing here.
    fn release(&mut self, _floor: u64) {}

    fn end(&self) -> Option<u64> {
        // Before the first event of an empty log stands 0, which is no offset.
        self.extent.borrow().next.checked_sub(1).filter(|last| *last > 0)
    }
}

fn told(error: ReadError, next: u64) -> SourceError {
    match error {
        ReadError::Purged { first } => SourceError::Gap(Gap::Purged { from: next, to: first }),
        ReadError::TooLarge { offset, bytes } => SourceError::Config(format!(
            "the event at offset {offset} has {bytes} bytes, more than an event may have here; raise the limit to read on"
        )),
        ReadError::Store(error) => SourceError::Transient(error.to_string()),
    }
}
