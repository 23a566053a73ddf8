//! A RabbitMQ client: lapin, with publisher confirms. A topic is a routing key of one topic exchange, and has a queue of its name.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, ByteArray, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use longhaul_test_brokers::rabbitmq;

use super::{Tally, lift};
use crate::sample::{Arrived, Sample};

/// The exchange of every test.
pub const EXCHANGE: &str = "events";
/// A header of this name is the property `correlation_id`, when producing and when reading.
const CORRELATION: &str = "amqp.correlation_id";
const KEY: &str = "x-longhaul-key";
/// A header of this name is sent as a number of AMQP, to see that types survive.
pub const TYPED: &str = "typed-number";
const CONFIRMS_MAX: usize = 1_000;
const PERSISTENT: u8 = 2;

/// A client; every operation has a connection of its own.
pub struct RabbitMq {
    uri: String,
}

impl RabbitMq {
    /// A client of that broker.
    #[must_use]
    pub fn new(broker: &rabbitmq::RabbitMq) -> Self {
        Self { uri: broker.uri().to_owned() }
    }

    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    async fn channel(&self) -> (Connection, Channel) {
        let end = Instant::now() + Duration::from_secs(30);
        let connection = loop {
            match Connection::connect(&self.uri, ConnectionProperties::default()).await {
                Ok(connection) => break connection,
                Err(error) => assert!(Instant::now() < end, "RabbitMQ takes no connections: {error}"),
            }
            // It takes some a while after it opened its port.
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let channel = connection.create_channel().await.expect("a channel");
        (connection, channel)
    }

    pub(super) async fn prepare(&self, topics: &[&str]) {
        let (_connection, channel) = self.channel().await;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declared = channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, FieldTable::default());
        declared.await.expect("an exchange");
        for topic in topics {
            let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare((*topic).into(), durable, FieldTable::default()).await.expect("a queue");
            let bound = channel.queue_bind(
                (*topic).into(),
                EXCHANGE.into(),
                (*topic).into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bound.await.expect("a binding");
        }
    }

    pub(super) async fn produce(&self, samples: &[Sample]) {
        let (_connection, channel) = self.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirmations");
        let mut waiting = VecDeque::new();
        for sample in samples {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let topic = sample.topic.as_str().into();
            let sent =
                channel.basic_publish(EXCHANGE.into(), topic, options, &sample.payload, properties(sample)).await;
            waiting.push_back(sent.expect("RabbitMQ takes it"));
            if waiting.len() > CONFIRMS_MAX {
                confirmed(waiting.pop_front().expect("there is one").await);
            }
        }
        for confirm in waiting {
            confirmed(confirm.await);
        }
    }

    pub(super) async fn count(&self, topic: &str) -> usize {
        let (_connection, channel) = self.channel().await;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(topic.into(), passive, FieldTable::default()).await.expect("a queue");
        usize::try_from(queue.message_count()).expect("32 bits")
    }

    /// Makes a stream; with `bound` it catches all that the exchange gets.
    pub async fn stream(&self, name: &str, bound: bool) {
        let (_connection, channel) = self.channel().await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.into(), durable, arguments).await.expect("a stream");
        if bound {
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            let bound = channel.queue_bind(name.into(), EXCHANGE.into(), "#".into(), options, none);
            bound.await.expect("a binding");
        }
    }

    /// Reads a stream from its start, as [`consume`](super::Client::consume) reads a topic.
    pub async fn consume_stream(&self, name: &str, distinct: usize, patience: Duration) -> Vec<Arrived> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
        self.take(name, arguments, Tally::new(distinct, patience)).await
    }

    /// Takes everything out of the queue.
    pub(super) async fn consume(&self, topic: &str, tally: Tally) -> Vec<Arrived> {
        self.take(topic, FieldTable::default(), tally).await
    }

    async fn take(&self, queue: &str, arguments: FieldTable, mut tally: Tally) -> Vec<Arrived> {
        let end = Instant::now() + Duration::from_secs(30);
        let (_connection, mut consumer) = loop {
            let (connection, channel) = self.channel().await;
            channel.basic_qos(1_000, BasicQosOptions::default()).await.expect("a prefetch");
            let (options, arguments) = (BasicConsumeOptions::default(), arguments.clone());
            match channel.basic_consume(queue.into(), "".into(), options, arguments).await {
                Ok(consumer) => break (connection, consumer),
                Err(error) => assert!(Instant::now() < end, "{queue} is not to be read: {error}"),
            }
            // A node that has just started finds its streams after its port.
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        while let Ok(next) = tokio::time::timeout(tally.left(), consumer.next()).await {
            let delivery = next.expect("RabbitMQ goes on").expect("a delivery");
            delivery.ack(BasicAckOptions::default()).await.expect("an acknowledgement");
            let routing_key = delivery.routing_key.as_str().to_owned();
            tally.push(arrived(routing_key, &delivery.properties, delivery.data));
        }
        tally.finish()
    }
}

fn confirmed(confirmation: lapin::Result<Confirmation>) {
    match confirmation.expect("RabbitMQ answers") {
        Confirmation::Ack(None) => {}
        other => panic!("RabbitMQ did not store a message of the test: {other:?}"),
    }
}

fn properties(sample: &Sample) -> BasicProperties {
    let mut table = FieldTable::default();
    let (mut properties, is_property) = (BasicProperties::default(), |name: &str| name == CORRELATION);
    for (_, value) in sample.headers.iter().filter(|(name, _)| is_property(name)) {
        let text = std::str::from_utf8(value).expect("a correlation id is text");
        properties = properties.with_correlation_id(text.into());
    }
    for (name, value) in sample.headers.iter().filter(|(name, _)| !is_property(name)) {
        assert!(!table.contains_key(name), "AMQP has no repeated headers");
        table.insert(name.as_str().into(), to_amqp(name, value));
    }
    if let Some(key) = &sample.key {
        table.insert(KEY.into(), AMQPValue::LongString(LongString::from(key.clone())));
    }
    properties.with_headers(table).with_delivery_mode(PERSISTENT)
}

fn to_amqp(name: &str, value: &[u8]) -> AMQPValue {
    match std::str::from_utf8(value) {
        Ok(number) if name == TYPED => AMQPValue::LongInt(number.parse().expect("a number")),
        Ok(text) => AMQPValue::LongString(text.into()),
        Err(_) => AMQPValue::ByteArray(ByteArray::from(value)),
    }
}

fn arrived(topic: String, properties: &BasicProperties, payload: Vec<u8>) -> Arrived {
    let mut headers = Vec::new();
    // The broker's own, of streams; no application wrote it.
    let given = properties.headers().iter().flat_map(|table| table.inner());
    for (name, value) in given.filter(|(name, _)| name.as_str() != "x-stream-offset") {
        let bytes = match value {
            AMQPValue::LongString(text) => text.as_bytes().to_vec(),
            AMQPValue::ByteArray(bytes) => bytes.as_slice().to_vec(),
            AMQPValue::LongInt(number) if name.as_str() == TYPED => number.to_string().into_bytes(),
            other => format!("{other:?}").into_bytes(),
        };
        headers.push((name.as_str().to_owned(), bytes));
    }
    if let Some(id) = properties.correlation_id() {
        headers.push((CORRELATION.to_owned(), id.as_str().as_bytes().to_vec()));
    }
    let (key, id) = lift(&mut headers);
    Arrived { event: Sample { topic, key, headers, payload }, id }
}
