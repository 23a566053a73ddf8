//! Streams: read again from any position, by several at once; what is missing is told; a stream that was made again is another one.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{PATIENCE, Raw, connector, event, flow, nothing, number, open, read, stream_spec, to_stream};
use lapin::{BasicProperties, options::QueueDeleteOptions};
use longhaul_broker::{Connector, Gap, Reader, Sink, SinkError, Source, SourceError};
use longhaul_event::{Event, HeaderTag, Headers, Identity, Position, Start};
use longhaul_rabbitmq::RabbitMqConnector;
use longhaul_test_brokers::rabbitmq::RabbitMq;
use longhaul_test_brokers::skip;
use longhaul_topology::Guarantee;
use tokio::time::{Instant, sleep, timeout};

const QUIET: Duration = Duration::from_millis(500);

async fn open_at(source: &dyn Source, start: Start) -> Result<Box<dyn Reader>, SourceError> {
    let mut shards = source.shards();
    let listed = timeout(PATIENCE, shards.wait_for(|shards| !shards.is_empty())).await;
    let shard = listed.expect("the stream is listed").expect("the source is there")[0].clone();
    let end = Instant::now() + PATIENCE;
    loop {
        match source.open(&shard, start).await {
            Err(SourceError::Transient(_)) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
            opened => return opened,
        }
    }
}

async fn at(source: &dyn Source, start: Start) -> Box<dyn Reader> {
    open_at(source, start).await.unwrap_or_else(|error| panic!("the stream does not open at {start:?}: {error}"))
}

async fn gap(source: &dyn Source, start: Start) -> Gap {
    match open_at(source, start).await {
        Err(SourceError::Gap(gap)) => gap,
        Err(error) => panic!("{start:?} is refused as {error:?}"),
        Ok(_) => panic!("{start:?} opens"),
    }
}

async fn write(sink: &dyn Sink, route: &str, numbers: std::ops::Range<u64>, bytes: usize) {
    let mut writer = open(sink, &flow(route)).await.writer;
    let events = numbers.map(|number| event(number, "orders.new", bytes)).collect();
    timeout(PATIENCE, writer.write(events)).await.expect("a write resolves").expect("it is written");
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_read_by_position() {
    let node = RabbitMq::start().expect("RabbitMQ starts");
    let raw = Raw::connect(node.uri()).await;
    let rabbit = connector(node.uri());
    positions(&raw, &rabbit).await;
    identities(&raw, &rabbit).await;
    headers_that_amqp_1_0_does_not_know(&raw, &rabbit).await;
    retention_is_told(&raw, &rabbit).await;
    made_again_is_another(&node, &raw, &rabbit).await;
    refusals(&raw, &rabbit).await;
}

/// RabbitMQ 3.10 forgets a quorum queue, such as the note of a stream's life, that is younger than that when its node crashes.
const REGISTERED_AFTER: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_broker_changes_no_position() {
    const COUNT: u64 = 30_000;
    let mut node = RabbitMq::start().expect("RabbitMQ starts");
    let raw = Raw::connect(node.uri()).await;
    raw.stream("crashed", None).await;
    let rabbit = connector(node.uri());
    let source = rabbit.source(stream_spec("crashed")).expect("a source");
    let sink = rabbit.sink(to_stream("crashed")).expect("a sink");
    write(&*sink, "crashed", 0..COUNT / 2, 200).await;
    let mut reader = at(&*source, Start::Earliest).await;
    let (incarnation, shard) = (reader.incarnation(), source.shards().borrow()[0].clone());
    let mut events = read(&mut *reader, 1_000).await;
    sleep(REGISTERED_AFTER).await;
    if node.kill().is_err() {
        skip("a_crash_of_the_broker_changes_no_position", "an external broker is not ours to stop");
        return;
    }
    node = tokio::task::spawn_blocking(move || {
        node.restart().expect("the node comes back");
        node
    })
    .await
    .expect("the node comes back");
    // What was on its way may still come, and then the reader says that it is over.
    let end = Instant::now() + PATIENCE;
    while let Ok(batch) = timeout(PATIENCE, reader.read()).await.expect("an answer") {
        events.extend(batch.events);
        assert!(Instant::now() < end, "the reader survived its broker");
    }
    let cursor = Position { incarnation, offset: events.last().expect("some").offset };
    // One that knows nothing of before finds the same life.
    let other = connector(node.uri());
    let theirs = other.source(stream_spec("crashed")).expect("a source");
    let end = Instant::now() + PATIENCE;
    let there = loop {
        match theirs.open(&shard, Start::After(cursor)).await {
            Ok(there) => break there,
            Err(SourceError::Transient(_)) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("after the crash {error:?}"),
        }
    };
    assert_eq!(there.incarnation(), incarnation);
    // It may have been the first to ask who reads this.
    drop((there, theirs, other));
    reader = at(&*source, Start::After(cursor)).await;
    events.extend(read(&mut *reader, 1_000).await);
    write(&*sink, "crashed-again", COUNT / 2..COUNT, 200).await;
    while events.len() < usize::try_from(COUNT).expect("small") {
        events.extend(read(&mut *reader, 1).await);
    }
    assert_eq!(numbers(&events), (0..COUNT).collect::<Vec<_>>(), "every one once, in order");
}

async fn positions(raw: &Raw, rabbit: &RabbitMqConnector) {
    raw.stream("positions", None).await;
    let source = rabbit.source(stream_spec("positions")).expect("a source");
    let sink = rabbit.sink(to_stream("positions")).expect("a sink");
    let mut empty = at(&*source, Start::Latest).await;
    assert_eq!((empty.start(), empty.end()), (u64::MAX, None));
    write(&*sink, "positions", 0..2_000, 100).await;
    assert_eq!(numbers(&read(&mut *empty, 2_000).await), (0..2_000).collect::<Vec<_>>());

    // Two more, at once and apart from each other; no more than the prefetch is on its way to one that does not read.
    let incarnation = empty.incarnation();
    let mut one = at(&*source, Start::Earliest).await;
    let mut two = at(&*source, Start::After(Position { incarnation, offset: 1_500 })).await;
    assert_eq!((one.start(), two.start()), (u64::MAX, 1_500));
    let first = read(&mut *one, 1).await;
    assert_eq!(numbers(&read(&mut *two, 499).await), (1_501..2_000).collect::<Vec<_>>());
    let rest = read(&mut *one, 2_000 - first.len()).await;
    assert_eq!([numbers(&first), numbers(&rest)].concat(), (0..2_000).collect::<Vec<_>>());
    assert_eq!((one.incarnation(), two.incarnation()), (incarnation, incarnation));
    assert_eq!((one.end(), two.end()), (Some(1_999), Some(1_999)));

    let mut tail = at(&*source, Start::Latest).await;
    assert_eq!(tail.start(), 1_999);
    let mut late = at(&*source, Start::Time(i64::MAX / 2_000_000)).await;
    assert_eq!(late.start(), 1_999);
    nothing(&mut *tail, QUIET).await;
    write(&*sink, "positions", 2_000..2_003, 100).await;
    for reader in [&mut tail, &mut late, &mut one] {
        assert_eq!(numbers(&read(&mut **reader, 3).await), [2_000, 2_001, 2_002]);
        // Nothing is taken away by that.
        reader.release(2_002);
    }
    let mut again = at(&*source, Start::After(Position { incarnation, offset: u64::MAX })).await;
    assert_eq!(read(&mut *again, 2_003).await.len(), 2_003);
    let beyond = Start::After(Position { incarnation, offset: 2_003 });
    assert_eq!(gap(&*source, beyond).await, Gap::Truncated { cursor: 2_003, end: 2_003 });
}

async fn identities(raw: &Raw, rabbit: &RabbitMqConnector) {
    raw.stream("identities", None).await;
    let source = rabbit.source(stream_spec("identities")).expect("a source");
    for _ in 0..2 {
        assert!(raw.publish("", "identities", BasicProperties::default(), b"the same").await);
    }
    let events = read(&mut *at(&*source, Start::Earliest).await, 2).await;
    assert_eq!((events[0].identity, events[1].identity), (Identity::Unique, Identity::Unique));
    assert_ne!(events[0].id, events[1].id, "the place tells two equal messages apart");
    assert_eq!(read(&mut *at(&*source, Start::Earliest).await, 2).await, events, "and is the same the next time");
    assert!(events[0].headers.is_empty(), "the broker's own header is no header of the event");
}

async fn headers_that_amqp_1_0_does_not_know(raw: &Raw, rabbit: &RabbitMqConnector) {
    raw.stream("typed", None).await;
    let mut headers = Headers::builder();
    headers.push("repeated", b"b").expect("small");
    headers.push("amqp.cluster_id", b"c").expect("small");
    headers.push("repeated", b"a").expect("small");
    headers.push_tagged("double", HeaderTag(b'd'), &1.5_f64.to_be_bytes()).expect("small");
    headers.push_tagged("small", HeaderTag(b's'), &7_i16.to_be_bytes()).expect("small");
    headers.push_tagged("list", HeaderTag(b'A'), &[0, 0, 0, 2, b't', 1]).expect("small");
    let mut sent = event(1, "orders.new", 10);
    sent.headers = headers.finish();
    let sink = rabbit.sink(to_stream("typed")).expect("a sink");
    let mut writer = open(&*sink, &flow("typed")).await.writer;
    writer.write(vec![sent.clone()]).await.expect("it is written");
    let source = rabbit.source(stream_spec("typed")).expect("a source");
    let found = read(&mut *at(&*source, Start::Earliest).await, 1).await.remove(0);
    assert_eq!((found.headers, found.key, found.payload), (sent.headers, sent.key, sent.payload));
}

async fn retention_is_told(raw: &Raw, rabbit: &RabbitMqConnector) {
    raw.stream("short", Some(400_000)).await;
    let source = rabbit.source(stream_spec("short")).expect("a source");
    let sink = rabbit.sink(to_stream("short")).expect("a sink");
    write(&*sink, "short", 0..20, 1_000).await;
    let mut reader = at(&*source, Start::Earliest).await;
    let incarnation = reader.incarnation();
    assert_eq!(read(&mut *reader, 20).await.len(), 20);
    drop(reader);
    // It is when a segment is full that the broker looks at what is too much.
    let (mut next, end) = (20, Instant::now() + PATIENCE);
    let first = loop {
        write(&*sink, "short", next..next + 200, 1_000).await;
        next += 200;
        let first = at(&*source, Start::Earliest).await.start().wrapping_add(1);
        if first > 100 {
            break first;
        }
        assert!(Instant::now() < end, "the broker removes nothing");
    };
    let cursor = |offset| Start::After(Position { incarnation, offset });
    let Gap::Purged { from: 20, to } = gap(&*source, cursor(19)).await else { panic!("not what was not read") };
    assert!(to >= first, "{to} is before {first}");
    assert!(matches!(gap(&*source, cursor(u64::MAX)).await, Gap::Purged { from: 0, .. }));
    // Every segment begins with a number that is no message: holes that are none of ours to tell.
    let mut reader = at(&*source, Start::Earliest).await;
    let mut events = read(&mut *reader, 1).await;
    while number(events.last().expect("one")) < next - 1 {
        events.extend(read(&mut *reader, 1).await);
    }
    let beginning = number(&events[0]);
    assert_eq!(numbers(&events), (beginning..next).collect::<Vec<_>>());
    let holes = events.windows(2).filter(|pair| pair[1].offset != pair[0].offset + 1).count();
    assert!(holes > 0, "the test sees no hole between segments");
    for pair in events.windows(2) {
        if pair[1].offset != pair[0].offset + 1 {
            let mut reader = at(&*source, cursor(pair[0].offset)).await;
            assert_eq!(number(&read(&mut *reader, 1).await[0]), number(&pair[1]), "behind a hole");
        }
    }
}

async fn made_again_is_another(node: &RabbitMq, raw: &Raw, rabbit: &RabbitMqConnector) {
    raw.stream("again", None).await;
    let source = rabbit.source(stream_spec("again")).expect("a source");
    let sink = rabbit.sink(to_stream("again")).expect("a sink");
    write(&*sink, "again", 0..10, 10).await;
    let mut reader = at(&*source, Start::Earliest).await;
    assert_eq!(read(&mut *reader, 10).await.len(), 10);
    let incarnation = reader.incarnation();
    let other = connector(node.uri());
    let theirs = other.source(stream_spec("again")).expect("a source");
    let shard = source.shards().borrow()[0].clone();
    let cursor = Start::After(Position { incarnation, offset: 4 });
    let mut there = theirs.open(&shard, cursor).await.expect("what is listed here is readable there too");
    assert_eq!(there.incarnation(), incarnation, "all routers see the same life");
    assert_eq!(numbers(&read(&mut *there, 5).await), [5, 6, 7, 8, 9]);
    sleep(Duration::from_millis(1_500)).await;
    assert!(theirs.shards().borrow().is_empty(), "what another router has is not listed");

    raw.channel.queue_delete("again".into(), QueueDeleteOptions::default()).await.expect("a stream");
    let lost = timeout(PATIENCE, reader.read()).await.expect("an answer");
    assert!(matches!(lost, Err(SourceError::Transient(_))), "{lost:?}");
    raw.stream("again", None).await;
    write(&*sink, "again", 0..20, 10).await;
    let Gap::Recreated { cursor: was, found } = gap(&*source, cursor).await else { panic!("taken for the same") };
    assert_eq!(was, incarnation);
    assert_ne!(found, incarnation);
    assert_eq!(gap(&*theirs_alone(theirs, source).await, cursor).await, Gap::Recreated { cursor: was, found });
}

/// The other router's source, which gets the stream when the first is gone.
async fn theirs_alone(theirs: Arc<dyn Source>, ours: Arc<dyn Source>) -> Arc<dyn Source> {
    let begin = Instant::now();
    drop(ours);
    let mut shards = theirs.shards();
    let listed = timeout(PATIENCE, shards.wait_for(|shards| !shards.is_empty())).await;
    listed.expect("it takes over").expect("the source is there");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    theirs
}

async fn refusals(raw: &Raw, rabbit: &RabbitMqConnector) {
    raw.queue("no-stream", "quorum").await;
    assert!(raw.publish("", "no-stream", BasicProperties::default(), b"1").await);
    let source = rabbit.source(stream_spec("no-stream")).expect("a source");
    let refused = open_at(&*source, Start::Earliest).await.map(|_| ()).expect_err("a queue is no stream");
    assert!(matches!(&refused, SourceError::Config(text) if text.contains("is no stream")), "{refused}");
    let nowhere = rabbit.source(stream_spec("nowhere")).expect("a source");
    let refused = open_at(&*nowhere, Start::Earliest).await.map(|_| ()).expect_err("there is none");
    assert!(
        matches!(&refused, SourceError::Config(text) if text.contains("stream \"nowhere\" is not there")),
        "{refused}"
    );
    let mut once = to_stream("no-stream");
    once.guarantee = Guarantee::EffectivelyOnce;
    assert!(matches!(rabbit.sink(once), Err(SinkError::Config(_))), "it has no transactions");
    let nowhere = rabbit.sink(to_stream("nowhere")).expect("a sink");
    let refused = nowhere.open(&flow("nowhere"), None).await.map(|_| ()).expect_err("there is none");
    assert!(refused.to_string().contains("the stream \"nowhere\" is not there"), "{refused}");
    // What was taken to look at it comes back.
    raw.until_waiting("no-stream", 1).await;
}
