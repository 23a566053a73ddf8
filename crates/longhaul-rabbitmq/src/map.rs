//! Events to AMQP messages and back; nothing here speaks to a broker.
//!
//! ```text
//! event        message                                  event        message
//! topic        routing key; `x-longhaul-topic` where    id           `x-longhaul-id`, and `message_id` if that is free
//!              the sink is a queue                      identity     `x-longhaul-identity: content` where it is so
//! key          `x-longhaul-key`                         provenance   `x-longhaul-prov`
//! time         `timestamp` in seconds; `x-longhaul-time` in milliseconds where they matter
//! no payload   empty body and `x-longhaul-tombstone: true`
//! headers      the property `content_type` and the table; see `headers.rs`
//! ```
//! Messages are persistent. `expiration`, `user_id` and control headers never go out, see [`headers::is_control`].

mod field;
mod headers;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, FieldTable, ShortString};
use longhaul_broker::Poison;
use longhaul_event::{Event, EventId, Identity};
use longhaul_topic::Topic;

/// Everything that starts with this in a field table is ours.
const OURS: &str = "x-longhaul-";
const KEY: &str = "x-longhaul-key";
const TOPIC: &str = "x-longhaul-topic";
const ID: &str = "x-longhaul-id";
const IDENTITY: &str = "x-longhaul-identity";
const PROVENANCE: &str = "x-longhaul-prov";
const TIME: &str = "x-longhaul-time";
const TOMBSTONE: &str = "x-longhaul-tombstone";
const REPEATS: &str = "x-longhaul-repeats";
const ORDER: &str = "x-longhaul-order";
const PACKED: &str = "x-longhaul-packed";

const PERSISTENT: u8 = 2;
/// Longest routing key: an AMQP short string.
pub(crate) const ROUTING_KEY_BYTES_MAX: usize = 255;

/// Why an event has no form as a message: the kind of refusal and a sentence.
pub(crate) type Refusal = (Poison, String);

/// A message, ready to be published.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

/// A stream, as far as identities are made of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamPlace {
    /// Hash of the broker.
    pub(crate) cluster: u64,
    pub(crate) incarnation: u64,
    /// Hash of the stream's name.
    pub(crate) shard: u64,
}

/// A message as it was delivered.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) tag: u64,
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

/// The message of an event. With a queue, that is the routing key and the topic goes into a header.
///
/// # Errors
/// [`Refusal`] when the event has something that AMQP cannot carry.
pub(crate) fn to_message(event: &Event, queue: Option<&ShortString>) -> Result<Outgoing, Refusal> {
    make(event, queue, false)
}

/// The message of an event for a stream.
///
/// # Errors
/// [`Refusal`] when the event has something that AMQP cannot carry.
pub(crate) fn to_stream_message(event: &Event, stream: &ShortString) -> Result<Outgoing, Refusal> {
    make(event, Some(stream), true)
}

fn make(event: &Event, queue: Option<&ShortString>, is_stream: bool) -> Result<Outgoing, Refusal> {
    let id = event.id.to_string();
    let mut table = FieldTable::default();
    let mut properties = headers::write(&event.headers, &id, &mut table)?.with_delivery_mode(PERSISTENT);
    if is_stream {
        headers::pack(&event.headers, &properties, &mut table)?;
    }
    let routing_key = match queue {
        None => routing_key(&event.topic)?,
        Some(queue) => {
            if event.topic.as_str() != queue.as_str() {
                table.insert(TOPIC.into(), bytes_value(event.topic.bytes()));
            }
            queue.clone()
        }
    };
    if let Some(key) = &event.key {
        table.insert(KEY.into(), bytes_value(key));
    }
    if !event.provenance.is_empty() {
        table.insert(PROVENANCE.into(), AMQPValue::ByteArray(ByteArray::from(&event.provenance[..])));
    }
    if event.payload.is_none() {
        table.insert(TOMBSTONE.into(), AMQPValue::Boolean(true));
    }
    properties = write_identity(event.identity, id, properties, &mut table);
    properties = write_time(event.time_ms, properties, &mut table);
    let body = event.payload.clone().unwrap_or_default();
    Ok(Outgoing { routing_key, properties: properties.with_headers(table), body })
}

/// The event of a message; its offset is the delivery tag.
///
/// # Errors
/// A sentence, when the message exceeds what an event may have.
pub(crate) fn to_event(message: Incoming, cluster: u64) -> Result<Event, String> {
    read(message, |properties, table, event| read_identity(properties, table, event, cluster))
}

/// The event of a message in a stream; its offset there is the tag. Where nobody gave it an identity, its place is one.
///
/// # Errors
/// A sentence, when the message exceeds what an event may have.
pub(crate) fn to_stream_event(message: Incoming, stream: StreamPlace) -> Result<Event, String> {
    let of_place = EventId::of_position(stream.cluster, stream.incarnation, stream.shard, message.tag);
    read(message, |properties, table, _| given_identity(properties, table).unwrap_or((of_place, Identity::Unique)))
}

fn read(
    message: Incoming,
    identity: impl FnOnce(&BasicProperties, &FieldTable, &Event) -> (EventId, Identity),
) -> Result<Event, String> {
    let empty = FieldTable::default();
    let table = message.properties.headers().as_ref().unwrap_or(&empty);
    let headers = headers::read(&message.properties, table).map_err(|e| e.to_string())?;
    let topic = read_topic(&message, table)?;
    let key = lifted(table, KEY);
    let tombstone = message.body.is_empty() && table.inner().get(TOMBSTONE) == Some(&AMQPValue::Boolean(true));
    let mut event = Event {
        offset: message.tag,
        topic,
        key,
        headers,
        payload: (!tombstone).then_some(message.body),
        time_ms: read_time(&message.properties, table),
        id: EventId::default(),
        identity: Identity::Unique,
        provenance: lifted(table, PROVENANCE).unwrap_or_default(),
    };
    (event.id, event.identity) = identity(&message.properties, table, &event);
    Ok(event)
}

/// The identity in a message of ours, as the broker returned it.
pub(crate) fn id_of(properties: &BasicProperties) -> Option<EventId> {
    EventId::parse(&lifted(properties.headers().as_ref()?, ID)?)
}

fn routing_key(topic: &Topic) -> Result<ShortString, Refusal> {
    ShortString::try_new(topic.as_str()).map_err(|_| {
        let len = topic.bytes().len();
        (Poison::BadTopic, format!("a routing key has at most {ROUTING_KEY_BYTES_MAX} bytes, this topic has {len}"))
    })
}

/// The topic that was kept beside the name of a queue. One that went through an exchange since then has a routing key of its own.
fn read_topic(message: &Incoming, table: &FieldTable) -> Result<Topic, String> {
    let kept = if message.exchange.as_str().is_empty() { lifted(table, TOPIC) } else { None };
    match kept.map(Topic::from_bytes) {
        Some(Ok(topic)) => Ok(topic),
        _ => Topic::parse(message.routing_key.as_str()).map_err(|e| e.to_string()),
    }
}

/// `message_id` is for others to know a message again, so an identity that two different events may share does not go there.
fn write_identity(
    identity: Identity,
    id: String,
    properties: BasicProperties,
    table: &mut FieldTable,
) -> BasicProperties {
    table.insert(ID.into(), bytes_value(id.as_bytes()));
    match identity {
        Identity::Content => {
            table.insert(IDENTITY.into(), bytes_value(b"content"));
            properties
        }
        Identity::Unique if properties.message_id().is_none() => properties.with_message_id(id.into()),
        Identity::Unique => properties,
    }
}

/// The identity that a Longhaul wrote.
fn given_identity(properties: &BasicProperties, table: &FieldTable) -> Option<(EventId, Identity)> {
    let id = id_of(properties)?;
    let shared = lifted(table, IDENTITY).is_some_and(|kind| &kind[..] == b"content");
    Some((id, if shared { Identity::Content } else { Identity::Unique }))
}

fn read_identity(properties: &BasicProperties, table: &FieldTable, event: &Event, cluster: u64) -> (EventId, Identity) {
    if let Some(given) = given_identity(properties, table) {
        return given;
    }
    match properties.message_id() {
        Some(id) if !id.as_str().is_empty() => {
            (EventId::of_parts(cluster, &[b"message_id", id.as_str().as_bytes()]), Identity::Unique)
        }
        _ => (of_content(event, cluster), Identity::Content),
    }
}

fn of_content(event: &Event, cluster: u64) -> EventId {
    let topic = event.topic.as_str().as_bytes();
    let time = event.time_ms.to_le_bytes();
    let payload = event.payload.as_deref().unwrap_or_default();
    let key = event.key.as_deref().unwrap_or_default();
    EventId::of_parts(cluster, &[b"content", topic, &time, key, event.headers.encoded(), payload])
}

/// AMQP counts seconds; milliseconds get a header only when they would be lost.
fn write_time(time_ms: i64, properties: BasicProperties, table: &mut FieldTable) -> BasicProperties {
    if time_ms == 0 {
        return properties;
    }
    match u64::try_from(time_ms) {
        Ok(ms) => {
            if !ms.is_multiple_of(1_000) {
                table.insert(TIME.into(), AMQPValue::LongLongInt(time_ms));
            }
            properties.with_timestamp(ms / 1_000)
        }
        Err(_) => {
            table.insert(TIME.into(), AMQPValue::LongLongInt(time_ms));
            properties
        }
    }
}

/// The header counts only where it agrees with the property: a broker that stamps messages itself overwrites that alone.
fn read_time(properties: &BasicProperties, table: &FieldTable) -> i64 {
    let exact = table.inner().get(TIME).and_then(AMQPValue::as_long_long_int);
    match (properties.timestamp(), exact) {
        (Some(seconds), Some(ms)) if u64::try_from(ms.div_euclid(1_000)).ok() == Some(*seconds) => ms,
        (Some(seconds), _) => i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX),
        (None, Some(ms)) if ms < 0 => ms,
        (None, _) => 0,
    }
}

fn bytes_value(bytes: &[u8]) -> AMQPValue {
    AMQPValue::LongString(bytes.into())
}

/// The bytes of a header of ours, whichever of the two types a client gave them.
fn lifted(table: &FieldTable, name: &str) -> Option<Bytes> {
    match table.inner().get(name)? {
        AMQPValue::LongString(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
        AMQPValue::ByteArray(bytes) => Some(Bytes::copy_from_slice(bytes.as_slice())),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
