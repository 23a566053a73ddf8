//! What the tests against a real Kafka share.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use longhaul_broker::{
    Connector, Context, Gap, Opened, ReadBatch, Reader, Shard, Sink, SinkSpec, Source, SourceError, SourceSpec,
};
use longhaul_config::Kafka as Access;
use longhaul_event::{Event, EventId, Headers, Identity, Position, Start};
use longhaul_kafka::KafkaConnector;
use longhaul_test_brokers::kafka::Kafka;
use longhaul_topic::{Filter, Topic};
use longhaul_topology::{FlowKey, Guarantee, Partition, SinkKind, SourceKind};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use tokio::time::timeout;

pub(crate) const MESH: &str = "mesh";
pub(crate) const REGION: &str = "eu";
pub(crate) const BROKER: &str = "orders";
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn kafka() -> Kafka {
    Kafka::start().expect("Kafka starts")
}

pub(crate) fn context() -> Context {
    Context {
        mesh: MESH.to_owned(),
        region: REGION.to_owned(),
        broker: BROKER.to_owned(),
        router: "r1".to_owned(),
        cluster: 0xc1,
        event_bytes_max: 4 << 20,
    }
}

pub(crate) fn access(bootstrap: &str) -> Access {
    Access {
        bootstrap: vec![bootstrap.to_owned()],
        tls: None,
        sasl: None,
        create_topics: None,
        options: BTreeMap::new(),
    }
}

pub(crate) fn connector(bootstrap: &str) -> Arc<KafkaConnector> {
    KafkaConnector::new(access(bootstrap), context()).expect("the configuration is fine")
}

/// A name that no other test or run has.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    format!("{name}.{now}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::parse(name).expect("a topic")
}

pub(crate) fn filter(name: &str) -> Filter {
    Filter::parse(name).expect("a filter")
}

pub(crate) fn source(connector: &KafkaConnector, name: &str) -> Arc<dyn Source> {
    let source = SourceKind::Kafka { topics: vec![filter(name)] };
    connector.source(SourceSpec { source, spool: None }).expect("a Kafka source")
}

pub(crate) fn sink(connector: &KafkaConnector, partition: Partition) -> Arc<dyn Sink> {
    connector
        .sink(SinkSpec {
            sink: SinkKind::Kafka { partition, tombstone_on_empty: false },
            guarantee: Guarantee::AtLeastOnce,
        })
        .expect("a Kafka sink")
}

pub(crate) fn flow(route: &str) -> FlowKey {
    FlowKey {
        mesh: MESH.to_owned(),
        route: route.to_owned(),
        from: ("us".to_owned(), "origin".to_owned(), "orders/0".to_owned()),
        to: (REGION.to_owned(), BROKER.to_owned()),
    }
}

/// Event number `index`, with a body of that size.
pub(crate) fn event(index: usize, topic: &Topic, key: Option<&str>, bytes: usize) -> Event {
    Event {
        offset: index as u64,
        topic: topic.clone(),
        key: key.map(|key| Bytes::from(key.to_owned())),
        headers: Headers::default(),
        payload: Some(Bytes::from(vec![b'x'; bytes])),
        time_ms: 1_700_000_000_000,
        id: EventId(index as u128 + 1),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}

pub(crate) async fn shards(source: &dyn Source, count: usize) -> Vec<Shard> {
    let mut watch = source.shards();
    let found = timeout(PATIENCE, watch.wait_for(|shards| shards.len() == count)).await;
    found.expect("the shards appear in time").expect("the source lists").to_vec()
}

pub(crate) async fn open(sink: &dyn Sink, key: &FlowKey) -> Opened {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match sink.open(key, None).await {
            Ok(opened) => return opened,
            Err(error) => assert!(tokio::time::Instant::now() < end, "the flow does not open: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn read(reader: &mut dyn Reader) -> Result<ReadBatch, SourceError> {
    timeout(PATIENCE, reader.read()).await.expect("a read ends in time")
}

/// Reads that many events.
pub(crate) async fn collect(reader: &mut dyn Reader, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = read(reader).await.unwrap_or_else(|error| panic!("after {} events: {error}", events.len()));
        events.extend(batch.events);
    }
    events
}

/// Writes these events into one topic and waits until they are there.
pub(crate) async fn fill(connector: &KafkaConnector, events: Vec<Event>) {
    let mut writer = open(&*sink(connector, Partition::Key), &flow(&unique("fill"))).await.writer;
    timeout(PATIENCE, writer.write(events)).await.expect("a write ends in time").expect("it is written");
}

pub(crate) async fn earliest(source: &dyn Source, shard: &Shard) -> Box<dyn Reader> {
    open_reader(source, shard, Start::Earliest)
        .await
        .unwrap_or_else(|error| panic!("the partition does not open: {error}"))
}

/// A start behind that offset, in the life that the shard has now.
pub(crate) async fn after(source: &dyn Source, shard: &Shard, offset: u64) -> Start {
    let incarnation = earliest(source, shard).await.incarnation();
    Start::After(Position { incarnation, offset })
}

/// The gap that stands there instead of what was asked for.
pub(crate) fn gap<T>(result: Result<T, SourceError>) -> Gap {
    match result {
        Err(SourceError::Gap(gap)) => gap,
        Err(error) => panic!("no gap but {error:?}"),
        Ok(_) => panic!("no gap but success"),
    }
}

/// Reads to the end; how many events came, and why it ended.
pub(crate) async fn until_error(reader: &mut dyn Reader) -> (usize, SourceError) {
    let mut count = 0;
    loop {
        match read(reader).await {
            Ok(batch) => count += batch.events.len(),
            Err(error) => return (count, error),
        }
    }
}

/// What a reader opens with once the cluster has an answer: a partition that was just made may have no leader yet, and a
/// broker that has just started may not know its topics.
pub(crate) async fn open_reader(
    source: &dyn Source,
    shard: &Shard,
    start: Start,
) -> Result<Box<dyn Reader>, SourceError> {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match source.open(shard, start).await {
            Err(SourceError::Transient(_)) if tokio::time::Instant::now() < end => {}
            answer => return answer,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Has Kafka's own client write records with these numbers; the leader alone must have them.
pub(crate) fn produce(bootstrap: &str, topic: &str, numbers: std::ops::Range<usize>) {
    let producer: ThreadedProducer<DefaultProducerContext> = client(bootstrap, &[("acks", "1")]);
    for number in numbers {
        producer.send(BaseRecord::<(), str>::to(topic).payload(&number.to_string())).expect("it is queued");
    }
    producer.flush(PATIENCE).expect("it is written");
}

/// Kafka's own client for the tests' own doings.
pub(crate) fn client<T: rdkafka::config::FromClientConfig>(bootstrap: &str, options: &[(&str, &str)]) -> T {
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    for (key, value) in options {
        config.set(*key, *value);
    }
    config.create().expect("a client")
}

/// Events `from..to` of one topic in writes of 100, each with one of ten keys; all are confirmed.
pub(crate) async fn write_all(writer: &mut dyn longhaul_broker::Writer, events: &[Event]) {
    let writes: Vec<_> = events.chunks(100).map(|chunk| writer.write(chunk.to_vec())).collect();
    for write in writes {
        timeout(PATIENCE, write).await.expect("a write ends in time").expect("it is written");
    }
}

/// Events `0..count` of one topic, each with one of ten keys.
pub(crate) fn keyed(topic: &Topic, count: usize, bytes: usize) -> Vec<Event> {
    (0..count).map(|index| event(index, topic, Some(&format!("key-{}", index % 10)), bytes)).collect()
}
