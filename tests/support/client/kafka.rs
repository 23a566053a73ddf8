//! A Kafka client: librdkafka.

use std::time::{Duration, Instant};

use longhaul_test_brokers::kafka;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::{Tally, lift};
use crate::sample::{Arrived, Sample};

/// Partitions of every topic.
const PARTITIONS: u32 = 4;
const TIMEOUT: Duration = Duration::from_secs(60);
const BYTES_MAX: &str = "4000000";

/// A client with one producer.
pub struct Kafka {
    bootstrap: String,
    producer: ThreadedProducer<Confirmed>,
}

/// Panics when a record was not stored: then the test itself has lost it.
struct Confirmed;

impl ClientContext for Confirmed {}

impl ProducerContext for Confirmed {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            panic!("Kafka did not store a record of the test: {error}");
        }
    }
}

impl Kafka {
    /// A client of that broker.
    ///
    /// # Panics
    /// When librdkafka refuses the options.
    #[must_use]
    pub fn new(broker: &kafka::Kafka) -> Self {
        let bootstrap = broker.bootstrap().to_owned();
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &bootstrap)
            .set("enable.idempotence", "true")
            .set("message.max.bytes", BYTES_MAX);
        config.set("linger.ms", "5").set("log_level", "3");
        Self { producer: config.create_with_context(Confirmed).expect("good options"), bootstrap }
    }

    pub(super) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    pub(super) async fn prepare(&self, topics: &[&str]) {
        use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
        let admin: AdminClient<_> = self.config().create().expect("good options");
        let fresh = topics.iter().map(|name| {
            let partitions = i32::try_from(PARTITIONS).expect("small");
            NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("max.message.bytes", BYTES_MAX)
        });
        let fresh: Vec<_> = fresh.collect();
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        let made = admin.create_topics(&fresh, &options).await.expect("Kafka answers");
        for topic in made {
            topic.expect("Kafka makes the topic");
        }
    }

    pub(super) fn produce(&self, samples: &[Sample]) {
        tokio::task::block_in_place(|| {
            for sample in samples {
                self.send(sample);
            }
        });
        self.flush();
    }

    /// Waits until everything that was sent is confirmed.
    ///
    /// # Panics
    /// When it is not.
    pub fn flush(&self) {
        let flushed = tokio::task::block_in_place(|| self.producer.flush(TIMEOUT));
        flushed.expect("Kafka confirms what was produced");
    }

    /// Sends one event without waiting for its confirmation.
    pub fn send(&self, sample: &Sample) {
        let mut headers = OwnedHeaders::new_with_capacity(sample.headers.len());
        for (key, value) in &sample.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut record = BaseRecord::to(&sample.topic).payload(&sample.payload).headers(headers);
        if let Some(key) = &sample.key {
            record = record.key(key);
        }
        while let Err((error, back)) = self.producer.send(record) {
            assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "Kafka: {error}");
            record = back;
            // librdkafka's queue is full: it empties as the broker confirms.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(super) fn count(&self, topic: &str) -> usize {
        tokio::task::block_in_place(|| {
            let consumer: BaseConsumer = self.config().create().expect("good options");
            (0..i32::try_from(PARTITIONS).expect("small")).map(|partition| size(&consumer, topic, partition)).sum()
        })
    }

    pub(super) async fn consume(&self, topic: &str, mut tally: Tally) -> Vec<Arrived> {
        let (config, topic) = (self.config(), topic.to_owned());
        let reading = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create().expect("good options");
            let mut list = TopicPartitionList::new();
            for partition in 0..i32::try_from(PARTITIONS).expect("small") {
                list.add_partition_offset(&topic, partition, Offset::Beginning).expect("a good offset");
            }
            consumer.assign(&list).expect("Kafka gives the partitions");
            let mut partitions = Vec::new();
            while !tally.left().is_zero() {
                match consumer.poll(tally.left().min(Duration::from_millis(200))) {
                    Some(Ok(message)) => {
                        partitions.push(message.partition());
                        tally.push(arrived(&message));
                    }
                    Some(Err(error)) => panic!("reading {topic}: {error}"),
                    None => {}
                }
            }
            let mut all: Vec<_> = partitions.into_iter().zip(tally.finish()).collect();
            all.sort_by_key(|(partition, _)| *partition);
            all.into_iter().map(|(_, arrived)| arrived).collect()
        });
        reading.await.expect("reading works")
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("group.id", "reader").set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "error").set("fetch.message.max.bytes", BYTES_MAX).set("log_level", "3");
        config
    }
}

/// Records of a partition. A broker that has just started has no leaders yet, and says so.
fn size(consumer: &BaseConsumer, topic: &str, partition: i32) -> usize {
    let end = Instant::now() + TIMEOUT;
    loop {
        match consumer.fetch_watermarks(topic, partition, TIMEOUT) {
            Ok((low, high)) => return usize::try_from(high - low).expect("a partition has no negative size"),
            Err(error) => assert!(Instant::now() < end, "Kafka does not tell the size of {topic}/{partition}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn arrived(message: &rdkafka::message::BorrowedMessage<'_>) -> Arrived {
    let mut headers: Vec<_> = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect()
    });
    let (_, id) = lift(&mut headers);
    let event = Sample {
        topic: message.topic().to_owned(),
        key: message.key().map(<[u8]>::to_vec),
        headers,
        payload: message.payload().unwrap_or_default().to_vec(),
    };
    Arrived { event, id }
}
