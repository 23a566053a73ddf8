//! What the tests share: a broker in a folder, and an HTTP client that sends exactly the bytes that a test wants.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "every test uses its part, and may fail"
)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longhaul_broker::{Context, Reader, SinkSpec, SourceSpec, Writer};
use longhaul_config::Embedded as Access;
use longhaul_embedded::{Embedded, EmbeddedError};
use longhaul_event::{Event, EventId, Headers, Identity, Start};
use longhaul_topic::{Filter, Topic};
use longhaul_topology::{FlowKey, Guarantee, SinkKind, SourceKind};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const EVENT_BYTES_MAX: usize = 1 << 20;

pub fn access(data: &Path) -> Access {
    let listen = "127.0.0.1:0".parse().unwrap();
    Access { data: data.to_owned(), listen, retain_age: None, retain_bytes: None }
}

pub fn context() -> Context {
    let text = str::to_owned;
    Context {
        mesh: text("m"),
        region: text("eu"),
        broker: text("log"),
        router: text("r1"),
        cluster: 42,
        event_bytes_max: EVENT_BYTES_MAX,
    }
}

pub async fn start(data: &Path) -> Arc<Embedded> {
    try_start(&access(data)).await.unwrap()
}

pub async fn try_start(access: &Access) -> Result<Arc<Embedded>, EmbeddedError> {
    Embedded::start(access, context()).await
}

pub fn source(filters: &[&str]) -> SourceSpec {
    let topics = filters.iter().map(|filter| Filter::parse(filter).unwrap()).collect();
    SourceSpec { source: SourceKind::Embedded { topics }, spool: None }
}

pub fn sink() -> SinkSpec {
    SinkSpec { sink: SinkKind::Embedded, guarantee: Guarantee::AtLeastOnce }
}

pub fn flow(route: &str) -> FlowKey {
    let text = str::to_owned;
    FlowKey {
        mesh: text("m"),
        route: text(route),
        from: (text("us"), text("kafka"), text("t/0")),
        to: (text("eu"), text("log")),
    }
}

pub async fn writer(broker: &Embedded, route: &str) -> Box<dyn Writer> {
    use longhaul_broker::Connector;
    broker.sink(sink()).unwrap().open(&flow(route), None).await.unwrap().writer
}

pub async fn reader(broker: &Embedded, start: Start) -> Box<dyn Reader> {
    use longhaul_broker::Connector;
    let source = broker.source(source(&[])).unwrap();
    let shard = source.shards().borrow()[0].clone();
    source.open(&shard, start).await.unwrap()
}

/// Reads that many events.
pub async fn read(reader: &mut dyn Reader, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = tokio::time::timeout(Duration::from_secs(20), reader.read()).await;
        events.extend(batch.expect("events come in time").unwrap().events);
    }
    events
}

pub fn event(number: u64, payload: impl Into<Bytes>) -> Event {
    Event {
        offset: number,
        topic: Topic::parse("orders.eu").unwrap(),
        key: None,
        headers: Headers::default(),
        payload: Some(payload.into()),
        time_ms: 1_000,
        id: EventId(u128::from(number) + 1),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.body))
    }
}

/// One request in HTTP/1.0, so that the body of the answer ends with the connection.
pub async fn request(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.0\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // A refusal may come before the whole body is taken.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the answer ends in time");
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) =
        answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {method} {path}: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

pub async fn publish(addr: SocketAddr, topic: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    request(addr, "POST", &format!("/v1/topics/{topic}/events"), headers, body).await
}

/// Server-sent events until the server ends them: (id, event, data).
pub async fn subscribe(
    addr: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Vec<(String, String, Value)>, Answer> {
    let answer = request(addr, "GET", path, headers, b"").await;
    if answer.status != 200 {
        return Err(answer);
    }
    Ok(answer.body.split("\n\n").filter(|part| part.contains("data:")).map(parse_event).collect())
}

pub fn parse_event(text: &str) -> (String, String, Value) {
    let field = |name: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
    };
    (field("id"), field("event"), serde_json::from_str(&field("data")).unwrap())
}

/// Runs that test of this file in a process of its own, on a broker in `folder`, kills it once it has confirmed so often, and returns the
/// last number that it confirmed.
pub fn kill_after(folder: &Path, child: &str, confirmations: usize) -> u64 {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", child])
        .env("LONGHAUL_TEST_FOLDER", folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let confirmed = lines.map_while(Result::ok).filter_map(|line| line.split("confirmed ").nth(1)?.parse::<u64>().ok());
    let last = confirmed.take(confirmations).last().expect("the child confirms something");
    process.kill().unwrap();
    process.wait().unwrap();
    last
}
