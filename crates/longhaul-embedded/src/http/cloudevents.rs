//! What a publisher sends, as events: CloudEvents over HTTP in its three modes, or any body. Pure.
//!
//! CloudEvents attributes become headers by the names of the HTTP binding, in lower case and with its percent-encoding: `ce-id`,
//! `ce-source`, `ce-type`, .. ; `datacontenttype` becomes `content-type`, `data` the payload. The extension `partitionkey` is the
//! key (and stays a header). A body that is no CloudEvent keeps `content-type`, `traceparent` and `tracestate`; its key is the header
//! `longhaul-key`, and `longhaul-header-NAME` becomes the header `NAME`.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use longhaul_event::{HeaderError, Headers, HeadersBuilder};
use serde_json::Value;
use serde_json::value::RawValue;

use super::problem::Problem;

/// Most events in one batch.
pub(super) const BATCH_EVENTS_MAX: usize = 10_000;
const PREFIX: &str = "ce-";
const HEADER_PREFIX: &str = "longhaul-header-";
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// How a request carries its events, by its headers alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The body is the payload; the attributes, if there are any, are headers.
    Binary,
    /// The body is one CloudEvent in JSON.
    Structured,
    /// The body is a list of CloudEvents in JSON.
    Batch,
}

/// What becomes an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) key: Option<Bytes>,
    pub(super) headers: Headers,
    pub(super) payload: Bytes,
}

impl Mode {
    /// The mode of a request; 415 for what nobody here can read.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let unsupported = |detail: String| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
        if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
            && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            return Err(unsupported("a body must come as it is, without content-encoding".to_owned()));
        }
        let media = match headers.get(header::CONTENT_TYPE).map(|value| value.to_str()) {
            None => return Ok(Self::Binary),
            Some(Ok(value)) => media_type(value),
            Some(Err(_)) => return Err(Problem::bad("the header content-type is not plain text")),
        };
        match media.as_str() {
            "application/cloudevents+json" => Ok(Self::Structured),
            "application/cloudevents-batch+json" => Ok(Self::Batch),
            other if other.starts_with("application/cloudevents") => Err(unsupported(format!(
                "{other} is not read here; send application/cloudevents+json or application/cloudevents-batch+json"
            ))),
            _ => Ok(Self::Binary),
        }
    }
}

/// Reads the body by its mode; all events or none.
pub(super) fn parse(mode: Mode, headers: &HeaderMap, body: Bytes) -> Result<Vec<Parsed>, Problem> {
    match mode {
        Mode::Binary if headers.keys().any(|name| name.as_str().starts_with(PREFIX)) => {
            Ok(vec![binary(headers, body)?])
        }
        Mode::Binary => Ok(vec![raw(headers, body)?]),
        Mode::Structured => {
            let attributes = serde_json::from_slice(&body).map_err(|error| bad_json(&error))?;
            Ok(vec![structured(attributes)?])
        }
        Mode::Batch => {
            let events: Vec<Attributes> = serde_json::from_slice(&body).map_err(|error| bad_json(&error))?;
            if events.len() > BATCH_EVENTS_MAX {
                return Err(Problem::too_large(format!("a batch has at most {BATCH_EVENTS_MAX} events")));
            }
            let numbered = events.into_iter().enumerate();
            numbered.map(|(at, attributes)| structured(attributes).map_err(|problem| in_batch(at, &problem))).collect()
        }
    }
}

fn bad_json(error: &serde_json::Error) -> Problem {
    Problem::bad(format!("the body is not the JSON of a CloudEvent: {error}"))
}

fn in_batch(at: usize, problem: &Problem) -> Problem {
    Problem::new(problem.status, format!("event {at} of the batch: {}", problem.detail))
}

/// Any body.
fn raw(headers: &HeaderMap, body: Bytes) -> Result<Parsed, Problem> {
    let mut kept = Headers::builder();
    keep(headers, &mut kept)?;
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(HEADER_PREFIX).filter(|name| !name.is_empty()) {
            kept.push(name, value.as_bytes()).map_err(refused)?;
        }
    }
    Ok(Parsed { key: key_header(headers), headers: kept.finish(), payload: body })
}

/// Attributes in headers, data in the body.
fn binary(headers: &HeaderMap, body: Bytes) -> Result<Parsed, Problem> {
    let mut attributes = BTreeMap::new();
    let mut kept = Headers::builder();
    for (name, value) in headers {
        let Some(attribute) = name.as_str().strip_prefix(PREFIX) else { continue };
        check_name(attribute)?;
        let text = std::str::from_utf8(value.as_bytes());
        let text = text.map_err(|_| Problem::bad(format!("the header ce-{attribute} is not UTF-8")))?;
        if attributes.insert(attribute.to_owned(), percent_decoded(text)).is_some() {
            return Err(Problem::bad(format!("the header ce-{attribute} comes twice")));
        }
        kept.push(name.as_str(), value.as_bytes()).map_err(refused)?;
    }
    check_attributes(&attributes)?;
    keep(headers, &mut kept)?;
    let key = attributes.get("partitionkey").map(|key| Bytes::from(key.clone()));
    Ok(Parsed { key: key.or_else(|| key_header(headers)), headers: kept.finish(), payload: body })
}

/// The members of a CloudEvent in JSON; values keep the text that the publisher wrote.
type Attributes = BTreeMap<String, Box<RawValue>>;

/// One CloudEvent in JSON.
fn structured(mut members: Attributes) -> Result<Parsed, Problem> {
    let data = members.remove("data").filter(|data| data.get() != "null");
    let data_base64 = members.remove("data_base64").filter(|data| data.get() != "null");
    let mut attributes = BTreeMap::new();
    for (name, value) in members {
        check_name(&name)?;
        match serde_json::from_str(value.get()).map_err(|error| bad_json(&error))? {
            Value::Null => {}
            Value::String(text) => drop(attributes.insert(name, text)),
            Value::Bool(truth) => drop(attributes.insert(name, truth.to_string())),
            Value::Number(number) if number.is_i64() => drop(attributes.insert(name, number.to_string())),
            _ => {
                return Err(Problem::bad(format!(
                    "the attribute {name} is neither text, nor a whole number, nor a truth value"
                )));
            }
        }
    }
    check_attributes(&attributes)?;
    let content_type = attributes.remove("datacontenttype");
    let payload = payload(data.as_deref(), data_base64.as_deref(), content_type.as_deref())?;
    let mut kept = Headers::builder();
    for (name, text) in &attributes {
        kept.push(&format!("{PREFIX}{name}"), percent_encoded(text).as_bytes()).map_err(refused)?;
    }
    // JSON data without a content type is JSON.
    let content_type = content_type.or_else(|| data.as_ref().map(|_| "application/json".to_owned()));
    if let Some(content_type) = content_type {
        kept.push("content-type", content_type.as_bytes()).map_err(refused)?;
    }
    Ok(Parsed { key: attributes.remove("partitionkey").map(Bytes::from), headers: kept.finish(), payload })
}

fn payload(data: Option<&RawValue>, base64: Option<&RawValue>, content_type: Option<&str>) -> Result<Bytes, Problem> {
    let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
    match (data, base64) {
        (Some(_), Some(_)) => Err(Problem::bad("an event has either data or data_base64")),
        (None, None) => Ok(Bytes::new()),
        (None, Some(base64)) => {
            let decoded = text(base64).and_then(|text| STANDARD.decode(text).ok());
            decoded.map(Bytes::from).ok_or_else(|| Problem::bad("data_base64 is not base64 text"))
        }
        (Some(data), None) if content_type.is_none_or(is_json) => Ok(Bytes::copy_from_slice(data.get().as_bytes())),
        // Text of another type stands in JSON as a string; anything else can only be JSON.
        (Some(data), None) => Ok(text(data).map_or_else(|| Bytes::copy_from_slice(data.get().as_bytes()), Bytes::from)),
    }
}

/// Headers that every event keeps.
fn keep(headers: &HeaderMap, kept: &mut HeadersBuilder) -> Result<(), Problem> {
    for name in ["content-type", "traceparent", "tracestate"] {
        for value in headers.get_all(name) {
            kept.push(name, value.as_bytes()).map_err(refused)?;
        }
    }
    Ok(())
}

fn key_header(headers: &HeaderMap) -> Option<Bytes> {
    headers.get("longhaul-key").map(|key| Bytes::copy_from_slice(key.as_bytes()))
}

fn refused(error: HeaderError) -> Problem {
    Problem::bad(error.to_string())
}

fn check_name(name: &str) -> Result<(), Problem> {
    match !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        true => Ok(()),
        false => {
            Err(Problem::bad(format!("{name:?} is no attribute name: those are of a to z in lower case and 0 to 9")))
        }
    }
}

fn check_attributes(attributes: &BTreeMap<String, String>) -> Result<(), Problem> {
    for name in REQUIRED {
        if attributes.get(name).is_none_or(String::is_empty) {
            return Err(Problem::bad(format!(
                "a CloudEvent needs the attribute {name} (in binary mode the header ce-{name})"
            )));
        }
    }
    if attributes["specversion"] != "1.0" {
        return Err(Problem::bad(format!("CloudEvents {:?} is not read here, only 1.0", attributes["specversion"])));
    }
    match attributes.get("time") {
        Some(time) if !is_timestamp(time) => {
            Err(Problem::bad(format!("the attribute time is {time:?}, not an RFC 3339 timestamp")))
        }
        _ => Ok(()),
    }
}

/// The form of RFC 3339, and ranges of its numbers; not how many days a month has.
fn is_timestamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    let number = |at: usize, len: usize, max: u32| {
        text.get(at..at + len).is_some_and(|part| {
            part.bytes().all(|b| b.is_ascii_digit()) && part.parse::<u32>().is_ok_and(|number| number <= max)
        })
    };
    let marks = [(4, b"-"), (7, b"-"), (10, b"Tt"), (13, b":"), (16, b":")] as [(usize, &[u8]); 5];
    let dated = number(0, 4, 9_999) && number(5, 2, 12) && number(8, 2, 31);
    let timed = number(11, 2, 23) && number(14, 2, 59) && number(17, 2, 60);
    if !dated || !timed || marks.iter().any(|(at, marks)| !marks.contains(&bytes[*at])) {
        return false;
    }
    let mut zone = &text[19..];
    if let Some(fraction) = zone.strip_prefix('.') {
        zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        if zone.len() == fraction.len() {
            return false;
        }
    }
    let at = text.len() - zone.len();
    matches!(zone, "Z" | "z")
        || zone.len() == 6
            && zone.starts_with(['+', '-'])
            && number(at + 1, 2, 23)
            && &zone[3..4] == ":"
            && number(at + 4, 2, 59)
}

fn media_type(value: &str) -> String {
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a content type is JSON.
pub(super) fn is_json(content_type: &str) -> bool {
    let media = media_type(content_type);
    media == "application/json" || media == "text/json" || media.ends_with("+json")
}

/// As the HTTP binding wants it: space, quote, percent and all that is not printable ASCII.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => out.push_str(&format!("%{byte:02X}")),
            0x21..=0x7e => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The reverse; a percent sign that begins no byte stays, and what decodes to no UTF-8 stays whole.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let byte = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = byte.filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        let byte = byte.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
#[path = "cloudevents_tests.rs"]
mod tests;
