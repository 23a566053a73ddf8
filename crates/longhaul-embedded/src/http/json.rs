//! An event as JSON. Pure.
//!
//! ```json
//! {"offset":7,"id":"<32 hex>","topic":"orders.eu","key":"k","time":"2024-01-01T00:00:00.000Z",
//!  "headers":[["ce-id","1"],["raw",{"base64":"AP8="}],["none",null]],"data":{"any":"JSON"}}
//! ```
//! `data` is the JSON itself when the event's content type is JSON (with the publisher's own spelling), text otherwise, `null` for a
//! tombstone, and `data_base64` stands in its place when the payload is not UTF-8; likewise `key` and `key_base64`. A missing key
//! has neither. A typed AMQP header is `{"type":"I","base64":".."}`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use longhaul_event::{Event, Header, HeaderTag};
use serde::Serialize;
use serde_json::value::RawValue;

use super::cloudevents::is_json;
use crate::clock;

#[derive(Serialize)]
struct View<'a> {
    offset: u64,
    id: String,
    topic: &'a str,
    #[serde(flatten)]
    key: Option<Key<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    headers: Vec<(&'a str, HeaderValue<'a>)>,
    #[serde(flatten)]
    data: Data<'a>,
}

#[derive(Serialize)]
enum Key<'a> {
    #[serde(rename = "key")]
    Text(&'a str),
    #[serde(rename = "key_base64")]
    Base64(String),
}

#[derive(Serialize)]
#[serde(untagged)]
enum HeaderValue<'a> {
    Text(&'a str),
    Null,
    Base64 { base64: String },
    Typed { r#type: char, base64: String },
}

#[derive(Serialize)]
enum Data<'a> {
    #[serde(rename = "data")]
    Json(Box<RawValue>),
    #[serde(rename = "data")]
    Text(&'a str),
    #[serde(rename = "data")]
    Null(()),
    #[serde(rename = "data_base64")]
    Base64(String),
}

/// The event on one line.
pub(super) fn render(event: &Event) -> String {
    let view = View {
        offset: event.offset,
        id: event.id.to_string(),
        topic: event.topic.as_str(),
        key: event.key.as_ref().map(|key| match std::str::from_utf8(key) {
            Ok(text) => Key::Text(text),
            Err(_) => Key::Base64(STANDARD.encode(key)),
        }),
        time: (event.time_ms != 0).then(|| clock::rfc3339(event.time_ms)).flatten(),
        headers: event.headers.iter().map(|header| (header.name, header_value(&header))).collect(),
        data: data(event),
    };
    serde_json::to_string(&view).expect("names and texts are always JSON")
}

fn header_value<'a>(header: &Header<'a>) -> HeaderValue<'a> {
    match (header.tag, std::str::from_utf8(header.value)) {
        (HeaderTag::NULL, _) => HeaderValue::Null,
        (HeaderTag::BYTES, Ok(text)) => HeaderValue::Text(text),
        (HeaderTag::BYTES, Err(_)) => HeaderValue::Base64 { base64: STANDARD.encode(header.value) },
        (HeaderTag(octet), _) => {
            HeaderValue::Typed { r#type: char::from(octet), base64: STANDARD.encode(header.value) }
        }
    }
}

fn data(event: &Event) -> Data<'_> {
    let Some(payload) = &event.payload else { return Data::Null(()) };
    let Ok(text) = std::str::from_utf8(payload) else { return Data::Base64(STANDARD.encode(payload)) };
    let content_type = event.headers.first("content-type").and_then(|header| std::str::from_utf8(header.value).ok());
    match serde_json::from_str::<&RawValue>(text) {
        // Line ends would be changed on their way through server-sent events; outside of texts they mean nothing in JSON.
        Ok(raw) if content_type.is_some_and(is_json) => Data::Json(raw.to_owned()),
        _ => Data::Text(text),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use longhaul_event::{EventId, Headers, Identity};
    use longhaul_topic::Topic;
    use serde_json::{Value, json};

    use super::*;

    fn event(headers: &[(&str, u8, &[u8])], key: Option<&'static [u8]>, payload: Option<&'static [u8]>) -> Event {
        let mut builder = Headers::builder();
        for (name, tag, value) in headers {
            builder.push_tagged(name, HeaderTag(*tag), value).unwrap();
        }
        Event {
            offset: 7,
            topic: Topic::parse("a.b").unwrap(),
            key: key.map(Bytes::from_static),
            headers: builder.finish(),
            payload: payload.map(Bytes::from_static),
            time_ms: 1,
            id: EventId(255),
            identity: Identity::Unique,
            provenance: Bytes::new(),
        }
    }

    #[test]
    fn everything_that_an_event_can_hold_has_its_form() {
        let text: &[(&str, u8, &[u8])] = &[("content-type", 0, b"text/plain")];
        let json_type: &[(&str, u8, &[u8])] = &[("content-type", 0, b"application/json; charset=utf-8")];
        for (event, expected) in [
            (event(text, None, Some(b"x\ny")), json!({"data": "x\ny", "headers": [["content-type", "text/plain"]]})),
            (event(&[], Some(b""), Some(b"")), json!({"key": "", "data": "", "headers": []})),
            (event(&[], Some(b"\xff"), None), json!({"key_base64": "/w==", "data": null, "headers": []})),
            (event(&[], None, Some(b"\xff")), json!({"data_base64": "/w==", "headers": []})),
            (
                event(json_type, None, Some(b"{\"n\": 1}")),
                json!({"data": {"n": 1}, "headers": [["content-type", "application/json; charset=utf-8"]]}),
            ),
            (
                event(json_type, None, Some(b"{")),
                json!({"data": "{", "headers": [["content-type", "application/json; charset=utf-8"]]}),
            ),
            (
                event(&[("r", 0, b"1"), ("r", 0, b"\xff"), ("n", 1, b""), ("t", b'I', &[0, 0, 0, 2])], None, Some(b"")),
                json!({"data": "", "headers": [["r", "1"], ["r", {"base64": "/w=="}], ["n", null],
                       ["t", {"type": "I", "base64": "AAAAAg=="}]]}),
            ),
        ] {
            let mut whole = json!({"offset": 7, "id": "000000000000000000000000000000ff", "topic": "a.b", "time": "1970-01-01T00:00:00.001Z"});
            whole.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
            assert_eq!(serde_json::from_str::<Value>(&render(&event)).unwrap(), whole);
        }
    }

    #[test]
    fn json_keeps_the_publishers_spelling() {
        let number = br#"{"b":123456789012345678901234567890,"a":1.10}"#;
        let rendered = render(&event(&[("content-type", 0, b"application/json")], None, Some(number)));
        assert!(rendered.contains(std::str::from_utf8(number).unwrap()), "{rendered}");
    }
}
