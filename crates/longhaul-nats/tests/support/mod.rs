//! What every test of this crate needs: a server, a connector on it, and short ways to write and read.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use longhaul_broker::{
    Connector, Context, Health, ReadBatch, Reader, Shard, SinkError, SinkSpec, Source, SourceError, SourceSpec, Writer,
};
use longhaul_config::{Nats as Access, Secret};
use longhaul_event::{Event, EventId, Headers, Identity, Start};
use longhaul_nats::NatsConnector;
use longhaul_test_brokers::nats::Nats;
use longhaul_test_brokers::skip;
use longhaul_topic::{Filter, Topic};
use longhaul_topology::{FlowKey, Guarantee, SinkKind, SourceKind};
use tokio::time::{Instant, timeout};

pub const LIMIT: Duration = Duration::from_secs(60);

pub fn access(nats: &Nats) -> Access {
    Access { servers: vec![nats.url()], tls: None, credentials: None, user: None, domain: None, create_streams: false }
}

pub fn with_password(nats: &Nats, password: &str) -> Access {
    Access { user: Some(("user".to_owned(), Secret::new(password.to_owned()))), ..access(nats) }
}

pub fn context() -> Context {
    let text = |text: &str| text.to_owned();
    Context {
        mesh: text("m"),
        region: text("eu"),
        broker: text("nats"),
        router: text("r1"),
        cluster: 7,
        event_bytes_max: 1 << 20,
    }
}

pub fn connector(access: Access) -> Arc<NatsConnector> {
    NatsConnector::new(access, context()).expect("a connector")
}

/// A server that knows no atomic batches, or a message that the test was skipped.
pub fn older_server(test: &str) -> Option<Nats> {
    Nats::start_older("").map_err(|why| skip(test, &why)).ok()
}

/// A client of the test's own.
pub async fn client(nats: &Nats) -> async_nats::Client {
    async_nats::ConnectOptions::new().retry_on_initial_connect().connect(nats.url()).await.expect("a client")
}

pub async fn stream(nats: &Nats, name: &str, subjects: &[&str]) -> jetstream::Context {
    let js = jetstream::new(client(nats).await);
    let subjects = subjects.iter().map(|&subject| subject.to_owned()).collect();
    let config = jetstream::stream::Config { name: name.to_owned(), subjects, ..Default::default() };
    js.create_stream(config).await.expect("a stream");
    js
}

/// A stream that takes atomic batches with cursors.
pub async fn atomic_stream(nats: &Nats, name: &str, subjects: &[&str]) -> jetstream::Context {
    let cursors = format!("$LONGHAUL.cursor.{name}.>");
    let subjects: Vec<&str> = subjects.iter().copied().chain([cursors.as_str()]).collect();
    let more = serde_json::json!({ "name": name, "subjects": subjects, "allow_atomic": true });
    create(nats, "CREATE", more).await
}

/// Asks the server to make or change a stream in its own words: the client knows fewer of them.
pub async fn create(nats: &Nats, what: &str, config: serde_json::Value) -> jetstream::Context {
    let client = client(nats).await;
    let subject = format!("$JS.API.STREAM.{what}.{}", config["name"].as_str().expect("a name"));
    let answer = client.request(subject, config.to_string().into()).await.expect("an answer");
    assert!(!String::from_utf8_lossy(&answer.payload).contains("\"error\""), "{:?}", answer.payload);
    jetstream::new(client)
}

pub fn named(stream: &str, topics: &[&str]) -> SourceSpec {
    source_spec(SourceKind::JetStream { stream: Some(stream.to_owned()), topics: filters(topics) })
}

pub fn source_spec(source: SourceKind) -> SourceSpec {
    SourceSpec { source, spool: None }
}

pub fn sink_spec() -> SinkSpec {
    SinkSpec { sink: SinkKind::JetStream, guarantee: Guarantee::AtLeastOnce }
}

pub fn once_spec() -> SinkSpec {
    SinkSpec { guarantee: Guarantee::EffectivelyOnce, ..sink_spec() }
}

pub fn filters(texts: &[&str]) -> Vec<Filter> {
    texts.iter().map(|text| Filter::parse(text).expect("a filter")).collect()
}

pub fn flow(route: &str) -> FlowKey {
    let text = |text: &str| text.to_owned();
    FlowKey {
        mesh: text("m"),
        route: text(route),
        from: (text("us"), text("k"), text("s")),
        to: (text("eu"), text("nats")),
    }
}

pub fn event(offset: u64, topic: &str) -> Event {
    Event {
        offset,
        topic: Topic::parse(topic).expect("a topic"),
        key: None,
        headers: Headers::default(),
        payload: Some(Bytes::from(format!("{offset}"))),
        time_ms: 1,
        id: EventId(u128::from(offset) + 1),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}

pub fn number(event: &Event) -> u64 {
    let text = std::str::from_utf8(event.payload.as_ref().expect("a payload")).expect("text");
    text.parse().expect("a number")
}

pub async fn up(connector: &NatsConnector) {
    let mut health = connector.health();
    timeout(LIMIT, health.wait_for(|health| *health == Health::Up)).await.expect("in time").expect("a health");
}

pub async fn shard(source: &dyn Source) -> Shard {
    let mut shards = source.shards();
    let shards = timeout(LIMIT, shards.wait_for(|shards| !shards.is_empty())).await.expect("in time").expect("shards");
    shards[0].clone()
}

/// Opens a reader, again while the server is away.
pub async fn reader(source: &dyn Source, shard: &Shard, start: Start) -> Box<dyn Reader> {
    let end = Instant::now() + LIMIT;
    loop {
        match source.open(shard, start).await {
            Ok(reader) => return reader,
            Err(SourceError::Transient(_)) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("no reader: {error}"),
        }
    }
}

pub async fn read(reader: &mut dyn Reader) -> Result<ReadBatch, SourceError> {
    timeout(LIMIT, reader.read()).await.expect("something to read in time")
}

/// Reads that many events, or fewer when an error comes first.
pub async fn read_some(reader: &mut dyn Reader, count: usize) -> (Vec<Event>, Option<SourceError>) {
    let mut events = Vec::new();
    while events.len() < count {
        match read(reader).await {
            Ok(batch) => events.extend(batch.events),
            Err(error) => return (events, Some(error)),
        }
    }
    (events, None)
}

/// Opens a flow, again while the server is away.
pub async fn writer(connector: &NatsConnector, spec: SinkSpec, flow: &FlowKey) -> (Box<dyn Writer>, Option<u64>) {
    let sink = connector.sink(spec).expect("a sink");
    let end = Instant::now() + LIMIT;
    loop {
        match sink.open(flow, None).await {
            Ok(opened) => return (opened.writer, opened.cursor.map(|cursor| cursor.offset)),
            Err(SinkError::Transient(_)) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("no writer: {error}"),
        }
    }
}

pub async fn write(writer: &mut dyn Writer, events: Vec<Event>) -> Result<(), SinkError> {
    timeout(LIMIT, writer.write(events)).await.expect("an answer in time")
}
