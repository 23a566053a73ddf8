//! The mapping, there and back: every kind of header, property and body.

use longhaul_event::{HeaderTag, Headers};
use proptest::prelude::*;

use super::*;

const CLUSTER: u64 = 7;

fn event() -> Event {
    Event {
        offset: 3,
        topic: Topic::parse("orders.new").expect("a topic"),
        key: Some(Bytes::from_static(b"k")),
        headers: Headers::default(),
        payload: Some(Bytes::from_static(b"body")),
        time_ms: 1_700_000_000_123,
        id: EventId(0xabc),
        identity: Identity::Unique,
        provenance: Bytes::from_static(b"\x01\x00\xff"),
    }
}

fn headers(list: &[(&str, HeaderTag, &[u8])]) -> Headers {
    let mut builder = Headers::builder();
    list.iter().for_each(|(name, tag, value)| builder.push_tagged(name, *tag, value).expect("within the limits"));
    builder.finish()
}

/// As the broker would deliver it through an exchange.
fn delivered(message: Outgoing, tag: u64) -> Incoming {
    let Outgoing { routing_key, properties, body } = message;
    Incoming { tag, exchange: "events".into(), routing_key, properties, body }
}

fn there_and_back(event: &Event) -> Event {
    to_event(delivered(to_message(event, None).expect("it has a form"), event.offset), CLUSTER).expect("it is an event")
}

fn table(message: &Outgoing) -> &FieldTable {
    message.properties.headers().as_ref().expect("ours has headers")
}

const BYTES: HeaderTag = HeaderTag::BYTES;

#[test]
fn everything_comes_back() {
    let mut event = event();
    event.headers = headers(&[
        ("zulu", BYTES, b"first"),
        ("content-type", BYTES, b"text/plain"),
        ("amqp.correlation_id", BYTES, b"c-1"),
        ("amqp.priority", BYTES, b"7"),
        ("amqp.message_id", BYTES, b"of the application"),
        ("repeat", BYTES, b"one"),
        ("alpha", HeaderTag(b'I'), &42_i32.to_be_bytes()),
        ("repeat", HeaderTag::NULL, b""),
        ("content-type", BYTES, b"a second one"),
        ("binary", BYTES, b"\x00\xff\r\n"),
        ("repeat", BYTES, b"one"),
    ]);
    assert_eq!(there_and_back(&event), event);
    let message = to_message(&event, None).expect("it has a form");
    assert_eq!(message.properties.content_type().as_ref().map(ShortString::as_str), Some("text/plain"));
    assert_eq!(message.properties.priority(), &Some(7));
    assert_eq!(message.properties.message_id().as_ref().map(ShortString::as_str), Some("of the application"));
    assert_eq!(message.properties.delivery_mode(), &Some(2));
    assert_eq!(message.routing_key.as_str(), "orders.new");
}

#[test]
fn a_correlation_id_is_a_property_where_it_was_one_and_is_kept_in_every_form() {
    let mut event = event();
    let others = [("correlation_id", "c-2"), ("cloudEvents_correlationid", "c-3"), ("traceparent", "00-1-2-01")];
    let mut list = vec![("amqp.correlation_id", BYTES, &b"c-1"[..])];
    list.extend(others.iter().map(|(name, value)| (*name, BYTES, value.as_bytes())));
    event.headers = headers(&list);
    let message = to_message(&event, None).expect("it has a form");
    assert_eq!(message.properties.correlation_id().as_ref().map(ShortString::as_str), Some("c-1"));
    for (name, value) in others {
        assert_eq!(table(&message).inner().get(name), Some(&AMQPValue::LongString(value.into())), "{name}");
    }
    assert_eq!(there_and_back(&event), event);

    // Longer than a property can be, it is a header.
    for (length, is_property) in [(255, true), (256, false)] {
        let long = "c".repeat(length);
        event.headers = headers(&[("amqp.correlation_id", BYTES, long.as_bytes())]);
        let message = to_message(&event, None).expect("it has a form");
        assert_eq!(message.properties.correlation_id().is_some(), is_property, "{length}");
        assert_eq!(there_and_back(&event), event, "{length}");
    }
}

#[test]
fn what_is_not_there_stays_away() {
    let mut event = event();
    (event.key, event.provenance, event.time_ms) = (None, Bytes::new(), 0);
    let message = to_message(&event, None).expect("it has a form");
    assert_eq!(table(&message).inner().keys().map(ShortString::as_str).collect::<Vec<_>>(), [ID]);
    assert_eq!(message.properties.timestamp(), &None);
    assert_eq!(message.properties.message_id().as_ref().map(ShortString::as_str), Some(&*event.id.to_string()));
    assert_eq!(there_and_back(&event), event);
}

#[test]
fn an_empty_key_an_empty_payload_and_no_payload_are_three_things() {
    let mut event = event();
    event.key = Some(Bytes::new());
    event.payload = Some(Bytes::new());
    assert_eq!(there_and_back(&event), event);
    event.payload = None;
    assert_eq!(there_and_back(&event), event);
    let mut message = to_message(&event, None).expect("it has a form");
    message.body = Bytes::from_static(b"written since by an application");
    let read = to_event(delivered(message, 3), CLUSTER).expect("it is an event");
    assert!(read.payload.is_some(), "a body is never thrown away for the sake of a header");
}

#[test]
fn headers_that_control_the_broker_are_stripped() {
    let mut event = event();
    let control = [
        "CC",
        "BCC",
        "x-delay",
        "x-death",
        "x-death-of-something",
        "x-first-death-queue",
        "x-last-death-reason",
        "x-longhaul-key",
        "x-longhaul-id",
        "x-delivery-count",
    ];
    let list: Vec<_> =
        control.iter().map(|name| (*name, BYTES, &b"v"[..])).chain([("cc", BYTES, &b"mine"[..])]).collect();
    event.headers = headers(&list);
    let message = to_message(&event, None).expect("it has a form");
    assert!(message.properties.expiration().is_none() && message.properties.user_id().is_none());
    for name in control.iter().filter(|name| !name.starts_with(OURS)) {
        assert!(!table(&message).contains_key(name), "{name} went out");
    }
    let read = there_and_back(&event);
    assert_eq!(read.headers, headers(&[("cc", BYTES, b"mine")]), "what only looks alike stays");
    assert_eq!((read.key, read.id), (event.key, event.id), "nobody else's header is taken for ours");
}

#[test]
fn what_a_queue_counts_is_no_part_of_the_message() {
    let message = |count: Option<i64>| {
        let mut table = FieldTable::default();
        table.insert("app".into(), AMQPValue::LongString("v".into()));
        if let Some(count) = count {
            table.insert("x-delivery-count".into(), AMQPValue::LongLongInt(count));
        }
        let properties = BasicProperties::default().with_headers(table);
        let body = Bytes::from_static(b"b");
        to_event(Incoming { tag: 1, exchange: "".into(), routing_key: "q".into(), properties, body }, CLUSTER)
    };
    let (first, again) = (message(None).expect("an event"), message(Some(3)).expect("an event"));
    assert_eq!(first, again, "a redelivery is the same event");
    assert_eq!(first.identity, Identity::Content);
}

#[test]
fn a_message_id_is_an_identity_and_nothing_else_is() {
    let message = |id: Option<&str>, body: &'static [u8]| {
        let properties = BasicProperties::default();
        let properties = id.map_or(properties.clone(), |id| properties.with_message_id(id.into()));
        let incoming = Incoming {
            tag: 1,
            exchange: "e".into(),
            routing_key: "q".into(),
            properties,
            body: Bytes::from_static(body),
        };
        to_event(incoming, CLUSTER).expect("an event")
    };
    assert_eq!(message(Some("m"), b"1").id, message(Some("m"), b"2").id);
    assert_eq!(message(Some("m"), b"1").identity, Identity::Unique);
    assert_eq!(message(Some(""), b"1").identity, Identity::Content);
    assert_eq!(message(None, b"1").id, message(None, b"1").id);
    assert_ne!(message(None, b"1").id, message(None, b"2").id);
}

#[test]
fn an_identity_of_content_stays_one_and_is_no_message_id() {
    let mut event = event();
    event.identity = Identity::Content;
    assert_eq!(there_and_back(&event), event);
    assert_eq!(to_message(&event, None).expect("it has a form").properties.message_id(), &None);
}

#[test]
fn a_message_id_that_looks_like_ours_is_kept() {
    let mut event = event();
    event.headers = headers(&[("amqp.message_id", BYTES, event.id.to_string().as_bytes())]);
    assert_eq!(there_and_back(&event), event);
}

#[test]
fn what_cannot_be_a_property_is_a_header() {
    let mut event = event();
    let long = [b'x'; 256];
    event.headers = headers(&[
        ("amqp.app_id", BYTES, b"\xff"),
        ("amqp.priority", BYTES, b"007"),
        ("amqp.reply_to", BYTES, b"amq.rabbitmq.reply-to"),
        ("amqp.type", HeaderTag::NULL, b""),
        ("content-type", BYTES, &long),
    ]);
    let message = to_message(&event, None).expect("it has a form");
    assert!(message.properties.reply_to().is_none(), "the broker would close the channel");
    assert!(message.properties.content_type().is_none() && message.properties.priority().is_none());
    assert_eq!(there_and_back(&event), event);
}

#[test]
fn limits_of_amqp_are_refusals() {
    let mut event = event();
    event.topic = Topic::parse(&"t".repeat(255)).expect("a topic");
    assert!(to_message(&event, None).is_ok());
    event.topic = Topic::parse(&"t".repeat(256)).expect("a topic");
    assert_eq!(to_message(&event, None).expect_err("too long").0, Poison::BadTopic);
    assert!(to_message(&event, Some(&"queue".into())).is_ok(), "with a queue it is only a header");
    event.headers = headers(&[(&"n".repeat(255), BYTES, b"")]);
    assert!(to_message(&event, Some(&"queue".into())).is_ok());
    event.headers = headers(&[(&"n".repeat(256), BYTES, b"")]);
    assert_eq!(to_message(&event, Some(&"queue".into())).expect_err("too long").0, Poison::Refused);
    event.headers = headers(&[("n", HeaderTag(b'?'), b"")]);
    assert_eq!(to_message(&event, Some(&"queue".into())).expect_err("no such type").0, Poison::Refused);
}

#[test]
fn the_topic_survives_a_queue_but_not_another_exchange() {
    let event = event();
    let message = to_message(&event, Some(&"billing".into())).expect("it has a form");
    assert_eq!(message.routing_key.as_str(), "billing");
    let mut incoming = delivered(message.clone(), event.offset);
    assert_eq!(to_event(incoming, CLUSTER).expect("an event").topic.as_str(), "billing", "through an exchange");
    incoming = delivered(message, event.offset);
    incoming.exchange = "".into();
    assert_eq!(to_event(incoming, CLUSTER).expect("an event"), event);
}

#[test]
fn a_broker_that_stamps_messages_is_believed() {
    let event = event();
    let mut message = to_message(&event, None).expect("it has a form");
    message.properties = message.properties.with_timestamp(1_800_000_000);
    assert_eq!(to_event(delivered(message, 3), CLUSTER).expect("an event").time_ms, 1_800_000_000_000);
}

#[test]
fn headers_that_were_changed_since_are_read_as_they_are() {
    let mut event = event();
    event.headers = headers(&[("b", BYTES, b"1"), ("a", BYTES, b"2")]);
    let mut message = to_message(&event, None).expect("it has a form");
    let mut changed = table(&message).clone();
    changed.insert("c".into(), AMQPValue::LongString("3".into()));
    message.properties = message.properties.with_headers(changed);
    let read = to_event(delivered(message, 3), CLUSTER).expect("an event");
    assert_eq!(read.headers, headers(&[("a", BYTES, b"2"), ("b", BYTES, b"1"), ("c", BYTES, b"3")]));
}

#[test]
fn an_array_of_the_application_stays_one_header() {
    let mut table = FieldTable::default();
    let array: Vec<AMQPValue> = vec![AMQPValue::LongInt(1), AMQPValue::LongString("x".into())];
    table.insert("list".into(), AMQPValue::FieldArray(array.into()));
    let properties = BasicProperties::default().with_headers(table.clone());
    let incoming = Incoming { tag: 9, exchange: "e".into(), routing_key: "k".into(), properties, body: Bytes::new() };
    let event = to_event(incoming, CLUSTER).expect("an event");
    assert_eq!(event.headers.iter().count(), 1);
    let message = to_message(&event, None).expect("it has a form");
    assert_eq!(super::tests::table(&message).inner().get("list"), table.inner().get("list"));
}

fn any_headers() -> impl Strategy<Value = Vec<(String, u8, Vec<u8>)>> {
    let name = prop_oneof![
        4 => "[a-c]{1,2}",
        1 => Just("content-type".to_owned()),
        1 => Just("amqp.priority".to_owned()),
        1 => Just("amqp.message_id".to_owned()),
        1 => "\\PC{0,12}",
    ];
    let value = prop_oneof![
        (Just(0_u8), proptest::collection::vec(any::<u8>(), 0..12)),
        (Just(0_u8), "[0-9]{0,3}".prop_map(String::into_bytes)),
        (Just(1_u8), Just(Vec::new())),
        (Just(b'l'), any::<i64>().prop_map(|v| v.to_be_bytes().to_vec())),
        (Just(b't'), any::<bool>().prop_map(|v| vec![u8::from(v)])),
    ];
    proptest::collection::vec((name, value), 0..12)
        .prop_map(|list| list.into_iter().map(|(name, (tag, value))| (name, tag, value)).collect())
}

proptest! {
    #[test]
    fn any_event_comes_back(
        list in any_headers(),
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
        payload in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
        time_ms in prop_oneof![Just(0_i64), any::<i64>().prop_map(|ms| ms / 1_000_000), 1_000_i64..9_999_999_999_999],
        id in any::<u128>(),
        is_content in any::<bool>(),
    ) {
        let mut event = event();
        let list: Vec<_> = list
            .iter()
            .filter(|(name, ..)| !headers::is_control(name))
            .map(|(name, tag, value)| (name.as_str(), HeaderTag(*tag), &value[..]))
            .collect();
        event.headers = headers(&list);
        (event.key, event.payload) = (key.map(Bytes::from), payload.map(Bytes::from));
        (event.time_ms, event.id) = (time_ms, EventId(id));
        event.identity = if is_content { Identity::Content } else { Identity::Unique };
        prop_assert_eq!(there_and_back(&event), event);
    }
}
