//! Reading several shards at once, by futures that are dropped again and again: a reader that is not cancel safe loses events here.

use std::collections::HashSet;
use std::time::Duration;

use futures::FutureExt;
use longhaul_event::{Event, EventId, Start};
use tokio::time::{Instant, timeout};

use crate::{ReadBatch, Reader, Shard, Source, SourceError};

/// Longest time without a further event while some are missing.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long one read is given before its future is dropped, in turn.
const PATIENCE_MS: [u64; 4] = [1, 3, 10, 60];

/// One reader per shard, each with what its next batch must not fall behind.
pub(super) struct Tails {
    tails: Vec<Tail>,
    reads: usize,
}

/// A reader of one shard.
pub(super) struct Tail {
    pub(super) shard: Shard,
    pub(super) reader: Box<dyn Reader>,
    pub(super) covered: u64,
    pub(super) last_event: Option<u64>,
}

/// An event and the shard that it came from.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) shard: String,
    pub(super) incarnation: u64,
    pub(super) event: Event,
}

impl Tails {
    /// Opens every shard at its end: what is written from now on is what they read.
    pub(super) async fn open_latest(source: &dyn Source, shards: &[Shard]) -> Self {
        let mut tails = Vec::new();
        for shard in shards {
            tails.push(Tail::open(source, shard, Start::Latest).await);
        }
        Self { tails, reads: 0 }
    }

    /// Reads until all of these were found; panics about one that nobody wrote.
    pub(super) async fn collect(&mut self, written: &[Event]) -> Vec<Found> {
        let wanted: HashSet<EventId> = written.iter().map(|event| event.id).collect();
        let mut missing = wanted.clone();
        let mut found = Vec::new();
        let mut end = Instant::now() + STALL_MAX;
        while !missing.is_empty() {
            assert!(Instant::now() < end, "{} of {} events did not come back", missing.len(), wanted.len());
            for event in self.read_once().await {
                let id = event.event.id;
                assert!(wanted.contains(&id), "an event came that was not written now: {}", brief(&event));
                assert!(missing.remove(&id), "an event was read twice without a reason: {}", brief(&event));
                found.push(event);
                end = Instant::now() + STALL_MAX;
            }
        }
        found
    }

    /// One impatient read of every shard.
    pub(super) async fn read_once(&mut self) -> Vec<Found> {
        let mut found = Vec::new();
        for tail in &mut self.tails {
            let patience = PATIENCE_MS[self.reads % PATIENCE_MS.len()];
            self.reads += 1;
            found.extend(tail.read_impatiently(patience).await);
        }
        found
    }

    /// What the readers say is the end may lag, but never behind what they gave themselves.
    pub(super) fn end_is_not_behind(&self) {
        for tail in &self.tails {
            if let (Some(end), Some(last)) = (tail.reader.end(), tail.last_event) {
                assert!(end >= last, "{}: end() is {end}, but offset {last} was read", tail.shard.name);
            }
        }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Tail> {
        self.tails.iter_mut()
    }

    pub(super) fn into_tails(self) -> Vec<Tail> {
        self.tails
    }
}

/// Enough to tell which one it is; some are large.
pub(super) fn brief(found: &Found) -> String {
    let Event { id, offset, topic, .. } = &found.event;
    format!("{id} on {topic}, at offset {offset} of {}", found.shard)
}

impl Tail {
    /// Opens one shard, trying again while the broker is away.
    pub(super) async fn open(source: &dyn Source, shard: &Shard, start: Start) -> Self {
        let end = Instant::now() + Duration::from_secs(30);
        let reader = loop {
            match source.open(shard, start).await {
                Ok(reader) => break reader,
                Err(SourceError::Transient(_)) if Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("shard {} does not open at {start:?}: {error}", shard.name),
            }
        };
        let covered = reader.start();
        Self { shard: shard.clone(), reader, covered, last_event: None }
    }

    /// Drops one read that was polled once only, then waits that many milliseconds for another.
    pub(super) async fn read_impatiently(&mut self, patience_ms: u64) -> Vec<Found> {
        let batch = match self.reader.read().now_or_never() {
            Some(batch) => batch,
            None => match timeout(Duration::from_millis(patience_ms), self.reader.read()).await {
                Ok(batch) => batch,
                Err(_) => return Vec::new(),
            },
        };
        match batch {
            Ok(batch) => self.take(batch),
            Err(error) => panic!("shard {} stopped: {error}", self.shard.name),
        }
    }

    /// Checks what holds for every batch: ascending offsets behind all that was covered before, `last` at or behind the last event.
    fn take(&mut self, batch: ReadBatch) -> Vec<Found> {
        let name = &self.shard.name;
        let incarnation = self.reader.incarnation();
        for event in &batch.events {
            // In wrapping arithmetic, as `u64::MAX` stands before offset 0.
            let ahead = event.offset.wrapping_sub(self.covered);
            assert!(
                ahead != 0 && ahead < u64::MAX / 2,
                "{name}: offset {} came when everything up to {} was covered already",
                event.offset,
                self.covered
            );
            self.covered = event.offset;
            self.last_event = Some(event.offset);
        }
        let beyond = batch.last.wrapping_sub(self.covered);
        assert!(beyond < u64::MAX / 2, "{name}: `last` is {}, but offset {} is covered", batch.last, self.covered);
        self.covered = batch.last;
        batch.events.into_iter().map(|event| Found { shard: name.clone(), incarnation, event }).collect()
    }
}
