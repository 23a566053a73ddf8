//! Invalid HTTP and invalid CloudEvents, at the embedded broker and at the admin API of a running router: each is answered with a status and
//! a sentence, nothing of it is stored, and the mesh goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use longhaul_tests::http::{assert_exactly, call, count, numbers, publish_numbers, wait_count};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::wait::until;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);
const JSON: (&str, &str) = ("content-type", "application/cloudevents+json");
const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");

/// A request that is wrong, and what must be said about it.
struct Wrong {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    status: u16,
    sentence: &'static str,
}

fn wrong(
    status: u16,
    sentence: &'static str,
    headers: &[(&'static str, &'static str)],
    body: impl Into<Vec<u8>>,
) -> Wrong {
    let path = "/v1/topics/orders.new/events".to_owned();
    Wrong { method: "POST", path, headers: headers.to_vec(), body: body.into(), status, sentence }
}

fn at(method: &'static str, path: &str, status: u16, sentence: &'static str) -> Wrong {
    Wrong { method, path: path.to_owned(), headers: Vec::new(), body: b"x".to_vec(), status, sentence }
}

fn broker_cases() -> Vec<Wrong> {
    let event = |more: &str| format!("{{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/t\"{more}}}");
    let typed = |more: &str| event(&format!(",\"type\":\"x\"{more}"));
    let ce =
        |name, value| [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/t"), ("ce-type", "x"), (name, value)];
    vec![
        // CloudEvents in JSON.
        wrong(400, "not the JSON of a CloudEvent", &[JSON], "{"),
        wrong(400, "not the JSON of a CloudEvent", &[JSON], "[]"),
        wrong(400, "not the JSON of a CloudEvent", &[JSON], [0xff, 0xfe, 0x00]),
        wrong(400, "needs the attribute type", &[JSON], event("")),
        wrong(400, "only 1.0", &[JSON], typed("").replace("1.0", "0.3")),
        wrong(400, "either data or data_base64", &[JSON], typed(",\"data\":1,\"data_base64\":\"AA==\"")),
        wrong(400, "not base64", &[JSON], typed(",\"data_base64\":\"~~\"")),
        wrong(400, "no attribute name", &[JSON], typed(",\"Not-A-Name\":\"x\"")),
        wrong(400, "neither text, nor a whole number", &[JSON], typed(",\"deep\":{\"a\":1}")),
        wrong(400, "not an RFC 3339 timestamp", &[JSON], typed(",\"time\":\"yesterday\"")),
        // A batch: all or nothing, and which one.
        wrong(400, "event 1 of the batch", &[BATCH], format!("[{},{}]", typed(""), event(""))),
        wrong(400, "not the JSON of a CloudEvent", &[BATCH], typed("")),
        wrong(413, "at most 10000 events", &[BATCH], format!("[{}]", vec![typed(""); 10_001].join(","))),
        // CloudEvents in headers.
        wrong(400, "needs the attribute", &[("ce-id", "1")], ""),
        wrong(400, "comes twice", &ce("ce-id", "2"), ""),
        wrong(400, "not an RFC 3339 timestamp", &ce("ce-time", "12"), ""),
        // Bodies.
        wrong(415, "is not read here", &[("content-type", "application/cloudevents+avro")], ""),
        wrong(415, "content-encoding", &[("content-encoding", "gzip")], "x"),
        wrong(413, "at most", &[], vec![0_u8; (1 << 20) + 1]),
        // Topics, filters, places.
        at("POST", "/v1/topics/orders.*/events", 400, "wildcard"),
        at("POST", "/v1/topics/a%20b/events", 400, "white space"),
        at("POST", "/v1/topics/%ff/events", 400, "UTF-8"),
        at("GET", "/v1/topics/a.%3E.b/events", 400, "is no filter"),
        at("GET", "/v1/topics/a/events?from=somewhere", 400, "the offset to begin with"),
        at("GET", "/v1/topics/a/events?form=earliest", 400, "form"),
        at("DELETE", "/v1/topics/a/events", 405, "publish with POST"),
        at("GET", "/v2/topics", 404, "there is nothing at /v2/topics"),
    ]
}

fn admin_cases() -> Vec<Wrong> {
    let bearer =
        |value| Wrong { headers: vec![("authorization", value)], ..at("POST", "/v1/reload", 401, "bearer token") };
    vec![
        at("GET", "/v1/nothing", 404, "there is no such path"),
        at("GET", "/index.php", 404, "there is no such path"),
        at("POST", "/v1/reload", 401, "bearer token"),
        bearer("Bearer wrong-token"),
        bearer("Basic dGVzdDp0b2tlbg=="),
        at("DELETE", "/v1/flows", 405, "another method"),
        at("GET", "/v1/reload", 405, "another method"),
    ]
}

async fn check(base: &str, cases: Vec<Wrong>) {
    for Wrong { method, path, headers, body, status, sentence } in cases {
        let shown = format!("{method} {path} {headers:?} {}", String::from_utf8_lossy(&body[..body.len().min(100)]));
        let answer = call(method, &format!("{base}{path}"), &headers, body).await;
        let (found, text) = answer.unwrap_or_else(|| panic!("{shown}: no answer"));
        assert_eq!(found, status, "{shown}: {text}");
        let problem: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{shown}: {error}: {text}"));
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(sentence), "{shown}: {text}");
        assert_eq!(problem["status"].as_u64(), Some(u64::from(status)), "{shown}: {text}");
    }
}

/// Bytes that are no HTTP; returns what was answered before the connection was closed.
async fn raw(base: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(base.trim_start_matches("http://")).await.expect("a listener");
    // Whoever closes first is right.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(
        read.is_ok(),
        "the connection stays open after {:?}",
        String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
    );
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_are_answered_and_harm_nothing() {
    let (mesh, source) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, destination) = mesh.embedded("b", "events");
    let mut mesh = mesh.route(
        "name: orders\nfrom: {region: a, broker: events, topics: [\"orders.>\"]}\n\
         to: [{region: b, broker: events, topic: \"{topic}\"}]\nstart: earliest",
    );
    mesh.start().await;
    mesh.wait_streaming("a").await;
    publish_numbers(&source, "orders.new", 0..100).await;

    check(&source, broker_cases()).await;
    let admin = mesh.admin_url("a");
    check(&admin, admin_cases()).await;
    for (listener, cases) in [("broker/events", broker_cases()), ("admin", admin_cases())] {
        let mut expected = BTreeMap::<u16, f64>::new();
        for case in cases {
            *expected.entry(case.status).or_default() += 1.0;
        }
        for (status, count) in expected {
            let labels = [format!("listener=\"{listener}\""), format!("status=\"{status}\"")];
            let counted =
                mesh.metric("a", "longhaul_refused_requests_total", &labels.each_ref().map(String::as_str)).await;
            assert_eq!(counted, count, "{labels:?}");
        }
    }
    // One line a second at the most, so the first of each is there.
    let log = mesh.log("a");
    for line in ["a request to the embedded broker was refused", "a request to the admin listener was refused"] {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert!(log.contains("not the JSON of a CloudEvent"), "{log}");
    let many_headers = format!("GET /v1/topics HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(500));
    let long_line = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(1 << 20));
    let raws: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is a TLS hello",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/topics/orders.new/events HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        many_headers.as_bytes(),
        long_line.as_bytes(),
    ];
    let unread = async |listener: &str| {
        let mut total = 0.0;
        for status in ["400", "431"] {
            let labels = [format!("listener=\"{listener}\""), format!("status=\"{status}\"")];
            let labels = labels.each_ref().map(String::as_str);
            total += mesh.metric("a", "longhaul_refused_requests_total", &labels).await;
        }
        total
    };
    let listeners = [("broker/events", &source, "the embedded broker"), ("admin", &admin, "the admin listener")];
    for (listener, base, name) in listeners {
        let before = unread(listener).await;
        for bytes in raws {
            let answer = raw(base, bytes).await;
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"),
                "{answer}"
            );
        }
        let what = format!("{listener} has counted what is no HTTP");
        until(&what, PATIENCE, async || (unread(listener).await == before + raws.len() as f64).then_some(())).await;
        // There is one line a second at the most, and other refusals have lines too.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        raw(base, raws[0]).await;
        let said = |line: &str| line.contains(name) && line.contains("sent what is no HTTP");
        until("it is said", PATIENCE, async || mesh.log("a").lines().any(said).then_some(())).await;
    }
    // A body that ends before it is whole is no event.
    let cut_short = b"POST /v1/topics/orders.new/events HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nonly this";
    raw(&source, cut_short).await;

    publish_numbers(&source, "orders.new", 100..200).await;
    wait_count(&destination, 200, PATIENCE).await;
    assert_eq!(count(&source).await, 200, "nothing of it was stored");
    assert_exactly(&numbers(&destination).await, 0..200);
    until("the router is ready", PATIENCE, async || {
        let answer = call("GET", &format!("{admin}/readyz"), &[], "").await;
        (answer?.0 == 200).then_some(())
    })
    .await;
    assert_eq!(mesh.metric("a", "longhaul_task_panics_total", &[]).await, 0.0);
    assert!(!mesh.log("a").contains("panicked"), "{}", mesh.log("a"));
}
