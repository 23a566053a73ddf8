//! What publishers may send, right and wrong, in tables.

use axum::http::{HeaderName, HeaderValue};

use super::*;

fn request(headers: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        (HeaderName::try_from(*name).unwrap(), value)
    };
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter().map(pair) {
        map.append(name, value);
    }
    map
}

fn parsed(headers: &[(&str, &str)], body: &str) -> Result<Vec<Parsed>, Problem> {
    let headers = request(headers);
    parse(Mode::of(&headers)?, &headers, Bytes::copy_from_slice(body.as_bytes()))
}

fn plain(parsed: &Parsed) -> (Option<String>, Vec<(String, String)>, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let headers = parsed.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect();
    (parsed.key.as_deref().map(text), headers, text(&parsed.payload))
}

const REQUIRED_HEADERS: [(&str, &str); 4] =
    [("ce-specversion", "1.0"), ("ce-id", "a-1"), ("ce-source", "/shop"), ("ce-type", "order.placed")];
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json; charset=utf-8");
const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");

#[test]
fn valid_requests_become_events() {
    type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str, Option<&'a str>, Vec<(&'a str, &'a str)>, &'a str);
    let cases: Vec<Case<'_>> = vec![
        ("nothing at all", vec![], "", None, vec![], ""),
        (
            "any body",
            vec![
                ("content-type", "text/plain"),
                ("longhaul-key", "k"),
                ("accept", "*/*"),
                ("longhaul-header-x-a", "1"),
            ],
            "hello",
            Some("k"),
            vec![("content-type", "text/plain"), ("x-a", "1")],
            "hello",
        ),
        ("a trace", vec![("traceparent", "00-1-2-3")], "x", None, vec![("traceparent", "00-1-2-3")], "x"),
        (
            "binary mode",
            [
                &REQUIRED_HEADERS[..],
                &[("ce-partitionkey", "k%C3%BC%20"), ("content-type", "text/xml"), ("longhaul-key", "no")],
            ]
            .concat(),
            "<a/>",
            Some("kü "),
            vec![
                ("ce-specversion", "1.0"),
                ("ce-id", "a-1"),
                ("ce-source", "/shop"),
                ("ce-type", "order.placed"),
                ("ce-partitionkey", "k%C3%BC%20"),
                ("content-type", "text/xml"),
            ],
            "<a/>",
        ),
        (
            "structured mode with JSON, spelled as it was",
            vec![STRUCTURED],
            r#"{"specversion":"1.0","id":"a 1","source":"/ü","type":"t","flag":true,"count":-3,"none":null,
                "time":"2024-02-29T12:00:00.5+01:00","partitionkey":"k","data":{"b":1.0,"a":12345678901234567890123}}"#,
            Some("k"),
            vec![
                ("ce-count", "-3"),
                ("ce-flag", "true"),
                ("ce-id", "a%201"),
                ("ce-partitionkey", "k"),
                ("ce-source", "/%C3%BC"),
                ("ce-specversion", "1.0"),
                ("ce-time", "2024-02-29T12:00:00.5+01:00"),
                ("ce-type", "t"),
                ("content-type", "application/json"),
            ],
            r#"{"b":1.0,"a":12345678901234567890123}"#,
        ),
        (
            "structured mode with text",
            vec![STRUCTURED],
            r#"{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"text/plain","data":"a\nb"}"#,
            None,
            vec![
                ("ce-id", "1"),
                ("ce-source", "s"),
                ("ce-specversion", "1.0"),
                ("ce-type", "t"),
                ("content-type", "text/plain"),
            ],
            "a\nb",
        ),
        (
            "structured mode with base64",
            vec![STRUCTURED],
            r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"aGV5"}"#,
            None,
            vec![("ce-id", "1"), ("ce-source", "s"), ("ce-specversion", "1.0"), ("ce-type", "t")],
            "hey",
        ),
    ];
    for (what, headers, body, key, kept, payload) in cases {
        let events = parsed(&headers, body).unwrap_or_else(|problem| panic!("{what}: {problem:?}"));
        assert_eq!(events.len(), 1, "{what}");
        let kept = kept.iter().map(|(name, value)| (str::to_owned(name), str::to_owned(value))).collect();
        assert_eq!(plain(&events[0]), (key.map(str::to_owned), kept, payload.to_owned()), "{what}");
    }
}

#[test]
fn a_batch_becomes_events_in_order_or_nothing() {
    let one = |id: &str| format!(r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"t","data":"{id}"}}"#);
    let events = parsed(&[BATCH], &format!("[{},{}]", one("a"), one("b"))).unwrap();
    assert_eq!(events.iter().map(|event| plain(event).2).collect::<Vec<_>>(), ["\"a\"", "\"b\""]);
    assert_eq!(parsed(&[BATCH], "[]"), Ok(vec![]));
    let problem = parsed(&[BATCH], &format!("[{},{}]", one("a"), one(""))).unwrap_err();
    assert_eq!(problem.status, StatusCode::BAD_REQUEST);
    assert!(
        problem.detail.starts_with("event 1 of the batch: a CloudEvent needs the attribute id"),
        "{}",
        problem.detail
    );
    let many = vec![one("x"); BATCH_EVENTS_MAX];
    assert_eq!(parsed(&[BATCH], &format!("[{}]", many.join(","))).map(|events| events.len()), Ok(BATCH_EVENTS_MAX));
    let problem = parsed(&[BATCH], &format!("[{},{}]", many.join(","), one("x"))).unwrap_err();
    assert_eq!(problem.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[test]
fn invalid_requests_are_refused_with_a_sentence() {
    let structured = |members: &str| format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t"{members}}}"#);
    let without =
        |name: &str| REQUIRED_HEADERS.iter().copied().filter(|(header, _)| *header != name).collect::<Vec<_>>();
    let with = |name: &'static str, value: &'static str| [without(name), vec![(name, value)]].concat();
    type Case<'a> = (Vec<(&'a str, &'a str)>, String, u16, &'a str);
    let cases: Vec<Case<'_>> = vec![
        (without("ce-id"), String::new(), 400, "the attribute id (in binary mode the header ce-id)"),
        (without("ce-source"), String::new(), 400, "the attribute source"),
        (without("ce-type"), String::new(), 400, "the attribute type"),
        (without("ce-specversion"), String::new(), 400, "the attribute specversion"),
        (with("ce-id", ""), String::new(), 400, "the attribute id"),
        (with("ce-specversion", "0.3"), String::new(), 400, "\"0.3\" is not read here, only 1.0"),
        (with("ce-time", "yesterday"), String::new(), 400, "not an RFC 3339 timestamp"),
        (with("ce-bad-name", "x"), String::new(), 400, "\"bad-name\" is no attribute name"),
        ([&REQUIRED_HEADERS[..], &[("ce-id", "b")]].concat(), String::new(), 400, "ce-id comes twice"),
        (vec![STRUCTURED], "{".to_owned(), 400, "not the JSON of a CloudEvent"),
        (vec![STRUCTURED], "[]".to_owned(), 400, "not the JSON of a CloudEvent"),
        (vec![STRUCTURED], "\u{0}".to_owned(), 400, "not the JSON of a CloudEvent"),
        (vec![STRUCTURED], "{}".to_owned(), 400, "needs the attribute specversion"),
        (vec![STRUCTURED], structured(r#","list":[1]"#), 400, "the attribute list is neither"),
        (vec![STRUCTURED], structured(r#","half":0.5"#), 400, "the attribute half is neither"),
        (vec![STRUCTURED], structured(r#","Upper":"x""#), 400, "\"Upper\" is no attribute name"),
        (vec![STRUCTURED], structured(r#","data":1,"data_base64":"aA==""#), 400, "either data or data_base64"),
        (vec![STRUCTURED], structured(r#","data_base64":"%""#), 400, "not base64"),
        (vec![STRUCTURED], structured(r#","data_base64":7"#), 400, "not base64"),
        (vec![BATCH], structured(""), 400, "not the JSON of a CloudEvent"),
        (
            vec![("content-type", "application/cloudevents+avro")],
            String::new(),
            415,
            "application/cloudevents+avro is not read",
        ),
        (vec![("content-encoding", "gzip")], String::new(), 415, "without content-encoding"),
    ];
    for (headers, body, status, sentence) in cases {
        let problem = parsed(&headers, &body).expect_err(sentence);
        assert_eq!(problem.status.as_u16(), status, "{sentence}: {}", problem.detail);
        assert!(problem.detail.contains(sentence), "{:?} does not say {sentence:?}", problem.detail);
    }
}

#[test]
fn headers_beyond_the_limits_of_an_event_are_refused() {
    let long = "v".repeat(20_480);
    let problem = parsed(&[("content-type", "text/plain"), ("longhaul-header-a", &long)], "x").unwrap_err();
    assert_eq!(problem.status, StatusCode::BAD_REQUEST);
}

#[test]
fn timestamps_are_told_from_what_only_looks_like_one() {
    for good in ["2024-01-01T00:00:00Z", "2024-12-31t23:59:60.123456789z", "0001-01-01T00:00:00-23:59"] {
        assert!(is_timestamp(good), "{good}");
    }
    for bad in [
        "",
        "2024-01-01",
        "2024-01-01T00:00:00",
        "2024-13-01T00:00:00Z",
        "2024-01-01 00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00+1:00",
        "2024-01-01T00:00:00+01-00",
        "2024-01-01T00:00:00ü0000",
        "+024-01-01T00:00:00Z",
        "2024-01-01T00:00:00ZZ",
    ] {
        assert!(!is_timestamp(bad), "{bad}");
    }
}

#[test]
fn percent_encoding_is_reversed() {
    for text in ["", "plain", "a b", "100%", "\"q\"", "ü✓\n"] {
        let encoded = percent_encoded(text);
        assert!(encoded.bytes().all(|b| (0x21..=0x7e).contains(&b)), "{encoded}");
        assert_eq!(percent_decoded(&encoded), text);
    }
    assert_eq!(percent_decoded("50%, %zz, %4"), "50%, %zz, %4");
    assert_eq!(percent_decoded("%ff"), "%ff", "what is no text stays as it is written");
}
