//! Plain HTTP, and the embedded broker as anybody uses it: published to in batches of CloudEvents, read over server-sent events.
//!
//! Events of these helpers carry a number as data, so that what arrived can be judged without keeping what was sent.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::wait::until;

/// Events of one request; the broker takes at most 10,000.
const BATCH: u64 = 500;
/// Keys of numbered events.
const KEYS: u64 = 16;

/// Sends a request; status and body, or `None` when nobody answers.
pub async fn call(method: &str, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Option<(u16, String)> {
    let response = send(method, url, headers, body.into()).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

async fn send(method: &str, url: &str, headers: &[(&str, &str)], body: Bytes) -> Option<Response<Incoming>> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/')?;
    let stream = TcpStream::connect(host).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(format!("/{path}")).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    sender.send_request(request.body(Full::new(body)).ok()?).await.ok()
}

/// Publishes these numbers in order, each with one of a few keys, and returns when all are durable.
///
/// # Panics
/// When the broker refuses them.
pub async fn publish_numbers(broker: &str, topic: &str, numbers: Range<u64>) {
    let mut next = numbers.start;
    while next < numbers.end {
        let end = (next + BATCH).min(numbers.end);
        assert!(try_publish(broker, topic, next..end, 0).await, "{broker} does not take {next}..{end} on {topic}");
        next = end;
    }
}

/// Publishes these numbers in one request, each with `padding` bytes more; whether the broker says that they are durable.
pub async fn try_publish(broker: &str, topic: &str, numbers: Range<u64>, padding: usize) -> bool {
    let event = |number: u64| {
        let padding = incompressible(number, padding);
        let key = format!("key-{}", number % KEYS);
        serde_json::json!({
            "specversion": "1.0", "id": number.to_string(), "source": "/test", "type": "number", "partitionkey": key,
            "datacontenttype": "application/json", "data": {"number": number, "padding": padding},
        })
    };
    let body = Value::from(numbers.map(event).collect::<Vec<_>>()).to_string();
    let url = format!("{broker}/v1/topics/{topic}/events");
    let answer = call("POST", &url, &[("content-type", "application/cloudevents-batch+json")], body).await;
    answer.is_some_and(|(status, _)| status == 200)
}

/// Letters that no link can make shorter by much.
fn incompressible(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + u8::try_from(state >> 58).expect("six bits"))
    };
    // Six bits in ASCII from `0`: the backslash costs a byte more in JSON, and nothing else.
    (0..length).map(letter).collect()
}

/// How many events the broker's log holds; 0 when nobody answers.
pub async fn count(broker: &str) -> u64 {
    let Some((200, body)) = call("GET", &format!("{broker}/v1/topics"), &[], "").await else { return 0 };
    let listing: Value = serde_json::from_str(&body).unwrap_or_default();
    let offset = |name: &str| listing[name].as_u64().unwrap_or_default();
    offset("next") - offset("first")
}

/// Waits until the broker's log holds so many events.
pub async fn wait_count(broker: &str, events: u64, patience: Duration) {
    let mut last = 0;
    let what = format!("{broker} holds {events} events");
    until(&what, patience, async || {
        let now = count(broker).await;
        if now != last {
            last = now;
            eprintln!("{broker}: {now} of {events}");
        }
        (now >= events).then_some(())
    })
    .await;
}

/// All events that the broker's log holds and that match the filter's text form (`%3E` for `>`), as the broker renders them.
///
/// # Panics
/// When the log cannot be read within two minutes.
pub async fn events(broker: &str, filter: &str, count: u64) -> Vec<Value> {
    let url = format!("{broker}/v1/topics/{filter}/events?from=earliest&limit={count}");
    let whole = tokio::time::timeout(Duration::from_secs(120), call("GET", &url, &[], "")).await;
    let (status, body) = whole.expect("the log is read in time").expect("the broker answers");
    assert_eq!(status, 200, "{body}");
    let data = body.lines().filter_map(|line| line.strip_prefix("data:"));
    data.map(|json| serde_json::from_str(json.trim_start()).expect("the broker renders JSON")).collect()
}

/// The numbers that the broker's log holds, in its order: everything there is, repeats included.
pub async fn numbers(broker: &str) -> Vec<u64> {
    let all = count(broker).await;
    let number = |event: &Value| event["data"]["number"].as_u64().unwrap_or_else(|| panic!("no number: {event}"));
    events(broker, "%3E", all).await.iter().map(number).collect()
}

/// Asserts that a log holds exactly these numbers, each once, in order.
///
/// # Panics
/// When it does not; says what is lost, what came twice, and where order broke.
pub fn assert_exactly(found: &[u64], expected: Range<u64>) {
    let mut seen = std::collections::BTreeMap::new();
    for number in found {
        *seen.entry(*number).or_insert(0_u64) += 1;
    }
    let lost: Vec<_> = expected.clone().filter(|number| !seen.contains_key(number)).collect();
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    let turned = found.windows(2).position(|pair| pair[0] > pair[1]);
    assert!(lost.is_empty(), "{} lost, first {:?}", lost.len(), &lost[..lost.len().min(5)]);
    assert!(twice.is_empty(), "{} came more than once, first {:?}", twice.len(), &twice[..twice.len().min(5)]);
    assert!(turned.is_none(), "order broke behind place {turned:?}");
    assert_eq!(u64::try_from(found.len()).expect("fits"), expected.end - expected.start, "others came in between");
}

/// The status of a URL, or `None` when nobody answers.
pub async fn get_status(url: &str) -> Option<u16> {
    call("GET", url, &[], "").await.map(|(status, _)| status)
}

/// Publishes ten events after the other to `orders.new` until it is told to stop, and says how many there are so far.
///
/// # Panics
/// When the broker does not take them.
pub async fn publish_steadily(broker: String, published: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let next = published.load(Ordering::Relaxed);
        assert!(try_publish(&broker, "orders.new", next..next + 10, 100).await, "the source takes everything");
        published.store(next + 10, Ordering::Relaxed);
        // A steady load, not a flood.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
