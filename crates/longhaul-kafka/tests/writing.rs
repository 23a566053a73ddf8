//! Writing to a real Kafka: what it refuses is named with its offset, and nothing hangs.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::*;
use longhaul_broker::{Connector, Poison, Sink, SinkError, SinkSpec};
use longhaul_config::CreateTopics;
use longhaul_event::Event;
use longhaul_kafka::KafkaConnector;
use longhaul_topology::{Guarantee, Partition, SinkKind};
use tokio::time::timeout;

async fn write(sink: &dyn Sink, events: Vec<Event>) -> Result<(), SinkError> {
    let mut writer = open(sink, &flow(&unique("w"))).await.writer;
    timeout(PATIENCE, writer.write(events)).await.expect("a write ends in time")
}

fn poison(result: Result<(), SinkError>) -> (u64, Poison) {
    match result {
        Err(SinkError::Poison { offset, kind, .. }) => (offset, kind),
        other => panic!("no poison but {other:?}"),
    }
}

fn config(result: Result<(), SinkError>) -> String {
    match result {
        Err(SinkError::Config(text)) => text,
        other => panic!("no refusal but {other:?}"),
    }
}

/// Where the Java client puts a key: its murmur2, of which the sign is cut off, by the number of partitions.
fn java_partition(key: &[u8], partitions: u32) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(key.len()).expect("short");
    let chunks = key.chunks_exact(4);
    let rest = chunks.remainder();
    for chunk in chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().expect("four bytes")).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^= hash >> 15;
    (hash & 0x7fff_ffff) % partitions
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_named_with_their_offset() {
    let kafka = kafka();
    let connector = connector(kafka.bootstrap());
    let by_key = sink(&connector, Partition::Key);

    // A topic that takes less than others: the limit is known beforehand, and nothing behind the refused event is written.
    let small = unique("small");
    kafka.create_topic_with(&small, 1, &[("max.message.bytes", "5000")]).expect("the topic can be made");
    let at = |index, bytes| event(index, &topic(&small), Some("k"), bytes);
    let mut events: Vec<Event> = (0..200).map(|index| at(index, 900)).collect();
    events[150] = at(150, 5000);
    assert_eq!(poison(write(&*by_key, events).await), (150, Poison::TooLarge));
    let source = source(&connector, &small);
    let shard = &shards(&*source, 1).await[0];
    let mut reader = earliest(&*source, shard).await;
    assert_eq!(collect(&mut *reader, 150).await.len(), 150);
    assert!(timeout(Duration::from_secs(1), reader.read()).await.is_err(), "nothing behind it is written");

    // Just inside and just outside, as the broker itself sees it.
    let (mut inside, mut outside) = (4000, 5000);
    while outside - inside > 1 {
        let middle = usize::midpoint(inside, outside);
        match write(&*by_key, vec![at(1, middle)]).await {
            Ok(()) => inside = middle,
            refused => {
                assert_eq!(poison(refused), (1, Poison::TooLarge));
                outside = middle;
            }
        }
    }
    assert!((4850..4950).contains(&inside), "{inside} bytes of body fill 5000 bytes of batch");
    let blind = common::client::<rdkafka::producer::BaseProducer>(kafka.bootstrap(), &[]);
    assert!(!raw_write(&blind, &small, outside), "what we refuse, the broker refuses");
    assert!(raw_write(&blind, &small, inside), "what we write, the broker takes");

    // A compacted topic takes no event without a key: only the broker knows.
    let compacted = unique("compacted");
    kafka.create_topic_with(&compacted, 1, &[("cleanup.policy", "compact")]).expect("the topic can be made");
    let mut events = keyed(&topic(&compacted), 10, 10);
    events[4].key = None;
    // It refuses the whole batch and does not reliably say why: the flow finds out when it is opened again.
    let key = flow("compacted");
    let mut writer = open(&*by_key, &key).await.writer;
    let first = timeout(PATIENCE, writer.write(events.clone())).await.expect("a write ends in time");
    assert!(matches!(first, Err(SinkError::Transient(_))), "{first:?}");
    let mut writer = open(&*by_key, &key).await.writer;
    let second = timeout(PATIENCE, writer.write(events.clone())).await.expect("a write ends in time");
    assert_eq!(poison(second), (4, Poison::Refused));
    events.drain(..=4);
    let mut writer = open(&*by_key, &key).await.writer;
    timeout(PATIENCE, writer.write(events)).await.expect("a write ends in time").expect("the rest is fine");

    let mut events = keyed(&topic(&small), 3, 10);
    events[1].topic = topic("no/topic");
    assert_eq!(poison(write(&*by_key, events).await), (1, Poison::BadTopic));
}

/// Writes a record with the headers that ours have; whether the broker took it.
fn raw_write(producer: &rdkafka::producer::BaseProducer, name: &str, bytes: usize) -> bool {
    use rdkafka::message::{Header, OwnedHeaders};
    use rdkafka::producer::{BaseRecord, Producer};
    let before = end(producer, name);
    let id = "0".repeat(32);
    let headers = OwnedHeaders::new().insert(Header { key: "x-longhaul-id", value: Some(&id) });
    let body = vec![b'x'; bytes];
    producer.send(BaseRecord::to(name).key("k").payload(&body).headers(headers)).expect("it is queued");
    producer.flush(PATIENCE).expect("it is decided");
    end(producer, name) > before
}

fn end(producer: &rdkafka::producer::BaseProducer, name: &str) -> i64 {
    use rdkafka::producer::Producer;
    producer.client().fetch_watermarks(name, 0, PATIENCE).expect("watermarks").1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_a_sentence_until_it_is_there_or_may_be_made() {
    let kafka = kafka();
    let connector = connector(kafka.bootstrap());
    let by_key = sink(&connector, Partition::Key);
    let missing = unique("missing");
    let text = config(write(&*by_key, keyed(&topic(&missing), 3, 10)).await);
    assert_eq!(text, format!("Kafka topic {missing} does not exist"));
    kafka.create_topic(&missing, 1).expect("the topic can be made");
    // What is missing is believed for a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    write(&*by_key, keyed(&topic(&missing), 3, 10)).await.expect("it is there now");

    // Deleted under an open flow: the events must not wait for ever.
    let mut writer = open(&*by_key, &flow("vanishing")).await.writer;
    writer.write(keyed(&topic(&missing), 3, 10)).await.expect("it is still there");
    kafka.delete_topic(&missing).expect("the topic can be deleted");
    let mut written = timeout(PATIENCE, writer.write(keyed(&topic(&missing), 3, 10))).await.expect("in time");
    // The client may first lose its connection to a partition that goes; who then opens the flow again, as every caller does, is told.
    for _ in 0..5 {
        let Err(SinkError::Transient(_)) = written else { break };
        written = write(&*by_key, keyed(&topic(&missing), 3, 10)).await;
    }
    let text = config(written);
    assert!(text.contains(&format!("Kafka topic {missing} does not exist")), "{text}");

    let mut access = access(kafka.bootstrap());
    access.create_topics = Some(CreateTopics { partitions: 4, replication: 1 });
    let making = KafkaConnector::new(access, context()).expect("the configuration is fine");
    let made = unique("made");
    write(&*sink(&making, Partition::Key), keyed(&topic(&made), 3, 10)).await.expect("it is made");
    shards(&*source(&making, &made), 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_where_java_puts_them_and_same_goes_where_it_was() {
    const PARTITIONS: u32 = 7;
    let kafka = kafka();
    let connector = connector(kafka.bootstrap());
    let name = unique("placed");
    kafka.create_topic(&name, PARTITIONS).expect("the topic can be made");
    let keys: Vec<String> = (0..60).map(|n| format!("{}-key", "k".repeat(n % 9 + 1) + &n.to_string())).collect();
    let events = keys.iter().enumerate().map(|(at, key)| event(at, &topic(&name), Some(key), 10)).collect();
    write(&*sink(&connector, Partition::Key), events).await.expect("it is written");
    let source = source(&connector, &name);
    for shard in shards(&*source, PARTITIONS as usize).await {
        let partition = shard.partition.expect("a number");
        let expected: Vec<&[u8]> =
            keys.iter().map(String::as_bytes).filter(|key| java_partition(key, PARTITIONS) == partition).collect();
        assert!(!expected.is_empty(), "60 keys reach all partitions");
        let mut reader = earliest(&*source, &shard).await;
        let found = collect(&mut *reader, expected.len()).await;
        let found: Vec<&[u8]> = found.iter().map(|event| event.key.as_deref().expect("a key")).collect();
        assert_eq!(found, expected, "partition {partition}");
    }

    let same = sink(&connector, Partition::Same);
    let mut opened = same.open(&flow("same"), Some(5)).await.expect("the flow opens");
    let tombstone = Event { payload: None, ..event(1, &topic(&name), Some("any"), 0) };
    opened.writer.write(vec![tombstone]).await.expect("it is written");
    let shard = &shards(&*source, PARTITIONS as usize).await[5];
    let mut reader = earliest(&*source, shard).await;
    let here = keys.iter().filter(|key| java_partition(key.as_bytes(), PARTITIONS) == 5).count();
    let last = collect(&mut *reader, here + 1).await.pop().expect("the last one");
    assert_eq!((last.key.as_deref(), &last.payload), (Some(&b"any"[..]), &None));
    assert!(matches!(same.open(&flow("same"), None).await, Err(SinkError::Config(_))), "no number to keep");
    let mut opened = same.open(&flow("same"), Some(PARTITIONS)).await.expect("the flow opens");
    let text = config(opened.writer.write(keyed(&topic(&name), 1, 1)).await);
    assert!(text.contains("none with number 7"), "{text}");

    let dying = SinkSpec {
        sink: SinkKind::Kafka { partition: Partition::Key, tombstone_on_empty: true },
        guarantee: Guarantee::AtLeastOnce,
    };
    let dying = connector.sink(dying).expect("a Kafka sink");
    let buried = unique("buried");
    kafka.create_topic(&buried, 1).expect("the topic can be made");
    let empty = Event { payload: Some(Bytes::new()), ..event(1, &topic(&buried), Some("k"), 0) };
    write(&*dying, vec![empty, event(2, &topic(&buried), None, 0)]).await.expect("it is written");
    let source = common::source(&connector, &buried);
    let mut reader = earliest(&*source, &shards(&*source, 1).await[0]).await;
    assert!(collect(&mut *reader, 2).await.iter().all(|event| event.payload.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_written_by_another_router_is_seen_and_a_former_writer_is_ended() {
    let kafka = kafka();
    let (one, two) = (connector(kafka.bootstrap()), connector(kafka.bootstrap()));
    let name = unique("shared");
    kafka.create_topic(&name, 1).expect("the topic can be made");
    let (first, second) = (sink(&one, Partition::Key), sink(&two, Partition::Key));
    let at = |offset| longhaul_event::Position { incarnation: 3, offset };
    let key = flow("moved");
    for round in 0..5 {
        for (here, there) in [(&first, &second), (&second, &first)] {
            let mut opened = open(&**here, &key).await;
            opened.writer.write(keyed(&topic(&name), 1, 1)).await.expect("it is written");
            opened.writer.commit(at(round)).await.expect("the cursor is written");
            assert_eq!(open(&**there, &key).await.cursor, Some(at(round)));
        }
    }
    // Within one router, who opens last writes.
    let mut former = open(&*first, &key).await.writer;
    let mut latter = open(&*first, &key).await.writer;
    assert!(former.write(keyed(&topic(&name), 1, 1)).await.is_err());
    assert!(former.commit(at(99)).await.is_err());
    latter.write(keyed(&topic(&name), 1, 1)).await.expect("it is written");
    assert_eq!(open(&*first, &key).await.cursor, Some(at(4)));
}
