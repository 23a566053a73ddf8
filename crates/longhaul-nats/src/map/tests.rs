//! An event goes out and comes back as it was; a foreign message is taken for what it says.

use longhaul_event::HeaderTag;
use proptest::prelude::*;

use super::*;

const PLACE: Place = Place { cluster: 1, incarnation: 2, shard: 3, offset: 7, time_ms: 99 };

fn event(headers: Headers) -> Event {
    Event {
        offset: 7,
        topic: Topic::parse("orders.eu").unwrap(),
        key: Some(Bytes::from_static(b"k")),
        headers,
        payload: Some(Bytes::from_static(b"body")),
        time_ms: 1_700_000_000_123,
        id: EventId(42),
        identity: Identity::Unique,
        provenance: Bytes::from_static(b"\x01\xff"),
    }
}

fn headers(list: &[(&str, u8, &[u8])]) -> Headers {
    let mut builder = Headers::builder();
    for (name, tag, value) in list {
        builder.push_tagged(name, HeaderTag(*tag), value).unwrap();
    }
    builder.finish()
}

/// What a NATS client does between writing and reading: the block as bytes, names and values trimmed.
fn through_nats(out: Outgoing) -> Message {
    let mut map = HeaderMap::new();
    for (name, values) in out.headers.iter() {
        for value in values {
            assert!(!value.as_str().contains(['\r', '\n']));
            headers::append(&mut map, name.as_ref(), value.as_str().trim());
        }
    }
    let length = out.payload.len();
    let (subject, payload) = (out.subject, out.payload);
    Message { subject, reply: None, payload, headers: Some(map), status: None, description: None, length }
}

fn round_trip(event: &Event) -> Event {
    let out = to_message(event, Dedup::Salted(0)).unwrap();
    to_event(through_nats(out), PLACE, &Topic::default()).unwrap()
}

#[test]
fn odd_headers_come_back_as_they_were() {
    let big = vec![b'x'; 16 * 1024];
    let list: &[(&str, u8, &[u8])] = &[
        ("z", 0, b"last name first"),
        ("a", 0, b"1"),
        ("z", 0, b""),
        ("A", 0, b"case kept"),
        ("bin", 0, b"\x00\xff\r\n"),
        ("padded", 0, b" x "),
        ("null", 1, b""),
        ("sp ace:colon", 0, b"v"),
        ("", 0, b"no name"),
        ("Longhaul-Key", 0, b"not ours to keep"),
        ("int", b'I', &7_i32.to_be_bytes()),
        ("table", b'F', b"\0\0\0\0"),
        ("big", 0, &big),
    ];
    let event = event(headers(list));
    assert_eq!(round_trip(&event), event);
}

/// Under its own name for every NATS client, and as the property again where the event goes on to RabbitMQ.
#[test]
fn a_correlation_id_stays_readable_in_every_form() {
    for name in ["correlation_id", "amqp.correlation_id", "ce-correlationid", "traceparent"] {
        let event = event(headers(&[(name, 0, b"c-1")]));
        let out = to_message(&event, Dedup::Off).unwrap();
        assert_eq!(out.headers.get(name).map(|value| value.as_str()), Some("c-1"), "{name}");
        assert_eq!(round_trip(&event), event, "{name}");
    }
}

#[test]
fn plain_sorted_headers_need_no_order() {
    let out = to_message(&event(headers(&[("a", 0, b"1"), ("a", 0, b"2"), ("b", 0, b"3")])), Dedup::Off).unwrap();
    assert!(out.headers.get("Longhaul-Order").is_none());
    assert!(out.headers.get("Nats-Msg-Id").is_none());
    let out = to_message(&event(headers(&[("b", 0, b"1"), ("a", 0, b"2")])), Dedup::Off).unwrap();
    assert_eq!(out.headers.get("Longhaul-Order").unwrap().as_str(), "b a");
}

#[test]
fn control_headers_go_nowhere() {
    let event = event(headers(&[("Nats-Rollup", 0, b"all"), ("nats-ttl", 0, b"1"), ("x", 0, b"y")]));
    let out = to_message(&event, Dedup::Off).unwrap();
    assert!(
        out.headers.iter().all(|(name, _)| !name.to_string().to_lowercase().starts_with("nats-")),
        "{:?}",
        out.headers
    );
    let mut message = through_nats(out);
    message.headers.as_mut().unwrap().insert("Nats-Msg-Id", "theirs");
    // A raw entry must not smuggle one in either.
    let raw = BASE64.encode(b"\x00\x00\x0bNats-Rollupall");
    message.headers.as_mut().unwrap().insert("Longhaul-Order", ":r");
    message.headers.as_mut().unwrap().insert("Longhaul-Raw", raw.as_str());
    let read = to_event(message, PLACE, &Topic::default()).unwrap();
    assert_eq!(read.headers, headers(&[("x", 0, b"y")]));
}

#[test]
fn keys_and_payloads_keep_none_apart_from_empty() {
    for key in [None, Some(""), Some(" "), Some("k")] {
        for payload in [None, Some(""), Some("p")] {
            let mut event = event(Headers::default());
            event.key = key.map(Bytes::from);
            event.payload = payload.map(Bytes::from);
            assert_eq!(round_trip(&event), event);
        }
    }
}

#[test]
fn an_identity_from_content_never_lets_a_stream_drop_the_event() {
    let mut event = event(Headers::default());
    event.identity = Identity::Content;
    let out = to_message(&event, Dedup::Salted(0)).unwrap();
    assert!(out.headers.get("Nats-Msg-Id").is_none());
    assert_eq!(round_trip(&event).identity, Identity::Content);
}

#[test]
fn one_event_on_two_subjects_is_two_messages() {
    let one = event(Headers::default());
    let mut other = one.clone();
    other.topic = Topic::parse("copy.orders.eu").unwrap();
    assert_ne!(msg_id(&one, 0), msg_id(&other, 0));
    assert_ne!(msg_id(&one, 0), msg_id(&one, 5));
}

#[test]
fn a_foreign_message_gets_its_identity_from_its_position() {
    let mut map = HeaderMap::new();
    map.append("b", "2");
    map.append("a", "1");
    map.insert("Longhaul-Id", "not hex");
    let message = Message {
        subject: "s".into(),
        reply: None,
        payload: Bytes::new(),
        headers: Some(map),
        status: None,
        description: None,
        length: 0,
    };
    let read = to_event(message, PLACE, &Topic::default()).unwrap();
    assert_eq!(read.id, EventId::of_position(1, 2, 3, 7));
    assert_eq!((read.time_ms, read.key, read.payload), (99, None, Some(Bytes::new())));
    assert_eq!(read.headers, headers(&[("a", 0, b"1"), ("b", 0, b"2")]));
}

#[test]
fn copied_headers_with_more_and_fewer_lose_nothing_that_is_there() {
    let out = to_message(&event(headers(&[("b", 0, b"\xff"), ("a", 0, b"1"), ("gone", 0, b"2")])), Dedup::Off).unwrap();
    let mut map = HeaderMap::new();
    for (name, values) in out.headers.iter().filter(|(name, _)| name.to_string() != "gone") {
        values.iter().for_each(|value| map.append(name.clone(), value.clone()));
    }
    map.insert("new", "3");
    assert_eq!(headers::read(&map).unwrap(), headers(&[("b", 0, b"\xff"), ("a", 0, b"1"), ("new", 0, b"3")]));
}

#[test]
fn the_length_of_a_header_block_is_what_goes_over_the_wire() {
    let mut map = HeaderMap::new();
    map.append("A", "b");
    map.append("A", "");
    assert_eq!(wire_len(&map), "NATS/1.0\r\nA: b\r\nA: \r\n\r\n".len());
}

proptest! {
    #[test]
    fn any_event_comes_back_as_it_was(
        list in prop::collection::vec(("\\PC{0,6}|[a-c]", prop::sample::select(b"\x00\x00\x01tIlSxdF".to_vec()), prop::collection::vec(any::<u8>(), 0..9)), 0..8),
        key in prop::option::of(prop::collection::vec(any::<u8>(), 0..5)),
        payload in prop::option::of(prop::collection::vec(any::<u8>(), 0..5)),
        time_ms in any::<i64>(),
    ) {
        let mut event = event(Headers::default());
        let kept = list.iter().filter(|(name, ..)| !name.to_lowercase().starts_with("nats-"));
        let kept: Vec<(&str, u8, &[u8])> = kept.map(|(name, tag, value)| (name.as_str(), *tag, value.as_slice())).collect();
        event.headers = headers(&kept);
        event.key = key.map(Bytes::from);
        event.payload = payload.map(Bytes::from);
        event.time_ms = if time_ms == 0 { 1 } else { time_ms };
        prop_assert_eq!(round_trip(&event), event);
    }

    #[test]
    fn garbage_in_our_own_headers_breaks_nothing(order in "\\PC{0,30}", raw in "\\PC{0,20}", key in "\\PC{0,10}") {
        let mut map = HeaderMap::new();
        for (name, value) in [("Longhaul-Order", &order), ("Longhaul-Raw", &raw), ("Longhaul-Key-B64", &key), ("Longhaul-Prov", &raw), ("a", &key)] {
            headers::append(&mut map, name, value);
        }
        let _ = headers::read(&map);
    }
}
