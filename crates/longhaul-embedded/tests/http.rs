//! HTTP in and out over real sockets.

mod support;

use std::time::Duration;

use longhaul_broker::Connector;
use longhaul_event::{EventId, Start, hash64};
use serde_json::json;
use support::{EVENT_BYTES_MAX, access, event, publish, read, reader, request, start, subscribe, try_start, writer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CE: [(&str, &str); 4] = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];

#[tokio::test]
async fn what_is_published_in_every_mode_is_read_by_the_port_and_by_subscribers() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let addr = broker.local_addr();
    let mut reader = reader(&broker, Start::Latest).await;
    let id = |offset| EventId::of_position(42, reader.incarnation(), hash64(b"log"), offset).to_string();

    let plain = publish(addr, "a.b", &[("content-type", "text/plain"), ("longhaul-key", "k")], b"hi").await;
    assert_eq!((plain.status, plain.json()), (200, json!({"offset": 1, "id": id(1)})));
    let binary = publish(addr, "a.b", &[&CE[..], &[("ce-partitionkey", "p")]].concat(), b"\xff").await;
    assert_eq!((binary.status, binary.json()), (200, json!({"offset": 2, "id": id(2)})));
    let one = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"n":1}}"#;
    let structured = publish(addr, "a.c", &[("content-type", "application/cloudevents+json")], one.as_bytes()).await;
    assert_eq!((structured.status, structured.json()), (200, json!({"offset": 3, "id": id(3)})));
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let two = publish(addr, "a.b", &batch, format!("[{one},{one}]").as_bytes()).await;
    assert_eq!((two.status, two.json()), (200, json!([{"offset": 4, "id": id(4)}, {"offset": 5, "id": id(5)}])));
    let none = publish(addr, "a.b", &batch, b"[]").await;
    assert_eq!((none.status, none.json()), (200, json!([])));

    let events = read(&mut *reader, 5).await;
    assert_eq!(events[0].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(events[1].key.as_deref(), Some(&b"p"[..]));
    assert_eq!(events[1].headers.first("ce-source").unwrap().value, b"/s");
    assert_eq!(events[2].payload.as_deref(), Some(&br#"{"n":1}"#[..]));
    assert!(events.iter().all(|event| event.time_ms > 1_700_000_000_000));

    let seen = subscribe(addr, "/v1/topics/a.b/events?from=earliest&limit=4", &[]).await.ok().unwrap();
    assert_eq!(
        seen.iter().map(|(id, name, _)| (id.as_str(), name.as_str())).collect::<Vec<_>>(),
        [("1", "message"), ("2", "message"), ("4", "message"), ("5", "message")]
    );
    assert_eq!(
        (&seen[0].2["data"], &seen[0].2["key"], &seen[0].2["topic"]),
        (&json!("hi"), &json!("k"), &json!("a.b"))
    );
    assert_eq!(seen[1].2["data_base64"], json!("/w=="));
    assert_eq!(seen[2].2["data"], json!({"n": 1}));

    let listing = request(addr, "GET", "/v1/topics", &[], b"").await.json();
    assert_eq!((&listing["first"], &listing["next"]), (&json!(1), &json!(6)));
    assert_eq!(
        listing["topics"],
        json!([{"topic": "a.b", "events": 4, "last": 5}, {"topic": "a.c", "events": 1, "last": 3}])
    );
}

#[tokio::test]
async fn every_wrong_request_gets_a_problem_with_a_sentence_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let large = vec![b'x'; EVENT_BYTES_MAX + 1];
    let base64 = format!(
        r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"{}"}}"#,
        "AAAA".repeat(EVENT_BYTES_MAX / 3 + 1)
    );
    let structured = ("content-type", "application/cloudevents+json");
    let long_topic = format!("/v1/topics/{}/events", "t".repeat(1_025));
    type Case<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, &'a [u8], u16, &'a str);
    let cases: Vec<Case<'_>> = vec![
        ("POST", "/v1/topics/a.b/events", CE[..3].to_vec(), b"", 400, "needs the attribute type"),
        ("POST", "/v1/topics/a.b/events", vec![structured], b"{", 400, "not the JSON"),
        ("POST", "/v1/topics/a.*/events", vec![], b"", 400, "wildcard \"*\""),
        ("POST", "/v1/topics/a.%3E/events", vec![], b"", 400, "wildcard \">\""),
        ("POST", "/v1/topics/a%20b/events", vec![], b"", 400, "white space"),
        ("POST", "/v1/topics/a%00b/events", vec![], b"", 400, "control characters"),
        ("POST", "/v1/topics/%ff/events", vec![], b"", 400, "UTF-8"),
        ("POST", &long_topic, vec![], b"", 400, "at most 1024 bytes"),
        ("POST", "/v1/topics/a.b/events", vec![], &large, 413, "the body has 1048577 bytes"),
        ("POST", "/v1/topics/a.b/events", vec![structured], base64.as_bytes(), 413, "an event has at most 1048576"),
        ("POST", "/v1/topics/a.b/events", vec![("content-encoding", "gzip")], b"", 415, "content-encoding"),
        ("PUT", "/v1/topics/a.b/events", vec![], b"", 405, "publish with POST"),
        ("POST", "/v1/topic/a.b", vec![], b"", 404, "there is nothing at /v1/topic/a.b"),
        ("GET", "/v1/topics/a.b/events?from=tomorrow", vec![], b"", 400, "from is `earliest`, `latest`"),
        ("GET", "/v1/topics/a.b/events?form=1", vec![], b"", 400, "unknown field `form`"),
        ("GET", "/v1/topics/a.b/events?limit=-1", vec![], b"", 400, "limit"),
        ("GET", "/v1/topics/a.b/events", vec![("last-event-id", "x")], b"", 400, "Last-Event-ID is not"),
        ("GET", "/v1/topics/a.b/events", vec![("last-event-id", "7")], b"", 410, "the log ends at offset 1"),
        ("GET", "/v1/topics/a.%3E.b/events", vec![], b"", 400, "is no filter"),
    ];
    for (method, path, headers, body, status, sentence) in cases {
        let answer = request(broker.local_addr(), method, path, &headers, body).await;
        assert_eq!(answer.status, status, "{method} {path} for {sentence:?}: {}", answer.body);
        assert!(answer.head.contains("content-type: application/problem+json"), "{}", answer.head);
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().unwrap().contains(sentence), "{problem} does not say {sentence:?}");
    }
    assert_eq!(reader(&broker, Start::Latest).await.end(), None, "nothing was written");
    // Just inside of the limits.
    let whole = publish(broker.local_addr(), "a.b", &[], &large[..EVENT_BYTES_MAX]).await;
    assert_eq!(whole.status, 200, "{}", whole.body);
}

#[tokio::test]
async fn a_body_without_a_length_is_limited_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let mut stream = TcpStream::connect(broker.local_addr()).await.unwrap();
    let head = "POST /v1/topics/a/events HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 65_536], b"\r\n".to_vec()].concat();
    for _ in 0..20 {
        // The server may have closed by now; then its answer tells.
        let _ = stream.write_all(&chunk).await;
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_subscriber_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let addr = broker.local_addr();
    let mut writer = writer(&broker, "a").await;
    writer.write((0..10).map(|number| event(number, "x")).collect()).await.unwrap();
    let ids = async |path: &str, headers: &[(&str, &str)]| -> Vec<u64> {
        let events = subscribe(addr, path, headers).await.ok().unwrap();
        events.iter().map(|(id, _, _)| id.parse().unwrap()).collect()
    };
    let path = "/v1/topics/orders.*/events";
    assert_eq!(ids(&format!("{path}?from=earliest&limit=3"), &[]).await, [1, 2, 3]);
    assert_eq!(ids(&format!("{path}?from=4&limit=3"), &[]).await, [4, 5, 6]);
    assert_eq!(ids(&format!("{path}?from=0&limit=1"), &[]).await, [1]);
    assert_eq!(ids(&format!("{path}?from=1&limit=2"), &[("last-event-id", "7")]).await, [8, 9]);
    assert_eq!(ids(&format!("{path}?limit=0"), &[]).await, [0; 0]);

    // Live: this one waits at the end, and is told by what comes, without asking again.
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = format!("GET {path} HTTP/1.0\r\nhost: t\r\nlast-event-id: 10\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buffer = vec![0; 4_096];
    while !text.contains("\r\n\r\n") {
        let read = stream.read(&mut buffer).await.unwrap();
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    writer.write(vec![event(11, "live")]).await.unwrap();
    while !text.contains("\"live\"") {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer)).await.unwrap().unwrap();
        assert_ne!(read, 0, "the subscription ended: {text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    assert!(text.contains("id: 11\n"), "{text}");
    // A stop ends it.
    broker.stop().await;
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_purged_id_is_said_to_be_gone_at_the_start_and_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let mut access = access(folder.path());
    access.retain_bytes = Some(4_000_000);
    let broker = try_start(&access).await.unwrap();
    let mut writer = writer(&broker, "a").await;
    let mut write = async |count: usize| {
        for _ in 0..count / 10 {
            writer.write((0..10).map(|number| event(number, vec![b'x'; 20_000])).collect()).await.unwrap();
        }
    };
    write(100).await;
    // A client that does not read: what the sockets and the server hold is bounded, so retention overtakes it.
    let mut stream = TcpStream::connect(broker.local_addr()).await.unwrap();
    let head = b"GET /v1/topics/%3E/events?from=earliest HTTP/1.0\r\nhost: t\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut first = [0; 1];
    stream.read_exact(&mut first).await.unwrap();
    write(2_000).await;
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut text)).await.unwrap().unwrap();
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    let (id, name, data) = support::parse_event(last);
    assert_eq!((id.as_str(), name.as_str(), &data["status"]), ("", "error", &json!(410)), "{last}");
    assert!(data["detail"].as_str().unwrap().contains("retention removed offsets"), "{data}");

    let answer = subscribe(broker.local_addr(), "/v1/topics/%3E/events", &[("last-event-id", "5")]).await.unwrap_err();
    assert_eq!(answer.status, 410);
    assert!(answer.json()["detail"].as_str().unwrap().contains("retention removed offsets 6.."), "{}", answer.body);
}

#[tokio::test]
async fn many_publishers_at_once_are_all_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let addr = broker.local_addr();
    let publisher = |number: usize| async move {
        let mut offsets = Vec::new();
        for at in 0..10 {
            let answer = publish(addr, "t", &[], format!("{number}/{at}").as_bytes()).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            offsets.push(answer.json()["offset"].as_u64().unwrap());
        }
        assert!(offsets.is_sorted(), "one publisher's events keep their order: {offsets:?}");
        offsets
    };
    let mut offsets: Vec<u64> = futures::future::join_all((0..20).map(publisher)).await.concat();
    offsets.sort_unstable();
    assert!(offsets.iter().copied().eq(1..=200));
    assert!(matches!(*broker.health().borrow(), longhaul_broker::Health::Up));
}
