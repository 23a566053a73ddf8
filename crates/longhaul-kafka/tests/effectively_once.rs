//! Effectively once against a real Kafka: whoever dies, and whenever, every event is there once and in order.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use futures::future::BoxFuture;
use longhaul_broker::conformance::{Subject, run};
use longhaul_broker::{Connector, Opened, Poison, Sink, SinkError, SinkSpec, SourceSpec, Writer};
use longhaul_event::{Event, Position};
use longhaul_kafka::{CURSORS, KafkaConnector};
use longhaul_test_brokers::kafka::Kafka;
use longhaul_topology::{BrokerKind, FlowKey, Guarantee, Partition, SinkKind, SourceKind};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tokio::time::{Instant, sleep, timeout};

fn spec() -> SinkSpec {
    SinkSpec {
        sink: SinkKind::Kafka { partition: Partition::Key, tombstone_on_empty: false },
        guarantee: Guarantee::EffectivelyOnce,
    }
}

fn atomic(connector: &KafkaConnector) -> Arc<dyn Sink> {
    connector.sink(spec()).expect("a Kafka sink")
}

fn at(offset: usize) -> Position {
    Position { incarnation: 5, offset: offset as u64 }
}

/// Numbers that look random; the seed is printed with every failure.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").subsec_nanos();
        Self(u64::from(seed) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % limit
    }
}

/// Where a flow stands, and what of it is known.
struct Flow<'a> {
    key: FlowKey,
    events: &'a [Event],
    /// Events that were confirmed.
    confirmed: usize,
}

/// Events of one write, and writes under way: as a router has them.
const WRITE: usize = 50;
const UNDER_WAY: usize = 16;

impl<'a> Flow<'a> {
    fn new(name: &str, events: &'a [Event]) -> Self {
        Self { key: flow(&unique(name)), events, confirmed: 0 }
    }

    async fn open(&self, sink: &dyn Sink) -> (Box<dyn Writer>, usize) {
        let Opened { writer, cursor } = open(sink, &self.key).await;
        let next = cursor.map_or(0, |cursor| usize::try_from(cursor.offset).expect("small") + 1);
        assert!(next >= self.confirmed, "the cursor stands at {next}, but {} events were confirmed", self.confirmed);
        (writer, next)
    }

    /// Writes on from the cursor until all is confirmed, an error comes, or the time is over; then the writer is dropped.
    async fn write_on(&mut self, sink: &dyn Sink, patience: Duration) -> Result<(), SinkError> {
        let (mut writer, next) = self.open(sink).await;
        self.confirmed = self.confirmed.max(next);
        let mut under_way: std::collections::VecDeque<(usize, BoxFuture<_>)> = Default::default();
        let (mut next, end) = (next, Instant::now() + patience);
        while self.confirmed < self.events.len() {
            while next < self.events.len() && under_way.len() < UNDER_WAY {
                let to = (next + WRITE).min(self.events.len());
                under_way.push_back((to, writer.write_with_cursor(self.events[next..to].to_vec(), at(to - 1))));
                next = to;
            }
            let (to, write) = under_way.pop_front().expect("something is under way");
            match tokio::time::timeout_at(end, write).await {
                Err(_) => return Ok(()),
                Ok(Ok(())) => self.confirmed = to,
                Ok(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// As a router does it: opens again after every failure.
    async fn write_all(&mut self, sink: &dyn Sink) {
        let end = Instant::now() + PATIENCE;
        while self.confirmed < self.events.len() {
            assert!(Instant::now() < end, "{} of {} events are confirmed", self.confirmed, self.events.len());
            if self.write_on(sink, PATIENCE).await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Reads as a route does, and finds every event once and, within every lane (a key of a flow), in order.
async fn is_there_once(
    connector: &KafkaConnector,
    name: &str,
    partitions: usize,
    count: usize,
    lane: impl Fn(usize) -> usize,
) {
    let source = source(connector, name);
    let mut found = Vec::new();
    for shard in shards(&*source, partitions).await {
        let mut reader = earliest(&*source, &shard).await;
        let mut last = HashMap::new();
        // What is not committed yet comes late; a second without any is believed to be the end once all have come.
        let mut until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            let Ok(batch) = timeout(Duration::from_millis(100), reader.read()).await else { continue };
            for event in batch.expect("reading works").events {
                let number = usize::try_from(event.id.0 - 1).expect("small");
                let before = last.insert(lane(number), number);
                assert!(before < Some(number), "event {number} came after {before:?}");
                found.push(number);
                until = Instant::now() + Duration::from_secs(1);
            }
        }
    }
    found.sort_unstable();
    let twice: Vec<_> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    assert!(twice.is_empty(), "{} events are there twice: {:?}", twice.len(), &twice[..twice.len().min(10)]);
    let missing: Vec<_> = (0..count).filter(|number| found.binary_search(number).is_err()).collect();
    assert!(missing.is_empty(), "{} events are missing: {:?}", missing.len(), ranges(&missing));
    assert_eq!(found.len(), count, "nothing is there that nobody wrote");
}

/// The same in short.
fn ranges(numbers: &[usize]) -> Vec<(usize, usize)> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    ranges
}

fn ready(partitions: u32) -> (Kafka, String) {
    ready_with(partitions, &[])
}

fn ready_with(partitions: u32, options: &[(&str, &str)]) -> (Kafka, String) {
    let kafka = Kafka::start_with(options).expect("Kafka starts");
    let name = unique("once");
    // The events' time lies years back: after half a minute, Kafka would delete them.
    kafka.create_topic_with(&name, partitions, &[("retention.ms", "-1")]).expect("the topic can be made");
    (kafka, name)
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_conforms_in_transactions() {
    let kafka = kafka();
    let names = [unique("first"), unique("second")];
    for name in &names {
        kafka.create_topic(name, 3).expect("the topic can be made");
    }
    let subject = Subject {
        connector: connector(kafka.bootstrap()),
        kind: BrokerKind::Kafka,
        source: SourceSpec {
            source: SourceKind::Kafka { topics: names.iter().map(|name| filter(name)).collect() },
            spool: None,
        },
        sink: spec(),
        topics: names.iter().map(|name| topic(name)).collect(),
        mesh: MESH.to_owned(),
        region: REGION.to_owned(),
        broker: BROKER.to_owned(),
        // Kafka's own default limit is 1 MiB and 12 bytes.
        too_large_bytes: 1_048_589,
    };
    run(&subject).await;
}

/// Four flows, so that buckets are shared and not shared; the broker is killed at any moment, between a commit and its answer too.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_loses_and_doubles_nothing() {
    const FLOWS: usize = 4;
    const EACH: usize = 5_000;
    const PART: usize = 100;
    const KILLS: usize = 3;
    // It is let back in only when its former life has run out.
    let quick = [("broker.session.timeout.ms", "2000"), ("broker.heartbeat.interval.ms", "500")];
    let (mut kafka, name) = ready_with(2, &quick);
    let (connector, mut dice) = (connector(kafka.bootstrap()), Dice::new());
    let sink = atomic(&connector);
    let events = keyed(&topic(&name), FLOWS * EACH, 100);
    // Each with every fourth event, so that number modulo 20 says flow and key.
    let of_flow = |number: usize| -> Vec<Event> {
        let own = events.iter().skip(number).step_by(FLOWS).cloned();
        own.enumerate().map(|(at, event)| Event { offset: at as u64, ..event }).collect()
    };
    let (mut writing, confirmed) = (Vec::new(), Arc::new(AtomicUsize::new(0)));
    for number in 0..FLOWS {
        let (sink, events, confirmed) = (Arc::clone(&sink), of_flow(number), Arc::clone(&confirmed));
        writing.push(tokio::spawn(async move {
            let mut flow = Flow::new("killed", &events);
            for part in 1..=EACH / PART {
                flow.events = &events[..PART * part];
                flow.write_all(&*sink).await;
                confirmed.fetch_add(PART, Ordering::Relaxed);
            }
        }));
    }
    for kill in 1..=KILLS {
        let end = Instant::now() + PATIENCE;
        while confirmed.load(Ordering::Relaxed) < FLOWS * EACH * kill / (KILLS + 1) {
            assert!(Instant::now() < end, "the flows go on before kill {kill}");
            sleep(Duration::from_millis(1)).await;
        }
        // Any moment of a transaction.
        sleep(Duration::from_micros(dice.below(40_000))).await;
        kafka.kill();
        assert!(confirmed.load(Ordering::Relaxed) < FLOWS * EACH, "kill {kill} comes while something is under way");
        kafka.restart().expect("Kafka starts again");
    }
    for flow in writing {
        flow.await.expect("a flow comes to its end");
    }
    is_there_once(&connector, &name, 2, FLOWS * EACH, |number| number % 20).await;
}

/// Writers that end at any moment, and two routers that take the flow from each other: what one of them has half done is never seen.
#[tokio::test(flavor = "multi_thread")]
async fn writers_that_end_and_zombies_lose_and_double_nothing() {
    const COUNT: usize = 20_000;
    // Shares of the events, so that a fast broker leaves some for every round.
    const PER_END: usize = 400;
    const BEFORE: usize = 1_000;
    const AFTER: usize = 400;
    let (kafka, name) = ready(3);
    let routers = [connector(kafka.bootstrap()), connector(kafka.bootstrap())];
    let (sinks, mut dice) = (routers.each_ref().map(|router| atomic(router)), Dice::new());
    let events = keyed(&topic(&name), COUNT, 100);
    let mut flow = Flow::new("zombie", &events);

    for round in 1..=15 {
        flow.events = &events[..round * PER_END];
        flow.write_on(&*sinks[0], Duration::from_millis(dice.below(60))).await.expect("nobody else writes");
    }
    let (mut fenced, mut refusals) = (0, Vec::new());
    for round in 0..8 {
        let (old, new) = (&sinks[round % 2], &sinks[(round + 1) % 2]);
        let (mut zombie, from) = flow.open(&**old).await;
        let write = |zombie: &mut Box<dyn Writer>, from: usize, count: usize| {
            let to = from + count;
            let writes = (from..to).step_by(WRITE).map(|from| {
                let to = (from + WRITE).min(to);
                zombie.write_with_cursor(events[from..to].to_vec(), at(to - 1))
            });
            writes.collect::<Vec<_>>()
        };
        // Perhaps it is through when the other one comes, perhaps not begun.
        let before = write(&mut zombie, from, BEFORE);
        sleep(Duration::from_millis(dice.below(40))).await;
        flow.events = &events[..from + BEFORE + AFTER];
        flow.write_on(&**new, Duration::from_millis(50)).await.expect("the new one has the bucket");
        // It wakes up and goes on, as if nothing had happened.
        let after = write(&mut zombie, from + BEFORE, 200);
        let mut confirmed = 0;
        for (number, result) in futures::future::join_all(before.into_iter().chain(after)).await.into_iter().enumerate()
        {
            match result {
                Ok(()) => confirmed = number + 1,
                Err(error) => {
                    fenced += usize::from(error.to_string().contains("another router has taken over"));
                    refusals.push(error.to_string());
                }
            }
        }
        assert!(confirmed * WRITE <= BEFORE, "a zombie wrote (seed {})", dice.0);
        flow.confirmed = flow.confirmed.max(from + confirmed * WRITE);
    }
    assert!(fenced > 0, "a zombie is told why (seed {}): {refusals:#?}", dice.0);
    flow.events = &events;
    flow.write_all(&*sinks[0]).await;
    is_there_once(&routers[0], &name, 3, COUNT, |number| number % 10).await;
}

/// Somebody's open transaction hides what stands behind it in the topic of cursors: an older cursor must not be taken for the last.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_is_waited_for_and_an_aborted_one_is_never_seen() {
    let (kafka, name) = ready(1);
    let connector = connector(kafka.bootstrap());
    let sink = atomic(&connector);
    let events = keyed(&topic(&name), 40, 10);
    let mut opened = open(&*sink, &flow("hidden")).await;
    opened.writer.write_with_cursor(events[..10].to_vec(), at(9)).await.expect("it is written");

    let other: BaseProducer = client(kafka.bootstrap(), &[("transactional.id", "somebody.else")]);
    other.init_transactions(PATIENCE).expect("it is set up");
    other.begin_transaction().expect("it begins");
    for topic in [CURSORS, &name] {
        other.send(BaseRecord::<[u8], [u8]>::to(topic).key(b"x").payload(b"never seen")).expect("it is queued");
    }
    // Not `flush`: that is part of a commit, and this one only has to reach the broker.
    let until = Instant::now() + PATIENCE;
    while other.in_flight_count() > 0 && Instant::now() < until {
        other.poll(Duration::from_millis(10));
    }
    opened.writer.write_with_cursor(events[10..20].to_vec(), at(19)).await.expect("it is written");
    drop(opened);
    let (key, waiting) = (flow("hidden"), Arc::clone(&sink));
    let opening = tokio::spawn(async move { open(&*waiting, &key).await });
    sleep(Duration::from_secs(1)).await;
    assert!(!opening.is_finished(), "what stands behind the open transaction is not known yet");
    tokio::task::spawn_blocking(move || other.abort_transaction(PATIENCE))
        .await
        .expect("it runs")
        .expect("it is aborted");
    let mut opened = timeout(PATIENCE, opening).await.expect("in time").expect("it opens");
    assert_eq!(opened.cursor, Some(at(19)));
    // Behind the marker that the abort left in the partition, too.
    opened.writer.write_with_cursor(events[20..].to_vec(), at(39)).await.expect("it is written");
    is_there_once(&connector, &name, 1, 40, |number| number % 10).await;
}

fn poison(result: Result<(), SinkError>) -> (u64, Poison) {
    match result {
        Err(SinkError::Poison { offset, kind, .. }) => (offset, kind),
        other => panic!("no poison but {other:?}"),
    }
}

/// What only the broker refuses is found; what stands before it is written with its cursor; the neighbours retry once.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_refuses_is_found_and_harms_no_neighbour() {
    const COUNT: usize = 3_000;
    let (kafka, name) = ready(1);
    let compacted = unique("compacted");
    kafka
        .create_topic_with(&compacted, 1, &[("cleanup.policy", "compact"), ("retention.ms", "-1")])
        .expect("the topic can be made");
    let connector = connector(kafka.bootstrap());
    let sink = atomic(&connector);

    // Neighbours in all the buckets, which write all the time.
    let neighbours = (0..8).map(|number| {
        let (sink, name) = (Arc::clone(&sink), name.clone());
        tokio::spawn(async move {
            let all = keyed(&topic(&name), COUNT * 8, 10);
            let events: Vec<_> = all[number * COUNT..(number + 1) * COUNT].to_vec();
            let events: Vec<_> =
                events.into_iter().enumerate().map(|(at, event)| Event { offset: at as u64, ..event }).collect();
            let (mut flow, mut failures) = (Flow::new("neighbour", &events), 0);
            for part in 1..=30 {
                flow.events = &events[..COUNT * part / 30];
                while flow.confirmed < flow.events.len() {
                    failures += usize::from(flow.write_on(&*sink, PATIENCE).await.is_err());
                }
                sleep(Duration::from_millis(50)).await;
            }
            failures
        })
    });
    let neighbours: Vec<_> = neighbours.collect();
    sleep(Duration::from_millis(300)).await;
    let mut events = keyed(&topic(&compacted), 30, 10);
    events[14].key = None;
    let key = flow(&unique("poisoned"));
    let (mut refused, mut others) = (None, Vec::new());
    for _ in 0..5 {
        let Opened { mut writer, cursor } = open(&*sink, &key).await;
        let from = cursor.map_or(0, |cursor| usize::try_from(cursor.offset).expect("small") + 1);
        let (first, second) = (from.max(7), 20);
        let writes = [from..first, first..second, second..30].map(|range| {
            let cursor = at(range.end - 1);
            writer.write_with_cursor(events[range].to_vec(), cursor)
        });
        let results = futures::future::join_all(writes).await;
        if let Some(at) = results.iter().position(|result| matches!(result, Err(SinkError::Poison { .. }))) {
            assert!(results[..at].iter().all(Result::is_ok), "all that stands before it is confirmed: {results:?}");
            assert!(results[at + 1..].iter().all(Result::is_err), "nothing behind it is confirmed: {results:?}");
            refused = results.into_iter().nth(at);
            break;
        }
        others.push(results);
    }
    let refused = refused.unwrap_or_else(|| panic!("it is not found: {others:#?}"));
    assert_eq!(poison(refused), (14, Poison::Refused));
    let Opened { mut writer, cursor } = open(&*sink, &key).await;
    assert_eq!(cursor, Some(at(13)), "the cursor stands before it");
    writer.write_with_cursor(events[15..].to_vec(), at(29)).await.expect("the rest is fine");
    drop(writer);
    for neighbour in neighbours {
        let failures = neighbour.await.expect("a neighbour is fine");
        assert!(failures <= 3, "a neighbour failed {failures} times");
    }
    is_there_once(&connector, &name, 1, 8 * COUNT, |number| number / COUNT * 10 + number % 10).await;
    let source = source(&connector, &compacted);
    let mut reader = earliest(&*source, &shards(&*source, 1).await[0]).await;
    let read: Vec<u64> = collect(&mut *reader, 29).await.iter().map(|event| event.id.0 as u64 - 1).collect();
    assert_eq!(read, (0..30).filter(|number| *number != 14).collect::<Vec<_>>());
}
