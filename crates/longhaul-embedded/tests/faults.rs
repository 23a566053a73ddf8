//! The conformance suite finds what a wrong connector does: the embedded broker behind a port that breaks one rule at a time.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_broker::conformance::{Subject, run};
use longhaul_broker::{
    Connector, Context, Health, Opened, ReadBatch, Reader, Shard, Sink, SinkError, SinkSpec, Source, SourceError,
    SourceSpec, Writer,
};
use longhaul_event::{Event, Headers, Position, Start};
use longhaul_topic::Topic;
use longhaul_topology::{BrokerKind, FlowKey, Guarantee};
use support::EVENT_BYTES_MAX;
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    LosesWhatADroppedReadHad,
    ReadsAnEventTwice,
    SwapsNeighbours,
    LosesARepeatedHeader,
    MakesNoKeyAnEmptyKey,
    LosesProvenance,
    GivesAnotherIdentity,
    TellsAnEarlyLast,
    StartsOneTooEarly,
    AcceptsAnotherIncarnation,
    ForgetsTheCursor,
    SharesACursor,
    TellsTheWrongPoison,
    GoesOnAfterPoison,
    MakesATombstoneEmpty,
    BlocksOnRelease,
    WritesTheCursorFirst,
    WritesTheCursorLater,
    MovesTheCursorOverPoison,
    LosesTheCursorAtPoison,
    TellsAnEarlierCursor,
}

const FAULTS: [(Fault, &str); 21] = [
    (Fault::LosesWhatADroppedReadHad, "did not come back"),
    (Fault::ReadsAnEventTwice, "was covered already"),
    (Fault::SwapsNeighbours, "in the only shard"),
    (Fault::LosesARepeatedHeader, "headers of the event"),
    (Fault::MakesNoKeyAnEmptyKey, "key of the event"),
    (Fault::LosesProvenance, "provenance of the event"),
    (Fault::GivesAnotherIdentity, "an event came that was not written"),
    (Fault::TellsAnEarlyLast, "`last` is"),
    (Fault::StartsOneTooEarly, "start() of a reader"),
    (Fault::AcceptsAnotherIncarnation, "accepted in silence"),
    (Fault::ForgetsTheCursor, "the cursor of the last commit"),
    (Fault::SharesACursor, "is not another's"),
    (Fault::TellsTheWrongPoison, "the offset of the event that is too large"),
    (Fault::GoesOnAfterPoison, "is confirmed"),
    (Fault::MakesATombstoneEmpty, "payload of the event"),
    (Fault::BlocksOnRelease, "it blocks"),
    (Fault::WritesTheCursorFirst, "did not come back"),
    (Fault::WritesTheCursorLater, "not written now|read twice|behind what was confirmed"),
    (Fault::MovesTheCursorOverPoison, "not right before the refused event"),
    (Fault::LosesTheCursorAtPoison, "has a cursor"),
    (Fault::TellsAnEarlierCursor, "not written now|read twice|behind what was confirmed"),
];

/// Faults of writers that take events and cursor as one.
const OF_BOTH: [Fault; 5] = [
    Fault::WritesTheCursorFirst,
    Fault::WritesTheCursorLater,
    Fault::MovesTheCursorOverPoison,
    Fault::LosesTheCursorAtPoison,
    Fault::TellsAnEarlierCursor,
];

#[derive(Clone)]
struct Faulty {
    inner: Arc<dyn Connector>,
    fault: Fault,
}

struct FaultySource(Arc<dyn Source>, Fault);
struct FaultySink(Arc<dyn Sink>, Fault);

struct FaultyReader {
    inner: Box<dyn Reader>,
    fault: Fault,
    again: Option<Event>,
}

struct FaultyWriter {
    inner: Box<dyn Writer>,
    fault: Fault,
    confirms_all: Arc<AtomicBool>,
}

impl Connector for Faulty {
    fn health(&self) -> watch::Receiver<Health> {
        self.inner.health()
    }

    fn source(&self, spec: SourceSpec) -> Result<Arc<dyn Source>, SourceError> {
        Ok(Arc::new(FaultySource(self.inner.source(spec)?, self.fault)))
    }

    fn sink(&self, spec: SinkSpec) -> Result<Arc<dyn Sink>, SinkError> {
        Ok(Arc::new(FaultySink(self.inner.sink(spec)?, self.fault)))
    }
}

impl Source for FaultySource {
    fn shards(&self) -> watch::Receiver<Arc<Vec<Shard>>> {
        self.0.shards()
    }

    fn open<'a>(&'a self, shard: &'a Shard, start: Start) -> BoxFuture<'a, Result<Box<dyn Reader>, SourceError>> {
        async move {
            let inner = match (self.1, self.0.open(shard, start).await) {
                (Fault::AcceptsAnotherIncarnation, Err(SourceError::Gap(_))) => {
                    self.0.open(shard, Start::Earliest).await?
                }
                (_, opened) => opened?,
            };
            Ok(Box::new(FaultyReader { inner, fault: self.1, again: None }) as Box<dyn Reader>)
        }
        .boxed()
    }
}

impl Reader for FaultyReader {
    fn incarnation(&self) -> u64 {
        self.inner.incarnation()
    }

    fn start(&self) -> u64 {
        self.inner.start() - u64::from(self.fault == Fault::StartsOneTooEarly && self.inner.start() > 0)
    }

    fn read(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        async move {
            let mut batch = self.inner.read().await?;
            if self.fault == Fault::LosesWhatADroppedReadHad {
                // Whoever drops the future here loses the batch.
                tokio::task::yield_now().await;
            }
            if let Some(again) = self.again.take() {
                batch.events.insert(0, again);
            }
            match self.fault {
                Fault::ReadsAnEventTwice => self.again = batch.events.last().cloned(),
                Fault::SwapsNeighbours if batch.events.len() > 1 => {
                    let (first, second) = (batch.events[0].offset, batch.events[1].offset);
                    batch.events.swap(0, 1);
                    (batch.events[0].offset, batch.events[1].offset) = (first, second);
                }
                Fault::TellsAnEarlyLast => batch.last -= 1,
                _ => batch.events.iter_mut().for_each(|event| spoil(self.fault, event)),
            }
            Ok(batch)
        }
        .boxed()
    }

    fn release(&mut self, floor: u64) {
        if self.fault == Fault::BlocksOnRelease {
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        self.inner.release(floor);
    }

    fn end(&self) -> Option<u64> {
        self.inner.end()
    }
}

fn spoil(fault: Fault, event: &mut Event) {
    match fault {
        Fault::LosesARepeatedHeader => {
            let mut kept = Headers::builder();
            let mut last = None;
            for header in event.headers.iter() {
                if last != Some(header) {
                    kept.push_tagged(header.name, header.tag, header.value).unwrap();
                }
                last = Some(header);
            }
            event.headers = kept.finish();
        }
        Fault::MakesNoKeyAnEmptyKey => event.key = Some(event.key.take().unwrap_or_default()),
        Fault::LosesProvenance => event.provenance = Bytes::new(),
        Fault::GivesAnotherIdentity => event.id.0 ^= 1 << 127,
        Fault::MakesATombstoneEmpty => event.payload = Some(event.payload.take().unwrap_or_default()),
        _ => {}
    }
}

impl Sink for FaultySink {
    fn open<'a>(&'a self, flow: &'a FlowKey, partition: Option<u32>) -> BoxFuture<'a, Result<Opened, SinkError>> {
        async move {
            let mut flow = flow.clone();
            if self.1 == Fault::SharesACursor && flow.route == "other" {
                flow.route = "main".to_owned();
            }
            let Opened { writer: inner, mut cursor } = self.0.open(&flow, partition).await?;
            if self.1 == Fault::ForgetsTheCursor {
                cursor = None;
            }
            if self.1 == Fault::TellsAnEarlierCursor && flow.route == "once" {
                cursor = cursor.map(|cursor| Position { offset: cursor.offset - 4, ..cursor });
            }
            let writer = FaultyWriter { inner, fault: self.1, confirms_all: Arc::default() };
            Ok(Opened { writer: Box::new(writer), cursor })
        }
        .boxed()
    }
}

impl Writer for FaultyWriter {
    fn write(&mut self, events: Vec<Event>) -> BoxFuture<'static, Result<(), SinkError>> {
        let (fault, confirms_all) = (self.fault, Arc::clone(&self.confirms_all));
        let written = self.inner.write(events);
        async move {
            match written.await {
                Err(SinkError::Poison { offset, kind, reason }) => {
                    confirms_all.store(true, Ordering::SeqCst);
                    let offset = offset + u64::from(fault == Fault::TellsTheWrongPoison);
                    Err(SinkError::Poison { offset, kind, reason })
                }
                Err(_) if fault == Fault::GoesOnAfterPoison && confirms_all.load(Ordering::SeqCst) => Ok(()),
                written => written,
            }
        }
        .boxed()
    }

    fn write_with_cursor(
        &mut self,
        mut events: Vec<Event>,
        cursor: Position,
    ) -> BoxFuture<'static, Result<(), SinkError>> {
        let large = events.iter().position(|event| event.payload.as_ref().is_some_and(|p| p.len() > EVENT_BYTES_MAX));
        let dies = cursor.offset.is_multiple_of(7);
        match (self.fault, large) {
            // Whoever dies between the two steps leaves the first one only.
            (Fault::WritesTheCursorFirst, None) if dies => self.inner.commit(cursor),
            (Fault::WritesTheCursorLater, None) if dies => self.inner.write(events),
            (Fault::MovesTheCursorOverPoison, Some(large)) => {
                let refused = events.split_off(large);
                let written = self.inner.write_with_cursor(events, cursor);
                let refused = self.inner.write(refused);
                async move { written.await.and(refused.await) }.boxed()
            }
            (Fault::LosesTheCursorAtPoison, Some(_)) => self.inner.write(events),
            _ => self.inner.write_with_cursor(events, cursor),
        }
    }

    fn commit(&mut self, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>> {
        self.inner.commit(cursor)
    }
}

/// What the suite says about that fault.
async fn verdict(fault: Fault) -> Option<String> {
    let guarantee = if OF_BOTH.contains(&fault) { Guarantee::EffectivelyOnce } else { Guarantee::AtLeastOnce };
    let folder = tempfile::tempdir().unwrap();
    let broker = support::start(folder.path()).await;
    let Context { mesh, region, broker: name, .. } = support::context();
    let subject = Subject {
        connector: Arc::new(Faulty { inner: Arc::clone(&broker) as Arc<dyn Connector>, fault }),
        kind: BrokerKind::Embedded,
        source: support::source(&[]),
        sink: SinkSpec { guarantee, ..support::sink() },
        topics: vec![Topic::parse("orders.eu").unwrap(), Topic::parse("audit").unwrap()],
        mesh,
        region,
        broker: name,
        too_large_bytes: support::EVENT_BYTES_MAX + 1,
    };
    let verdict = AssertUnwindSafe(run(&subject)).catch_unwind().await.err();
    broker.stop().await;
    verdict.map(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast::<&str>().expect("a panic has a text")).to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_found_and_named() {
    let verdicts = FAULTS.map(|(fault, words)| async move {
        let found = tokio::spawn(verdict(fault)).await.unwrap();
        let found = found.unwrap_or_else(|| panic!("{fault:?} is not found"));
        assert!(words.split('|').any(|words| found.contains(words)), "{fault:?} is found by: {found}");
    });
    futures::future::join_all(verdicts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_without_a_fault_is_not_accused() {
    assert_eq!(verdict(Fault::None).await, None);
}
