//! Streams as sources: replayable from any offset, by any number of readers.
//!
//! An offset is the message's own in the stream. The shard is listed by the router that should read it; that is a matter of work done once
//! only, for whoever opens the shard reads it.

mod life;
mod reader;
pub(crate) mod tap;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use lapin::Connection;
use lapin::types::ShortString;
use longhaul_broker::{Gap, Reader, Shard, Source, SourceError};
use longhaul_event::{Position, Start};
use tokio::sync::watch;

use crate::client::{Client, Role};
use crate::fault::Fault;
use crate::names;
use crate::owner::Owners;
use crate::source::short;
use crate::spool::look;
use crate::task::Task;
use life::Life;
use reader::StreamReader;
use tap::{Place, QUIET, READ_MAX, Tap};

/// How soon the message at a cursor comes, usually; it is looked for more closely when it does not.
const SOON: Duration = Duration::from_millis(300);
/// Before offset 0.
const BEFORE_ALL: u64 = u64::MAX;

/// One stream.
pub(crate) struct StreamSource {
    client: Arc<Client>,
    stream: ShortString,
    life: Life,
    shards: watch::Receiver<Arc<Vec<Shard>>>,
    _listing: Task,
}

impl StreamSource {
    /// Gets in line for the stream; it is listed when it is this router's turn.
    pub(crate) fn start(client: Arc<Client>, owners: &Owners, stream: &str) -> Result<Self, SourceError> {
        let stream = short(stream)?;
        let lock = names::stream_owner(&client.context, stream.as_str());
        let owner = owners.join(&client, &lock, format!("stream {stream}"));
        let shard = Shard { name: stream.as_str().to_owned(), topic: None, partition: None, replayable: true };
        let (listed, shards) = watch::channel(Arc::default());
        let listing = Task::spawn(&client.runtime, async move { owner.list(vec![shard], listed).await });
        Ok(Self { client, stream, life: Life::default(), shards, _listing: listing })
    }

    async fn open(&self, start: Start) -> Result<StreamReader, SourceError> {
        let connection = self.client.connection(Role::Read).await?;
        let waiting = look(&connection, "stream", &self.stream).await?;
        let found = self.find(&connection, start, waiting).await;
        // Behind the first look at the stream: made again before that it has another life now, and made again after that it ends the tap.
        let kind = self.client.access.queue_type;
        let incarnation = self.life.now(&connection, &self.stream, kind).await?;
        if let Start::After(cursor) = start
            && cursor.incarnation != incarnation
        {
            return Err(SourceError::Gap(Gap::Recreated { cursor: cursor.incarnation, found: incarnation }));
        }
        let (tap, start) = found?;
        Ok(StreamReader::new(tap, start, Arc::clone(&self.client), self.stream.clone(), incarnation))
    }

    /// A consumer, and the offset before what it gives first.
    async fn find(&self, connection: &Connection, start: Start, waiting: u64) -> Result<(Tap, u64), SourceError> {
        match start {
            Start::Earliest => {
                let mut tap = self.tap(connection, Place::First).await?;
                match tap.peek(QUIET).await? {
                    Some(first) => Ok((tap, first.wrapping_sub(1))),
                    None => self.end(connection, waiting).await,
                }
            }
            Start::Latest => self.end(connection, waiting).await,
            Start::Time(ms) => {
                let seconds = u64::try_from(ms / 1_000).unwrap_or(0);
                let mut tap = self.tap(connection, Place::Time(seconds)).await?;
                match tap.peek(QUIET).await? {
                    Some(first) => Ok((tap, first.wrapping_sub(1))),
                    None => self.end(connection, waiting).await,
                }
            }
            Start::After(cursor) => self.after(connection, cursor, waiting).await,
        }
    }

    async fn end(&self, connection: &Connection, waiting: u64) -> Result<(Tap, u64), SourceError> {
        match self.last(connection, waiting).await? {
            None => Ok((self.tap(connection, Place::At(0)).await?, BEFORE_ALL)),
            Some(last) => {
                let mut tap = self.tap(connection, Place::At(last)).await?;
                self.skip(&mut tap, last).await?;
                Ok((tap, last))
            }
        }
    }

    /// The last offset; `None` when the stream is empty, as the broker's count says too: it is late, but does not invent messages.
    async fn last(&self, connection: &Connection, waiting: u64) -> Result<Option<u64>, SourceError> {
        match tap::last(connection, &self.stream).await? {
            None if waiting > 0 => {
                let text = format!("the stream {:?} does not give its last message", self.stream.as_str());
                Err(SourceError::Transient(text))
            }
            last => Ok(last),
        }
    }

    /// Begins with the message at the cursor, so that it shows whether it is still there: what is behind it follows then without a hole.
    async fn after(&self, connection: &Connection, cursor: Position, waiting: u64) -> Result<(Tap, u64), SourceError> {
        let at = cursor.offset;
        if at == BEFORE_ALL {
            let mut tap = self.tap(connection, Place::At(0)).await?;
            return match tap.peek(SOON).await? {
                Some(first @ 1..) => Err(SourceError::Gap(Gap::Purged { from: 0, to: first })),
                _ => Ok((tap, at)),
            };
        }
        let mut tap = self.tap(connection, Place::At(at)).await?;
        let mut first = tap.peek(SOON).await?;
        if first.is_none() {
            match self.last(connection, waiting).await? {
                Some(last) if last < at => return Err(SourceError::Gap(Gap::Truncated { cursor: at, end: last + 1 })),
                None => return Err(SourceError::Gap(Gap::Truncated { cursor: at, end: 0 })),
                Some(_) => first = tap.peek(READ_MAX).await?,
            }
        }
        match first {
            Some(first) if first == at => self.skip(&mut tap, at).await?,
            Some(first) if first < at => return Err(SourceError::Gap(Gap::Truncated { cursor: at, end: first })),
            Some(first) if first > at + 1 => return Err(SourceError::Gap(Gap::Purged { from: at + 1, to: first })),
            Some(_) => {}
            None => {
                let text = format!("the stream {:?} does not give the message at offset {at}", self.stream.as_str());
                return Err(SourceError::Transient(text));
            }
        }
        Ok((tap, at))
    }

    /// Takes the message at that offset.
    async fn skip(&self, tap: &mut Tap, at: u64) -> Result<(), SourceError> {
        match tap.peek(READ_MAX).await? {
            Some(first) if first <= at => {
                let (_, delivery) = tap.next().await?;
                tap.more(delivery.delivery_tag);
                Ok(())
            }
            // Retention has taken it meanwhile.
            Some(_) => Ok(()),
            None => {
                let text = format!("the stream {:?} does not give its last message", self.stream.as_str());
                Err(SourceError::Transient(text))
            }
        }
    }

    async fn tap(&self, connection: &Connection, place: Place) -> Result<Tap, Fault> {
        Tap::open(connection, &self.stream, place, self.client.access.prefetch).await
    }
}

impl Source for StreamSource {
    fn shards(&self) -> watch::Receiver<Arc<Vec<Shard>>> {
        self.shards.clone()
    }

    fn open<'a>(&'a self, shard: &'a Shard, start: Start) -> BoxFuture<'a, Result<Box<dyn Reader>, SourceError>> {
        Box::pin(async move {
            if shard.name != self.stream.as_str() {
                return Err(SourceError::Config(format!("{:?} is no shard of this source", shard.name)));
            }
            let reader: Box<dyn Reader> = Box::new(Self::open(self, start).await?);
            Ok(reader)
        })
    }
}
