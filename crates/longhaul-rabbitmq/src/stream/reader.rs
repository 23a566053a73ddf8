//! Reads one stream in order; an acknowledgement means "send more" and nothing else, for a stream forgets nothing by being read.
//!
//! Offsets are numbers of messages and follow each other. Where one is missing, retention has overtaken this reader, or the broker keeps
//! something of its own in the stream, which takes an offset too: at the beginning of each segment, and where another client has its positions
//! stored. The offset of the first message tells which.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use lapin::message::Delivery;
use lapin::types::ShortString;
use longhaul_broker::{Gap, ReadBatch, Reader, SourceError};
use longhaul_event::{Event, hash64};

use super::tap::{self, Place, QUIET, Tap};
use crate::client::{Client, Role};
use crate::fault::Fault;
use crate::map::{self, Incoming, StreamPlace};
use crate::task::Task;

/// A batch is full with that many bytes.
const BATCH_BYTES: usize = 256 * 1024;
/// How often the end of the stream is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Reads one stream.
pub(crate) struct StreamReader {
    tap: Tap,
    client: Arc<Client>,
    stream: ShortString,
    place: StreamPlace,
    start: u64,
    /// Everything up to here is given, in wrapping arithmetic.
    given: u64,
    /// The message behind a hole, and the search for what the hole is.
    behind: Option<(u64, Delivery)>,
    search: Option<BoxFuture<'static, Result<Option<u64>, Fault>>>,
    /// One more than the newest offset, as far as it is known.
    end: Arc<AtomicU64>,
    failed: Option<SourceError>,
    _looking: Task,
}

impl StreamReader {
    /// Goes on behind `start`, where the tap stands.
    pub(crate) fn new(tap: Tap, start: u64, client: Arc<Client>, stream: ShortString, incarnation: u64) -> Self {
        let shard = hash64(stream.as_str().as_bytes());
        let place = StreamPlace { cluster: client.context.cluster, incarnation, shard };
        let end = Arc::new(AtomicU64::new(start.wrapping_add(1)));
        let looking = look(Arc::clone(&client), stream.clone(), Arc::clone(&end));
        let looking = Task::spawn(&client.runtime, looking);
        Self {
            tap,
            client,
            stream,
            place,
            start,
            given: start,
            behind: None,
            search: None,
            end,
            failed: None,
            _looking: looking,
        }
    }

    /// Waits before anything is taken only, so that dropping the future loses nothing.
    async fn read(&mut self) -> Result<ReadBatch, SourceError> {
        loop {
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            if let Some(search) = &mut self.search {
                let first = search.await;
                self.search = None;
                if let Err(error) = self.explain(first) {
                    self.failed = Some(error);
                }
                continue;
            }
            let first = match self.behind.take() {
                Some(explained) => Ok((explained, true)),
                None => self.tap.next().await.map(|next| (next, false)),
            };
            if let Some(batch) = self.fill(first) {
                return Ok(batch);
            }
        }
    }

    /// A batch of what is here; `None` when that is nothing, and the reason stands in `failed` or `search`.
    fn fill(&mut self, first: Result<((u64, Delivery), bool), Fault>) -> Option<ReadBatch> {
        let (before, mut next) = (self.given, Some(first));
        let (mut events, mut size, mut tag) = (Vec::new(), 0, None);
        while let Some(message) = next {
            match message {
                Ok(((offset, delivery), explained)) => {
                    if !explained && offset != self.given.wrapping_add(1) {
                        self.suspect(offset, delivery);
                        break;
                    }
                    let of_delivery = delivery.delivery_tag;
                    match self.event(offset, delivery) {
                        Ok(event) => {
                            (tag, size, self.given) = (Some(of_delivery), size + event.size(), offset);
                            events.push(event);
                        }
                        Err(error) => {
                            self.failed = Some(error);
                            break;
                        }
                    }
                }
                Err(fault) => {
                    self.failed = Some(fault.into());
                    break;
                }
            }
            next = if size < BATCH_BYTES { self.tap.ready().map(|next| next.map(|next| (next, false))) } else { None };
        }
        if let Some(tag) = tag {
            self.tap.more(tag);
        }
        self.end.fetch_max(self.given.wrapping_add(1), Ordering::Relaxed);
        (self.given != before).then_some(ReadBatch { events, last: self.given })
    }

    /// Something is missing before that message: keeps it until it is known what.
    fn suspect(&mut self, offset: u64, delivery: Delivery) {
        let (client, stream) = (Arc::clone(&self.client), self.stream.clone());
        self.behind = Some((offset, delivery));
        self.search = Some(Box::pin(async move {
            let connection = client.connection(Role::Read).await?;
            tap::first(&connection, &stream).await
        }));
    }

    fn explain(&mut self, first: Result<Option<u64>, Fault>) -> Result<(), SourceError> {
        let from = self.given.wrapping_add(1);
        let behind = self.behind.as_ref().map_or(from, |(offset, _)| *offset);
        match first? {
            Some(first) if first > from => Err(SourceError::Gap(Gap::Purged { from, to: first.min(behind) })),
            Some(_) if behind > from => Ok(()),
            _ => {
                let text = format!("the stream {:?} gave offset {behind} where {from} follows", self.stream.as_str());
                Err(SourceError::Transient(text))
            }
        }
    }

    fn event(&self, offset: u64, delivery: Delivery) -> Result<Event, SourceError> {
        let refused = |reason: String| {
            let stream = self.stream.as_str();
            SourceError::Config(format!(
                "the message at offset {offset} of the stream {stream:?} cannot be carried: {reason}"
            ))
        };
        let message = Incoming {
            tag: offset,
            exchange: delivery.exchange,
            routing_key: delivery.routing_key,
            properties: delivery.properties,
            body: delivery.data.into(),
        };
        let event = map::to_stream_event(message, self.place).map_err(refused)?;
        let max = self.client.context.event_bytes_max;
        if event.size() > max {
            return Err(refused(format!("it has {} bytes, and at most {max} are allowed", event.size())));
        }
        Ok(event)
    }
}

/// Looks for the end of the stream: the last chunk begins at it or before it.
async fn look(client: Arc<Client>, stream: ShortString, end: Arc<AtomicU64>) {
    loop {
        if let Ok(connection) = client.connection(Role::Read).await
            && let Ok(mut tap) = Tap::open(&connection, &stream, Place::Last, 1).await
            && let Ok(Some(last)) = tap.peek(QUIET).await
        {
            end.fetch_max(last + 1, Ordering::Relaxed);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Reader for StreamReader {
    fn incarnation(&self) -> u64 {
        self.place.incarnation
    }

    fn start(&self) -> u64 {
        self.start
    }

    fn read(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        Self::read(self).boxed()
    }

    fn release(&mut self, _floor: u64) {}

    fn end(&self) -> Option<u64> {
        self.end.load(Ordering::Relaxed).checked_sub(1)
    }
}
