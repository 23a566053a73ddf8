//! Headers to AMQP properties and a field table, and back, byte by byte.
//!
//! A field table holds every name once, and lapin keeps it sorted. So a name that repeats becomes an array, and two headers of ours tell
//! the rest, only where it is needed:
//!
//! ```text
//! x-longhaul-repeats   array of the names whose array is a repeated header and not an array of the application
//! x-longhaul-order     one octet per header: which header of the natural order stands there
//! natural order        properties as in PROPERTIES, then the table by name, arrays of repeats in their own order
//! ```
//! Both count only when they fit what is there: where an application changed the headers since, the natural order holds.
//!
//! A stream keeps AMQP 1.0 messages, which know fewer types: RabbitMQ leaves out what has no form there. Where one of the headers is such,
//! all of them stand once more in `x-longhaul-packed`, in the form that an event has them in.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, FieldArray, FieldTable, ShortString};
use longhaul_broker::Poison;
use longhaul_event::{HeaderError, HeaderTag, Headers};

use super::{ID, ORDER, OURS, PACKED, REPEATS, Refusal, field, lifted};

/// Properties that are headers in an event, under these names, in natural order.
const PROPERTIES: [&str; 9] = [
    "content-type",
    "amqp.content_encoding",
    "amqp.correlation_id",
    "amqp.reply_to",
    "amqp.type",
    "amqp.app_id",
    "amqp.priority",
    "amqp.message_id",
    "amqp.cluster_id",
];

/// A broker closes the channel that publishes with this and has no consumer for replies.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to";

/// Whether a header would make the broker do something, rather than tell the reader something: it does not go out.
pub(super) fn is_control(name: &str) -> bool {
    const NAMES: [&str; 6] =
        ["CC", "BCC", "x-delay", "x-deduplication-header", "x-stream-filter-value", "x-stream-offset"];
    const PREFIXES: [&str; 4] = ["x-death", "x-first-death", "x-last-death", OURS];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || is_brokers_count(name)
}

/// What a quorum queue adds when it delivers a message again, and a stream always: it is not part of the message.
fn is_brokers_count(name: &str) -> bool {
    name == "x-delivery-count" || name == "x-acquired-count" || name == "x-stream-offset"
}

/// The properties of these headers; the others go into `table`. `own_id` is the identity that `message_id` gets if it is free.
///
/// # Errors
/// A name or a value that AMQP cannot carry.
pub(super) fn write(headers: &Headers, own_id: &str, table: &mut FieldTable) -> Result<BasicProperties, Refusal> {
    let mut properties = BasicProperties::default();
    let mut in_table: Vec<(&str, usize, AMQPValue)> = Vec::new();
    let mut as_property: Vec<(usize, usize)> = Vec::new();
    let mut seen = [false; PROPERTIES.len()];
    let carried = headers.iter().filter(|header| !is_control(header.name));
    for (at, header) in carried.enumerate() {
        let slot = PROPERTIES.iter().position(|name| *name == header.name);
        if let Some(slot) = slot.filter(|slot| !std::mem::replace(&mut seen[*slot], true))
            && header.tag == HeaderTag::BYTES
            // The identity as `message_id` is ours and not read as a header.
            && header.value != own_id.as_bytes()
            && let Some(with) = with_property(&properties, slot, header.value)
        {
            properties = with;
            as_property.push((slot, at));
            continue;
        }
        in_table.push((header.name, at, value_of(header.name, header.tag, header.value)?));
    }
    as_property.sort_unstable();
    // Stable, so that repeats of a name keep their order.
    in_table.sort_by(|a, b| a.0.cmp(b.0));
    let natural = as_property.iter().map(|(_, at)| *at).chain(in_table.iter().map(|(_, at, _)| *at));
    write_order(natural, table);
    write_table(in_table, table)?;
    Ok(properties)
}

/// All headers of a message, in the order in which they were written.
///
/// # Errors
/// When there are more, or larger ones, than an event may have.
pub(super) fn read(properties: &BasicProperties, table: &FieldTable) -> Result<Headers, HeaderError> {
    if let Some(packed) = lifted(table, PACKED)
        && let Ok(headers) = Headers::from_encoded(packed)
    {
        return Ok(headers);
    }
    let natural = natural(properties, table);
    let mut builder = Headers::builder();
    let order = lifted(table, ORDER).filter(|order| is_permutation(order, natural.len()));
    for at in 0..natural.len() {
        let at = order.as_ref().map_or(at, |order| usize::from(order[at]));
        let (name, tag, value) = &natural[at];
        builder.push_tagged(name, *tag, value)?;
    }
    Ok(builder.finish())
}

/// Packs the headers into `table` when a stream would leave out some of what [`write`] made of them.
pub(super) fn pack(headers: &Headers, properties: &BasicProperties, table: &mut FieldTable) -> Result<(), Refusal> {
    if properties.cluster_id().is_none() && table.inner().values().all(stays_in_stream) {
        return Ok(());
    }
    let mut packed = Headers::builder();
    for header in headers.iter().filter(|header| !is_control(header.name)) {
        packed.push_tagged(header.name, header.tag, header.value).map_err(|e| (Poison::Refused, e.to_string()))?;
    }
    table.insert(PACKED.into(), AMQPValue::ByteArray(ByteArray::from(&packed.finish().encoded()[..])));
    Ok(())
}

/// Types that come out of a stream as they went in.
fn stays_in_stream(value: &AMQPValue) -> bool {
    use AMQPValue::{Boolean, LongInt, LongLongInt, LongString, Void};
    matches!(value, LongString(_) | AMQPValue::ByteArray(_) | Boolean(_) | LongInt(_) | LongLongInt(_) | Void)
}

fn value_of(name: &str, tag: HeaderTag, bytes: &[u8]) -> Result<AMQPValue, Refusal> {
    field::from_header(tag, bytes).ok_or_else(|| {
        let text =
            format!("the header {name:?} has the type {:#04x}, which AMQP does not have, or a broken value", tag.0);
        (Poison::Refused, text)
    })
}

/// Tells the order of writing, unless it is the natural one.
fn write_order(natural: impl Iterator<Item = usize>, table: &mut FieldTable) {
    let natural: Vec<usize> = natural.collect();
    if natural.is_sorted() {
        return;
    }
    let mut order = vec![0; natural.len()];
    for (index, at) in natural.iter().enumerate() {
        order[*at] = u8::try_from(index).expect("an event has at most 64 headers");
    }
    table.insert(ORDER.into(), AMQPValue::ByteArray(ByteArray::from(order)));
}

fn write_table(sorted: Vec<(&str, usize, AMQPValue)>, table: &mut FieldTable) -> Result<(), Refusal> {
    let mut repeats = FieldArray::default();
    let mut rest = sorted.into_iter().peekable();
    while let Some((name, _, value)) = rest.next() {
        let mut values = vec![value];
        while let Some((_, _, value)) = rest.next_if(|next| next.0 == name) {
            values.push(value);
        }
        let short = ShortString::try_new(name).map_err(|_| {
            (Poison::Refused, format!("a header's name has at most 255 bytes at RabbitMQ, one has {}", name.len()))
        })?;
        match values.len() {
            1 => table.insert(short, values.remove(0)),
            _ => {
                repeats.push(AMQPValue::LongString(name.into()));
                table.insert(short, AMQPValue::FieldArray(values.into()))
            }
        };
    }
    if !repeats.as_slice().is_empty() {
        table.insert(REPEATS.into(), AMQPValue::FieldArray(repeats));
    }
    Ok(())
}

fn natural<'a>(properties: &'a BasicProperties, table: &'a FieldTable) -> Vec<(&'a str, HeaderTag, Vec<u8>)> {
    let own_id = lifted(table, ID);
    let mut all: Vec<(&str, HeaderTag, Vec<u8>)> = PROPERTIES
        .iter()
        .enumerate()
        .filter_map(|(slot, name)| Some((*name, HeaderTag::BYTES, property(properties, slot)?.into_bytes())))
        .filter(|(name, _, value)| *name != "amqp.message_id" || own_id.as_deref() != Some(&value[..]))
        .collect();
    let repeats = table.inner().get(REPEATS).and_then(AMQPValue::as_array).map_or(&[][..], FieldArray::as_slice);
    let is_repeat = |name: &str| {
        repeats.iter().filter_map(AMQPValue::as_long_string).any(|text| text.as_bytes() == name.as_bytes())
    };
    for (name, value) in table.inner() {
        let name = name.as_str();
        if name.starts_with(OURS) || is_brokers_count(name) {
            continue;
        }
        let mut push = |value| {
            let (tag, bytes) = field::to_header(value);
            all.push((name, tag, bytes));
        };
        match value.as_array() {
            Some(values) if is_repeat(name) => values.as_slice().iter().for_each(push),
            _ => push(value),
        }
    }
    all
}

fn is_permutation(order: &[u8], len: usize) -> bool {
    let mut seen = vec![false; len];
    order.len() == len
        && order.iter().all(|at| seen.get_mut(usize::from(*at)).is_some_and(|slot| !std::mem::replace(slot, true)))
}

/// The properties with that one added; `None` when the value cannot be that property and come back as the same bytes.
fn with_property(properties: &BasicProperties, slot: usize, value: &[u8]) -> Option<BasicProperties> {
    let text = std::str::from_utf8(value).ok()?;
    let short = ShortString::try_new(text).ok()?;
    let properties = properties.clone();
    Some(match slot {
        0 => properties.with_content_type(short),
        1 => properties.with_content_encoding(short),
        2 => properties.with_correlation_id(short),
        3 if text == DIRECT_REPLY => return None,
        3 => properties.with_reply_to(short),
        4 => properties.with_type(short),
        5 => properties.with_app_id(short),
        6 => {
            let priority: u8 = text.parse().ok()?;
            return (priority.to_string() == text).then(|| properties.with_priority(priority));
        }
        7 => properties.with_message_id(short),
        _ => properties.with_cluster_id(short),
    })
}

fn property(properties: &BasicProperties, slot: usize) -> Option<String> {
    let text = match slot {
        0 => properties.content_type(),
        1 => properties.content_encoding(),
        2 => properties.correlation_id(),
        3 => properties.reply_to(),
        4 => properties.kind(),
        5 => properties.app_id(),
        6 => return properties.priority().map(|priority| priority.to_string()),
        7 => properties.message_id(),
        _ => properties.cluster_id(),
    };
    text.as_ref().map(|text| text.as_str().to_owned())
}
