//! An event's headers as NATS headers and back. Pure.
//!
//! async-nats keeps headers in a hash map: repeats of one name keep their order, the order across names is lost, and values are text.
//! So an application's headers are written plainly under their own names, for every NATS client to read, and where that alone would not
//! give back exactly what was there, one more header says how:
//!
//! ```text
//! Longhaul-Order: entry*   entry = name [":" flag]      separated by one space, in the original order, one entry per header
//!   no flag  the next value of that name, as it is      "b"    it is base64 of the bytes
//!   "n"      it is null (written empty)                 "tXX"  the text of an AMQP value of type octet XX (hex)
//!   "xXX"    base64 of an AMQP value of type octet XX   ":r"   (no name) the next value of Longhaul-Raw: base64 of
//!                                                              tag u8 | name_len u16 BE | name | value
//! ```
//! Headers whose names have an order of their own (sorted) and whose values are all plain need no such header. Reading is forgiving:
//! an application that copied the headers and added or removed some gets what is there, the new ones behind, sorted.
//!
//! Every `Nats-*` header is a command to the server; none is ever carried, in neither direction. `Longhaul-*` is ours.

use std::borrow::Cow;
use std::collections::HashMap;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use longhaul_event::{Header, HeaderError, HeaderTag, Headers, HeadersBuilder};

use super::typed;

const ORDER: &str = "Longhaul-Order";
const RAW: &str = "Longhaul-Raw";

/// Whether a name has that prefix in any case; NATS servers compare some names without regard to case.
fn has_prefix(name: &str, prefix: &str) -> bool {
    name.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

fn is_control(name: &str) -> bool {
    has_prefix(name, "Nats-")
}

fn is_ours(name: &str) -> bool {
    has_prefix(name, "Longhaul-")
}

/// Whether NATS carries that name as it is.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !is_ours(name) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

/// Whether NATS and its clients, which trim, give that text back as it is.
pub(super) fn is_plain_text(text: &str) -> bool {
    !text.chars().any(char::is_control) && text.trim().len() == text.len()
}

/// Writes the application's headers.
pub(super) fn write(headers: &Headers, into: &mut HeaderMap) {
    let (mut order, mut needed, mut before) = (String::new(), false, "");
    for header in headers.iter().filter(|header| !is_control(header.name)) {
        if !order.is_empty() {
            order.push(' ');
        }
        let plain = match write_one(&header, into) {
            Written::Raw => {
                order.push_str(":r");
                false
            }
            Written::Named(flag) => {
                order.push_str(header.name);
                order.push_str(&flag);
                let sorted = before <= header.name;
                before = header.name;
                flag.is_empty() && sorted
            }
        };
        needed |= !plain;
    }
    if needed {
        append(into, ORDER, &order);
    }
}

enum Written {
    /// Under its own name, with that flag for the order.
    Named(String),
    /// As one value of `Longhaul-Raw`.
    Raw,
}

fn write_one(header: &Header<'_>, into: &mut HeaderMap) -> Written {
    if !is_plain_name(header.name) {
        append(into, RAW, &BASE64.encode(raw(header)));
        return Written::Raw;
    }
    let (value, flag): (Cow<'_, str>, String) = match header.tag {
        HeaderTag::NULL if header.value.is_empty() => (Cow::Borrowed(""), ":n".to_owned()),
        HeaderTag::BYTES => match std::str::from_utf8(header.value) {
            Ok(text) if is_plain_text(text) => (Cow::Borrowed(text), String::new()),
            _ => (BASE64.encode(header.value).into(), ":b".to_owned()),
        },
        tag => match typed::text(tag, header.value).filter(|text| is_plain_text(text)) {
            Some(text) => (text.into(), format!(":t{:02x}", tag.0)),
            None => (BASE64.encode(header.value).into(), format!(":x{:02x}", tag.0)),
        },
    };
    append(into, header.name, &value);
    Written::Named(flag)
}

/// Appends without the client's panics: names are checked by the caller, values hold no line break.
pub(super) fn append(into: &mut HeaderMap, name: &str, value: &str) {
    let name: HeaderName = name.parse().expect("the name was checked to be graphic ASCII without a colon");
    let value: HeaderValue = value.parse().expect("the value was checked or encoded to hold no line break");
    into.append(name, value);
}

fn raw(header: &Header<'_>) -> Vec<u8> {
    let name_len = u16::try_from(header.name.len()).expect("a header's name is below the limit of all headers, 20 KiB");
    [&[header.tag.0][..], &name_len.to_be_bytes(), header.name.as_bytes(), header.value].concat()
}

fn push_raw(text: &str, into: &mut HeadersBuilder) -> Result<(), HeaderError> {
    let Ok(bytes) = BASE64.decode(text) else { return Ok(()) };
    let Some((&[tag, high, low], rest)) = bytes.split_first_chunk::<3>() else { return Ok(()) };
    let Some((name, value)) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low]))) else {
        return Ok(());
    };
    match std::str::from_utf8(name) {
        Ok(name) if !is_control(name) => into.push_tagged(name, HeaderTag(tag), value),
        _ => Ok(()),
    }
}

/// Reads the application's headers.
///
/// # Errors
/// [`HeaderError`] when there are more than an event may have.
pub(super) fn read(map: &HeaderMap) -> Result<Headers, HeaderError> {
    let mut plain: Vec<(&str, &[HeaderValue])> = Vec::new();
    for (name, values) in map.iter() {
        let name: &str = name.as_ref();
        if !is_control(name) && !is_ours(name) {
            plain.push((name, values));
        }
    }
    plain.sort_unstable_by_key(|(name, _)| *name);
    let mut builder = Headers::builder();
    if let Some(order) = map.get(ORDER) {
        read_ordered(order.as_str(), &mut plain, map, &mut builder)?;
    }
    for (name, values) in plain {
        for value in values {
            builder.push(name, value.as_str().as_bytes())?;
        }
    }
    Ok(builder.finish())
}

/// Takes from `plain` what the order names.
fn read_ordered(
    order: &str,
    plain: &mut [(&str, &[HeaderValue])],
    map: &HeaderMap,
    builder: &mut HeadersBuilder,
) -> Result<(), HeaderError> {
    let index: HashMap<&str, usize> = plain.iter().enumerate().map(|(at, (name, _))| (*name, at)).collect();
    let mut raws = map.get_all(RAW);
    for entry in order.split(' ').filter(|entry| !entry.is_empty()) {
        let (name, flag) = entry.split_once(':').unwrap_or((entry, ""));
        if name.is_empty() {
            if let Some(raw) = raws.next() {
                push_raw(raw.as_str(), builder)?;
            }
            continue;
        }
        let Some(values) = index.get(name).map(|at| &mut plain[*at].1) else { continue };
        let Some((value, rest)) = values.split_first() else { continue };
        *values = rest;
        let (tag, bytes) = decode(flag, value.as_str());
        builder.push_tagged(name, tag, &bytes)?;
    }
    Ok(())
}

/// A value by its flag; one that does not fit its flag is what stands there.
fn decode(flag: &str, text: &str) -> (HeaderTag, Vec<u8>) {
    let octet = || u8::from_str_radix(flag.get(1..)?, 16).ok().map(HeaderTag);
    let decoded = match flag.as_bytes().first() {
        Some(b'n') if text.is_empty() => Some((HeaderTag::NULL, Vec::new())),
        Some(b'b') => BASE64.decode(text).ok().map(|bytes| (HeaderTag::BYTES, bytes)),
        Some(b't') => octet().and_then(|tag| Some((tag, typed::parse(tag, text)?))),
        Some(b'x') => octet().and_then(|tag| Some((tag, BASE64.decode(text).ok()?))),
        _ => None,
    };
    decoded.unwrap_or_else(|| (HeaderTag::BYTES, text.as_bytes().to_vec()))
}
