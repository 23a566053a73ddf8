//! The anchor of Kafka to Kafka: one process, one librdkafka consumer, one librdkafka producer, nothing in between. Also what benchmarks
//! need of Kafka besides.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::child;
use crate::figures::Random;

/// The topic that is read.
pub const SOURCE_TOPIC: &str = "load";
/// Its partitions, and those of every destination.
pub const PARTITIONS: u32 = 4;
/// Bytes of an event's payload.
pub const PAYLOAD_BYTES: usize = 1024;
const KEYS: u64 = 1000;
const PATIENCE: Duration = Duration::from_secs(30);
/// Delivery reports are taken after so many events.
const POLL_EVERY: u64 = 256;

/// The role: copies [`SOURCE_TOPIC`] from one cluster into a topic of another, partition by partition, until the parent is gone.
pub fn run(from: &str, to: &str, topic: &str) {
    let (from, to, topic) = (from.to_owned(), to.to_owned(), topic.to_owned());
    std::thread::spawn(move || copy(&from, &to, &topic));
    child::serve("ready", || 0);
}

fn copy(from: &str, to: &str, topic: &str) {
    let consumer = consumer(from);
    let mut partitions = TopicPartitionList::new();
    for partition in numbers() {
        partitions.add_partition_offset(SOURCE_TOPIC, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&partitions).expect("partitions of the topic");
    let producer = producer(to);
    for count in 0_u64.. {
        let message = match consumer.poll(PATIENCE) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => continue,
            Some(message) => message.expect("the source answers"),
        };
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(message.partition());
        record.key = message.key();
        record.payload = message.payload();
        send(&producer, record);
        if count % POLL_EVERY == 0 {
            producer.poll(Duration::ZERO);
        }
    }
}

/// Fills [`SOURCE_TOPIC`] with so many events of random bytes, each partition in turn.
///
/// # Panics
/// When the cluster does not take them.
pub fn fill(cluster: &str, events: u64) {
    let producer = producer(cluster);
    let pool = Random(1).bytes(1024 * PAYLOAD_BYTES);
    for nth in 0..events {
        let at = (nth % 1024) as usize * PAYLOAD_BYTES;
        let key = (nth % KEYS).to_le_bytes();
        let partition = i32::try_from(nth % u64::from(PARTITIONS)).expect("a small number");
        let payload = &pool[at..at + PAYLOAD_BYTES];
        send(&producer, BaseRecord::to(SOURCE_TOPIC).partition(partition).key(&key[..]).payload(payload));
        if nth % POLL_EVERY == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(PATIENCE).expect("the cluster takes all of it");
}

fn send(producer: &BaseProducer, mut record: BaseRecord<'_, [u8], [u8]>) {
    loop {
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => panic!("the producer: {error}"),
        }
    }
}

/// How many offsets of a topic are taken: events and, where there were transactions, their markers; `None` while the cluster does not say, as happens to a topic that was just made.
#[must_use]
pub fn count(consumer: &BaseConsumer, topic: &str) -> Option<u64> {
    let held = |partition| {
        let (low, high) = consumer.fetch_watermarks(topic, partition, PATIENCE).ok()?;
        u64::try_from(high - low).ok()
    };
    numbers().map(held).sum()
}

/// How many events a topic holds, by reading them all.
///
/// # Panics
/// When the cluster does not answer.
#[must_use]
pub fn read_to_end(consumer: &BaseConsumer, topic: &str) -> u64 {
    let mut partitions = TopicPartitionList::new();
    for partition in numbers() {
        partitions.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&partitions).expect("partitions of the topic");
    let (mut events, mut ended) = (0, 0);
    while ended < PARTITIONS {
        match consumer.poll(PATIENCE).expect("the cluster answers") {
            Ok(_) => events += 1,
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("the consumer: {error}"),
        }
    }
    events
}

/// A consumer as fast as librdkafka makes it.
///
/// # Panics
/// When its options are refused.
#[must_use]
pub fn consumer(cluster: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster).set("group.id", "pipe").set("enable.auto.commit", "false");
    // To know where the end is.
    config.set("enable.partition.eof", "true");
    config.create().expect("a consumer")
}

/// A producer with the promises that the router's has.
fn producer(cluster: &str) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster).set("acks", "all").set("enable.idempotence", "true");
    config.create().expect("a producer")
}

fn numbers() -> impl Iterator<Item = i32> {
    (0..PARTITIONS).map(|partition| i32::try_from(partition).expect("a small number"))
}
