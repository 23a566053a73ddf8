//! What the tests against a real node share: connectors, a client that is not ours, and waiting with a limit.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its own part of this")]

pub mod relay;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind, PublisherConfirm};
use longhaul_broker::{
    Connector, Context, Health, Opened, Reader, Sink, SinkError, SinkSpec, Source, SourceError, SourceSpec,
};
use longhaul_config::{QueueType, RabbitMq as Access, Secret};
use longhaul_event::{Event, EventId, Headers, Identity, Start};
use longhaul_rabbitmq::RabbitMqConnector;
use longhaul_topic::{Filter, Topic};
use longhaul_topology::{FlowKey, Guarantee, SinkKind, SourceKind};
use tokio::time::{Instant, sleep, timeout};

pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn access(uri: &str) -> Access {
    Access { uri: Secret::new(uri.to_owned()), tls: None, prefetch: 1_000, queue_type: QueueType::Quorum }
}

pub fn context() -> Context {
    Context {
        mesh: "shop".to_owned(),
        region: "us-east".to_owned(),
        broker: "billing".to_owned(),
        router: "r1".to_owned(),
        cluster: 7,
        event_bytes_max: 1 << 20,
    }
}

pub fn connector(uri: &str) -> Arc<RabbitMqConnector> {
    RabbitMqConnector::new(access(uri), context()).expect("a good configuration")
}

pub fn exchange_spec(exchange: &str, filters: &[&str], spool: &str) -> SourceSpec {
    let topics = filters.iter().map(|filter| Filter::parse(filter).expect("a filter")).collect();
    let source = SourceKind::RabbitExchange { exchange: exchange.to_owned(), topics };
    SourceSpec { source, spool: Some(spool.to_owned()) }
}

pub fn queue_spec(queue: &str) -> SourceSpec {
    SourceSpec { source: SourceKind::RabbitQueue { queue: queue.to_owned() }, spool: None }
}

pub fn to_exchange(exchange: &str) -> SinkSpec {
    SinkSpec { sink: SinkKind::RabbitExchange { exchange: exchange.to_owned() }, guarantee: Guarantee::AtLeastOnce }
}

pub fn to_queue(queue: &str) -> SinkSpec {
    SinkSpec { sink: SinkKind::RabbitQueue { queue: queue.to_owned() }, guarantee: Guarantee::AtLeastOnce }
}

pub fn stream_spec(stream: &str) -> SourceSpec {
    SourceSpec { source: SourceKind::RabbitStream { stream: stream.to_owned() }, spool: None }
}

pub fn to_stream(stream: &str) -> SinkSpec {
    SinkSpec { sink: SinkKind::RabbitStream { stream: stream.to_owned() }, guarantee: Guarantee::AtLeastOnce }
}

pub fn flow(route: &str) -> FlowKey {
    FlowKey {
        mesh: "shop".to_owned(),
        route: route.to_owned(),
        from: ("eu-west".to_owned(), "orders".to_owned(), "orders/0".to_owned()),
        to: ("us-east".to_owned(), "billing".to_owned()),
    }
}

/// Event `number` with that payload size; its identity tells the number.
pub fn event(number: u64, topic: &str, payload: usize) -> Event {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(payload.max(8), b'x');
    Event {
        offset: number,
        topic: Topic::parse(topic).expect("a topic"),
        key: Some(Bytes::from_static(b"key")),
        headers: Headers::default(),
        payload: Some(Bytes::from(body)),
        time_ms: 1_700_000_000_000,
        id: EventId(u128::from(number) + 1),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}

/// The number of an event of [`event`].
pub fn number(event: &Event) -> u64 {
    u64::try_from(event.id.0 - 1).expect("the identity of a test's event")
}

pub async fn up(connector: &RabbitMqConnector) {
    let mut health = connector.health();
    let up = timeout(PATIENCE, health.wait_for(|health| *health == Health::Up)).await;
    let Ok(up) = up else { panic!("the connector does not come up, it is {:?}", connector.health().borrow()) };
    up.expect("the connector is there");
}

pub async fn down(connector: &RabbitMqConnector) -> String {
    let mut health = connector.health();
    let down = timeout(PATIENCE, health.wait_for(|health| matches!(health, Health::Down(_)))).await;
    match &*down.expect("the connector goes down").expect("the connector is there") {
        Health::Down(reason) => reason.clone(),
        other => panic!("down is {other:?}"),
    }
}

/// Opens a flow, trying again while the broker is away.
pub async fn open(sink: &dyn Sink, flow: &FlowKey) -> Opened {
    let end = Instant::now() + PATIENCE;
    loop {
        match sink.open(flow, None).await {
            Ok(opened) => return opened,
            Err(SinkError::Transient(_)) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("the flow does not open: {error}"),
        }
    }
}

/// Opens the only shard, trying again while the broker is away.
pub async fn read_from(source: &dyn Source) -> Box<dyn Reader> {
    let mut shards = source.shards();
    let listed = timeout(PATIENCE, shards.wait_for(|shards| !shards.is_empty())).await;
    let shard = listed.expect("the shard is listed").expect("the source is there")[0].clone();
    let end = Instant::now() + PATIENCE;
    loop {
        match source.open(&shard, Start::Latest).await {
            Ok(reader) => return reader,
            Err(SourceError::Transient(_)) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("the shard does not open: {error}"),
        }
    }
}

/// What opening the only shard fails with for good.
pub async fn refusal(source: &dyn Source) -> String {
    let mut shards = source.shards();
    let listed = timeout(PATIENCE, shards.wait_for(|shards| !shards.is_empty())).await;
    let shard = listed.expect("the shard is listed").expect("the source is there")[0].clone();
    match source.open(&shard, Start::Latest).await {
        Err(SourceError::Config(text)) => text,
        Err(other) => panic!("refused as {other:?}"),
        Ok(_) => panic!("opened"),
    }
}

/// Reads until that many events are there; panics on an error.
pub async fn read(reader: &mut dyn Reader, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = timeout(PATIENCE, reader.read()).await.expect("events come in time").expect("reading works");
        events.extend(batch.events);
    }
    events
}

/// Nothing comes for that long.
pub async fn nothing(reader: &mut dyn Reader, pause: Duration) {
    match timeout(pause, reader.read()).await {
        Err(_) => {}
        Ok(Ok(batch)) => panic!("{} events came", batch.events.len()),
        Ok(Err(error)) => panic!("reading failed: {error}"),
    }
}

/// A client that is not ours, for making and looking at what Longhaul never makes.
pub struct Raw {
    pub connection: Connection,
    pub channel: Channel,
}

impl Raw {
    pub async fn connect(uri: &str) -> Self {
        let end = Instant::now() + PATIENCE;
        let connection = loop {
            match Connection::connect(uri, ConnectionProperties::default()).await {
                Ok(connection) => break connection,
                Err(_) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
                Err(error) => panic!("the broker is away: {error}"),
            }
        };
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirmations");
        Self { connection, channel }
    }

    pub async fn exchange(&self, name: &str, kind: ExchangeKind) {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        self.channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await.expect("an exchange");
    }

    pub async fn queue(&self, name: &str, kind: &str) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, arguments).await.expect("a queue");
    }

    /// Declares a stream, which forgets its beginning above so many bytes.
    pub async fn stream(&self, name: &str, bytes_max: Option<i64>) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        if let Some(bytes) = bytes_max {
            arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bytes));
            arguments.insert("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(bytes / 4));
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, arguments).await.expect("a stream");
    }

    pub async fn bind(&self, queue: &str, exchange: &str, pattern: &str) {
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        self.channel
            .queue_bind(queue.into(), exchange.into(), pattern.into(), options, arguments)
            .await
            .expect("a binding");
    }

    /// Publishes; the answer is when the broker has it.
    pub async fn send(&self, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) -> PublisherConfirm {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let confirm = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await;
        confirm.expect("published")
    }

    /// Publishes and waits until the broker has it; whether some queue took it.
    pub async fn publish(&self, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) -> bool {
        let confirmation = self.send(exchange, key, properties, body).await.await.expect("confirmed");
        assert!(confirmation.is_ack());
        confirmation.take_message().is_none()
    }

    /// Takes the next message out of a queue.
    pub async fn get(&self, queue: &str) -> Option<lapin::message::Delivery> {
        let message = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.expect("a queue");
        message.map(|message| message.delivery)
    }

    /// How many messages wait in a queue.
    pub async fn waiting(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.expect("a queue").message_count()
    }

    /// Waits until that many messages wait in a queue: what a channel gives back takes its time.
    pub async fn until_waiting(&self, queue: &str, count: u32) {
        let end = Instant::now() + PATIENCE;
        while self.waiting(queue).await != count {
            assert!(Instant::now() < end, "{} messages wait in {queue}, not {count}", self.waiting(queue).await);
            sleep(Duration::from_millis(50)).await;
        }
    }
}
