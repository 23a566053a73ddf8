//! One event as it stands in the store. Pure.
//!
//! ```text
//! record = version u8 = 1 | flags u8 | stored_ms i64 | time_ms i64 | id u128
//!        | topic_len u16 | key_len u32 | headers_len u32 | provenance_len u32
//!        | topic | key | headers | provenance | payload               (all little-endian; the payload takes the rest)
//! flags  = 1 has a key | 2 has a payload | 4 identity is from content
//! ```
//! The offset is the key in the store. `stored_ms` and, for an event that brought no identity, `id` are set when the offset is known.

use bytes::{BufMut, Bytes};
use longhaul_event::{Event, EventId, Headers, Identity};
use longhaul_topic::Topic;

const VERSION: u8 = 1;
const HAS_KEY: u8 = 1;
const HAS_PAYLOAD: u8 = 2;
const FROM_CONTENT: u8 = 4;
const STORED_AT: usize = 2;
const ID_AT: usize = 18;
const TOPIC_LEN_AT: usize = 34;
const FIXED_BYTES: usize = 48;

/// Events encoded back to back, in the order in which they get their offsets.
#[derive(Debug, Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Whether the events take their identity from their position; else they bring it.
    positional: bool,
}

/// A record that is not one: the store was damaged or written by something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record is malformed")]
pub(crate) struct Malformed;

impl Records {
    /// Encodes events that bring their identity.
    pub(crate) fn encode(events: &[Event]) -> Self {
        Self::encode_as(events, false)
    }

    /// Encodes events that get the identity of their position.
    pub(crate) fn encode_positional(events: &[Event]) -> Self {
        Self::encode_as(events, true)
    }

    fn encode_as(events: &[Event], positional: bool) -> Self {
        let mut bytes = Vec::with_capacity(events.iter().map(|event| FIXED_BYTES + event.size()).sum());
        let mut ends = Vec::with_capacity(events.len());
        for event in events {
            encode(event, &mut bytes);
            ends.push(bytes.len());
        }
        Self { bytes, ends, positional }
    }

    /// How many events.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Their bytes together.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether they take their identity from their position.
    pub(crate) fn positional(&self) -> bool {
        self.positional
    }

    /// Hands out every record for its last touches, in order.
    pub(crate) fn each<E>(&mut self, mut visit: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<(), E> {
        let mut begin = 0;
        for &end in &self.ends {
            visit(&mut self.bytes[begin..end])?;
            begin = end;
        }
        Ok(())
    }
}

fn encode(event: &Event, out: &mut Vec<u8>) {
    let length =
        |len: usize| u32::try_from(len).expect("an event is limited to far less than 4 GiB before it is encoded");
    let flags = if event.key.is_some() { HAS_KEY } else { 0 }
        | if event.payload.is_some() { HAS_PAYLOAD } else { 0 }
        | if event.identity == Identity::Content { FROM_CONTENT } else { 0 };
    let key = event.key.as_deref().unwrap_or_default();
    out.put_u8(VERSION);
    out.put_u8(flags);
    out.put_i64_le(0);
    out.put_i64_le(event.time_ms);
    out.put_u128_le(event.id.0);
    out.put_u16_le(u16::try_from(event.topic.bytes().len()).expect("a topic has at most 1,024 bytes"));
    out.put_u32_le(length(key.len()));
    out.put_u32_le(length(event.headers.encoded_len()));
    out.put_u32_le(length(event.provenance.len()));
    out.put_slice(event.topic.bytes());
    out.put_slice(key);
    out.put_slice(event.headers.encoded());
    out.put_slice(&event.provenance);
    out.put_slice(event.payload.as_deref().unwrap_or_default());
}

/// Sets when the record was stored.
pub(crate) fn set_stored_ms(record: &mut [u8], ms: i64) {
    record[STORED_AT..STORED_AT + 8].copy_from_slice(&ms.to_le_bytes());
}

/// Sets the identity.
pub(crate) fn set_id(record: &mut [u8], id: EventId) {
    record[ID_AT..ID_AT + 16].copy_from_slice(&id.0.to_le_bytes());
}

/// When the record was stored, in milliseconds since the Unix epoch.
pub(crate) fn stored_ms(record: &[u8]) -> Result<i64, Malformed> {
    Ok(i64::from_le_bytes(fixed(record, STORED_AT)?))
}

/// The bytes of the topic, without looking at the rest.
pub(crate) fn topic(record: &[u8]) -> Result<&[u8], Malformed> {
    let len = usize::from(u16::from_le_bytes(fixed(record, TOPIC_LEN_AT)?));
    record.get(FIXED_BYTES..FIXED_BYTES + len).ok_or(Malformed)
}

/// The event, as slices of the record.
pub(crate) fn decode(offset: u64, record: &Bytes, topic: Option<Topic>) -> Result<Event, Malformed> {
    if record.first() != Some(&VERSION) {
        return Err(Malformed);
    }
    let [flags] = fixed(record, 1)?;
    let lens = [
        usize::from(u16::from_le_bytes(fixed(record, TOPIC_LEN_AT)?)),
        u32::from_le_bytes(fixed(record, 36)?) as usize,
        u32::from_le_bytes(fixed(record, 40)?) as usize,
        u32::from_le_bytes(fixed(record, 44)?) as usize,
    ];
    let mut at = FIXED_BYTES;
    let mut parts = [const { Bytes::new() }; 4];
    for (part, len) in parts.iter_mut().zip(lens) {
        let end = at.checked_add(len).filter(|end| *end <= record.len()).ok_or(Malformed)?;
        *part = record.slice(at..end);
        at = end;
    }
    let [name, key, headers, provenance] = parts;
    Ok(Event {
        offset,
        topic: topic.map_or_else(|| Topic::from_bytes(name), Ok).map_err(|_| Malformed)?,
        key: (flags & HAS_KEY != 0).then_some(key),
        headers: Headers::from_encoded(headers).map_err(|_| Malformed)?,
        payload: (flags & HAS_PAYLOAD != 0).then(|| record.slice(at..)),
        time_ms: i64::from_le_bytes(fixed(record, 10)?),
        id: EventId(u128::from_le_bytes(fixed(record, ID_AT)?)),
        identity: if flags & FROM_CONTENT == 0 { Identity::Unique } else { Identity::Content },
        provenance,
    })
}

fn fixed<const N: usize>(record: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    record.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn event() -> Event {
        let mut headers = Headers::builder();
        headers.push("a", b"1").unwrap();
        headers.push("a", b"").unwrap();
        Event {
            offset: 9,
            topic: Topic::parse("orders.eu").unwrap(),
            key: Some(Bytes::from_static(b"k")),
            headers: headers.finish(),
            payload: Some(Bytes::from_static(b"body")),
            time_ms: -5,
            id: EventId(77),
            identity: Identity::Content,
            provenance: Bytes::from_static(b"prov"),
        }
    }

    fn encoded(event: &Event) -> Bytes {
        let mut out = Vec::new();
        encode(event, &mut out);
        Bytes::from(out)
    }

    #[test]
    fn an_event_is_restored_and_nothing_is_not_empty() {
        let (none, empty) = (None, Some(Bytes::new()));
        for key in [none.clone(), empty.clone(), event().key] {
            for payload in [none.clone(), empty.clone(), event().payload] {
                let event = Event { key: key.clone(), payload, ..event() };
                assert_eq!(decode(9, &encoded(&event), None), Ok(event));
            }
        }
    }

    #[test]
    fn what_is_set_late_is_found() {
        let mut records = Records::encode_positional(&[event(), event()]);
        let mut seen = Vec::new();
        let visited = records.each(|record| {
            set_stored_ms(record, 123);
            set_id(record, EventId(5));
            seen.push((stored_ms(record).unwrap(), topic(record).unwrap().to_vec()));
            assert_eq!(decode(1, &Bytes::copy_from_slice(record), None).unwrap().id, EventId(5));
            Ok::<_, Infallible>(())
        });
        assert_eq!(visited, Ok(()));
        assert_eq!(seen, vec![(123, b"orders.eu".to_vec()); 2]);
    }

    #[test]
    fn every_cut_of_a_record_is_refused_or_shortens_only_the_payload() {
        let whole = encoded(&event());
        let body = whole.len() - 4;
        for end in 0..whole.len() {
            let cut = decode(9, &whole.slice(..end), None);
            assert_eq!(cut.is_ok(), end >= body, "cut at {end}");
        }
    }
}
