//! Events as NATS messages and back. Pure.
//!
//! | part of an event | in a message |
//! | --- | --- |
//! | topic | the subject |
//! | key | `Longhaul-Key` (text) or `Longhaul-Key-B64`; none is no key, which is not the empty key |
//! | payload | the body; `Longhaul-Tombstone: 1` beside an empty body is no payload |
//! | time | `Longhaul-Time`, milliseconds, since JetStream stamps its own |
//! | identity | `Longhaul-Id`; with `Longhaul-Identity: content` when it comes from the content alone |
//! | provenance | `Longhaul-Prov`, base64url |
//! | headers | under their names, see [`headers`] |
//!
//! `Nats-Msg-Id` of an application is not carried, as no `Nats-*` is: it tells messages apart inside one stream and one window, and a
//! position does that without either, so the identity of an event read here comes from its position.

mod headers;
mod typed;

use async_nats::{HeaderMap, Message, Subject};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use bytes::Bytes;
use longhaul_broker::Poison;
use longhaul_event::{Event, EventId, HeaderError, Headers, Identity, hash64};
use longhaul_topic::{Topic, TopicError};

use crate::subject;

const KEY: &str = "Longhaul-Key";
const KEY_B64: &str = "Longhaul-Key-B64";
const PROVENANCE: &str = "Longhaul-Prov";
const ID: &str = "Longhaul-Id";
const IDENTITY: &str = "Longhaul-Identity";
const TIME: &str = "Longhaul-Time";
const TOMBSTONE: &str = "Longhaul-Tombstone";
const MSG_ID: &str = "Nats-Msg-Id";

/// A message that is ready to be published.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) subject: Subject,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    /// Bytes of the header block on the wire.
    pub(crate) header_bytes: usize,
}

impl Outgoing {
    /// What `max_payload` and `max_msg_size` are compared with.
    pub(crate) fn bytes(&self) -> usize {
        self.header_bytes + self.payload.len()
    }
}

/// How a server may recognise an event that it has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dedup {
    /// No `Nats-Msg-Id`.
    Off,
    /// `Nats-Msg-Id` from identity and subject, told apart by the salt when it is not 0.
    Salted(u64),
}

/// Maps an event for publishing.
///
/// # Errors
/// [`Poison::BadTopic`] with a sentence when the topic is no subject.
pub(crate) fn to_message(event: &Event, dedup: Dedup) -> Result<Outgoing, (Poison, String)> {
    if let Some(reason) = subject::refusal(&event.topic) {
        return Err((Poison::BadTopic, reason));
    }
    let mut map = HeaderMap::new();
    headers::write(&event.headers, &mut map);
    write_own(event, &mut map);
    if let (Dedup::Salted(salt), Identity::Unique) = (dedup, event.identity) {
        headers::append(&mut map, MSG_ID, &msg_id(event, salt));
    }
    let subject = Subject::from_utf8(event.topic.bytes().clone()).expect("a topic is UTF-8");
    let payload = event.payload.clone().unwrap_or_default();
    let header_bytes = wire_len(&map);
    Ok(Outgoing { subject, headers: map, payload, header_bytes })
}

fn write_own(event: &Event, map: &mut HeaderMap) {
    if let Some(key) = &event.key {
        match std::str::from_utf8(key) {
            Ok(text) if headers::is_plain_text(text) => headers::append(map, KEY, text),
            _ => headers::append(map, KEY_B64, &BASE64.encode(key)),
        }
    }
    if event.payload.is_none() {
        headers::append(map, TOMBSTONE, "1");
    }
    if event.time_ms != 0 {
        headers::append(map, TIME, &event.time_ms.to_string());
    }
    if !event.provenance.is_empty() {
        headers::append(map, PROVENANCE, &BASE64URL.encode(&event.provenance));
    }
    headers::append(map, ID, &event.id.to_string());
    if event.identity == Identity::Content {
        headers::append(map, IDENTITY, "content");
    }
}

/// A stream drops a second message with the same id whatever its subject, so the subject is part of it: one event that two routes
/// write to two subjects of one stream must be there twice.
pub(crate) fn msg_id(event: &Event, salt: u64) -> String {
    let subject = hash64(event.topic.bytes());
    match salt {
        0 => format!("{}-{subject:016x}", event.id),
        _ => format!("{}-{subject:016x}-{salt:x}", event.id),
    }
}

/// Bytes of a header block as the client writes it.
fn wire_len(map: &HeaderMap) -> usize {
    let one = |name: &str, value: &str| name.len() + ": ".len() + value.len() + "\r\n".len();
    let lines =
        map.iter().flat_map(|(name, values)| values.iter().map(move |value| one(name.as_ref(), value.as_str())));
    "NATS/1.0\r\n".len() + lines.sum::<usize>() + "\r\n".len()
}

/// What a message does not say about itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Hash of the cluster that it was read from.
    pub(crate) cluster: u64,
    /// Incarnation of the stream.
    pub(crate) incarnation: u64,
    /// Hash of the stream's name.
    pub(crate) shard: u64,
    /// Its sequence.
    pub(crate) offset: u64,
    /// When the server stored it.
    pub(crate) time_ms: i64,
}

/// Why a message is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// Its subject is no topic.
    #[error("its subject is no topic: {0}")]
    Topic(#[from] TopicError),
    /// Its headers are more than an event may have.
    #[error("{0}")]
    Headers(#[from] HeaderError),
}

/// Maps a message that was read. `topic` is the topic of the message before, which is often the same one.
///
/// # Errors
/// [`Unreadable`] says what an event cannot hold.
pub(crate) fn to_event(message: Message, place: Place, topic: &Topic) -> Result<Event, Unreadable> {
    let subject = message.subject.as_str();
    let topic = if topic.as_str() == subject { topic.clone() } else { Topic::parse(subject)? };
    let mut event = Event {
        offset: place.offset,
        topic,
        key: None,
        headers: Headers::default(),
        payload: Some(message.payload),
        time_ms: place.time_ms,
        id: EventId::of_position(place.cluster, place.incarnation, place.shard, place.offset),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    };
    if let Some(map) = &message.headers {
        event.headers = headers::read(map)?;
        read_own(map, &mut event);
    }
    Ok(event)
}

fn read_own(map: &HeaderMap, event: &mut Event) {
    let text = |name: &'static str| map.get(name).map(|value| value.as_str());
    event.key = match (text(KEY_B64).map(|text| BASE64.decode(text.as_bytes())), text(KEY)) {
        (Some(Ok(bytes)), _) => Some(bytes.into()),
        (_, Some(text)) => Some(Bytes::copy_from_slice(text.as_bytes())),
        _ => None,
    };
    if let Some(provenance) = text(PROVENANCE).and_then(|text| BASE64URL.decode(text.as_bytes()).ok()) {
        event.provenance = provenance.into();
    }
    if let Some(id) = text(ID).and_then(|text| EventId::parse(text.as_bytes())) {
        event.id = id;
        if text(IDENTITY).is_some_and(|text| text == "content") {
            event.identity = Identity::Content;
        }
    }
    if let Some(time) = text(TIME).and_then(|text| text.parse().ok()) {
        event.time_ms = time;
    }
    if text(TOMBSTONE).is_some() && event.payload.as_ref().is_some_and(Bytes::is_empty) {
        event.payload = None;
    }
}

#[cfg(test)]
mod tests;
