//! Records to events and back (pure).
//!
//! Reading copies a batch of records once, into one buffer of which every event's bytes are slices. `x-longhaul-prov` and
//! `x-longhaul-id` are Longhaul's names: they never stand among an event's headers; an id that is not well-formed is dropped.
//! Refuses records that no event can hold: see [`Chunk::push`]. Writing refuses what Kafka cannot name or say: see [`check_topic`] and
//! [`header_value`].

use std::borrow::Cow;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use longhaul_broker::ReadBatch;
use longhaul_event::{
    Event, EventId, HEADER_BYTES_MAX, HEADER_COUNT_MAX, Header, HeaderError, HeaderTag, Headers, Identity,
};
use longhaul_topic::Topic;

use crate::amqp;
use crate::size::RecordSize;

/// Header with the encoded provenance.
pub(crate) const PROVENANCE: &str = "x-longhaul-prov";
/// Header with the identity, 32 hex digits.
pub(crate) const ID: &str = "x-longhaul-id";
/// Header that says when an identity comes from the content alone: then nobody may drop an event because of it.
pub(crate) const IDENTITY: &str = "x-longhaul-identity";
/// Its value.
pub(crate) const OF_CONTENT: &[u8] = b"content";
const ID_BYTES: usize = 32;
/// Kafka's own limit for the name of a topic.
const TOPIC_BYTES_MAX: usize = 249;

/// What all events of a partition share.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) topic: Topic,
    /// Of the broker.
    pub(crate) cluster: u64,
    /// Hash of the shard's name.
    pub(crate) shard: u64,
    /// Which life of the partition.
    pub(crate) incarnation: u64,
}

/// A record as Kafka gave it, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) offset: u64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) payload: Option<&'a [u8]>,
    pub(crate) time_ms: i64,
}

/// Records of one partition, being copied.
#[derive(Default)]
pub(crate) struct Chunk {
    bytes: BytesMut,
    spans: Vec<Span>,
}

/// Where the parts of one record lie in the buffer.
struct Span {
    offset: u64,
    time_ms: i64,
    headers: Range<usize>,
    provenance: Range<usize>,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
    id: Option<EventId>,
    identity: Identity,
}

impl Chunk {
    /// An empty one with room for that many bytes.
    pub(crate) fn with_room(bytes: usize) -> Self {
        Self { bytes: BytesMut::with_capacity(bytes), spans: Vec::new() }
    }

    /// Bytes copied so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Records copied so far.
    pub(crate) fn count(&self) -> usize {
        self.spans.len()
    }

    /// Copies a record.
    ///
    /// # Errors
    /// [`HeaderError`] when it has too many headers or too large ones; the chunk is as it was.
    pub(crate) fn push<'a>(
        &mut self,
        record: Record<'_>,
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Result<(), HeaderError> {
        let start = self.bytes.len();
        let copied = self.copy_headers(headers);
        let (id, identity, provenance) = copied.inspect_err(|_| self.bytes.truncate(start))?;
        let headers = start..self.bytes.len();
        let provenance = put(&mut self.bytes, provenance);
        let key = record.key.map(|key| put(&mut self.bytes, key));
        let payload = record.payload.map(|payload| put(&mut self.bytes, payload));
        let Record { offset, time_ms, .. } = record;
        self.spans.push(Span { offset, time_ms, headers, provenance, key, payload, id, identity });
        Ok(())
    }

    /// Copies the application's headers in the form that [`Headers`] has in memory; returns Longhaul's own.
    fn copy_headers<'a>(
        &mut self,
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Result<(Option<EventId>, Identity, &'a [u8]), HeaderError> {
        let (mut id, mut identity, mut provenance) = (None, Identity::Unique, &[][..]);
        let (mut count, mut size) = (0, 0);
        for (name, value) in headers {
            if name == ID {
                id = id.or_else(|| value.and_then(EventId::parse));
                continue;
            }
            if name == IDENTITY {
                if value == Some(OF_CONTENT) {
                    identity = Identity::Content;
                }
                continue;
            }
            if name == PROVENANCE {
                if provenance.is_empty() {
                    provenance = value.unwrap_or_default();
                }
                continue;
            }
            let tag = if value.is_some() { HeaderTag::BYTES } else { HeaderTag::NULL };
            let value = value.unwrap_or_default();
            count += 1;
            size += name.len() + value.len();
            if count > HEADER_COUNT_MAX {
                return Err(HeaderError::TooMany);
            }
            if size > HEADER_BYTES_MAX {
                return Err(HeaderError::TooLarge);
            }
            self.bytes.put_u16_le(u16::try_from(name.len()).map_err(|_| HeaderError::TooLarge)?);
            self.bytes.put_u8(tag.0);
            self.bytes.put_u32_le(u32::try_from(value.len()).map_err(|_| HeaderError::TooLarge)?);
            self.bytes.put_slice(name.as_bytes());
            self.bytes.put_slice(value);
        }
        // A mark without an identity marks nothing: the position makes a unique one.
        Ok((id, if id.is_some() { identity } else { Identity::Unique }, provenance))
    }

    /// The records as events; `None` when there are none.
    pub(crate) fn finish(self, origin: &Origin) -> Option<ReadBatch> {
        let last = self.spans.last()?.offset;
        let bytes = self.bytes.freeze();
        let events = self.spans.into_iter().map(|span| span.event(&bytes, origin)).collect();
        Some(ReadBatch { events, last })
    }
}

impl Span {
    fn event(self, bytes: &Bytes, origin: &Origin) -> Event {
        let headers = match self.headers.is_empty() {
            true => Headers::default(),
            false => {
                Headers::from_encoded(bytes.slice(self.headers)).expect("headers are checked while they are copied")
            }
        };
        let Origin { cluster, incarnation, shard, .. } = *origin;
        let id = self.id.unwrap_or_else(|| EventId::of_position(cluster, incarnation, shard, self.offset));
        Event {
            offset: self.offset,
            topic: origin.topic.clone(),
            key: self.key.map(|key| bytes.slice(key)),
            headers,
            payload: self.payload.map(|payload| bytes.slice(payload)),
            time_ms: self.time_ms,
            id,
            identity: self.identity,
            provenance: bytes.slice(self.provenance),
        }
    }
}

fn put(bytes: &mut BytesMut, part: &[u8]) -> Range<usize> {
    let start = bytes.len();
    bytes.put_slice(part);
    start..bytes.len()
}

/// Whether Kafka can have a topic of that name.
///
/// # Errors
/// The reason in words.
pub(crate) fn check_topic(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match () {
        () if name.is_empty() => Err("Kafka has no topic without a name".to_owned()),
        () if name == "." || name == ".." => Err(format!("Kafka has no topic named `{name}`")),
        () if name.len() > TOPIC_BYTES_MAX => {
            Err(format!("a Kafka topic has at most {TOPIC_BYTES_MAX} characters, this one has {}", name.len()))
        }
        () if !name.chars().all(fine) => {
            Err(format!("a Kafka topic has letters, digits, dots, dashes and underscores only, unlike `{name}`"))
        }
        () => Ok(()),
    }
}

/// The value of a header as Kafka carries it: bytes or none. Typed values of AMQP become text. `None` when they are malformed.
pub(crate) fn header_value<'a>(header: &Header<'a>) -> Option<Option<Cow<'a, [u8]>>> {
    match header.tag {
        HeaderTag::BYTES => Some(Some(Cow::Borrowed(header.value))),
        HeaderTag::NULL => Some(None),
        HeaderTag(tag) => amqp::text(tag, header.value),
    }
}

/// The body to write: none is a tombstone, and so is the empty one where the route says so.
pub(crate) fn payload(event: &Event, tombstone_on_empty: bool) -> Option<&[u8]> {
    event.payload.as_deref().filter(|payload| !(tombstone_on_empty && payload.is_empty()))
}

/// Bytes that the event takes in a batch of its own.
pub(crate) fn batch_bytes(event: &Event) -> usize {
    let mut size = RecordSize::new(event.key.as_ref().map(Bytes::len), event.payload.as_ref().map(Bytes::len));
    for header in event.headers.iter() {
        // Text of a typed value is at most a few times as long as the value; what is near the limit, the broker judges.
        let value = (header.tag != HeaderTag::NULL).then_some(header.value.len());
        size.header(header.name.len(), value);
    }
    size.header(ID.len(), Some(ID_BYTES));
    if event.identity == Identity::Content {
        size.header(IDENTITY.len(), Some(OF_CONTENT.len()));
    }
    if !event.provenance.is_empty() {
        size.header(PROVENANCE.len(), Some(event.provenance.len()));
    }
    size.batch_bytes()
}

#[cfg(test)]
mod tests {
    use longhaul_event::hash64;

    use super::*;

    type RawHeader<'a> = (&'a str, Option<&'a [u8]>);

    fn origin() -> Origin {
        Origin { topic: Topic::parse("orders").expect("short"), cluster: 5, shard: hash64(b"orders/3"), incarnation: 8 }
    }

    fn record(offset: u64) -> Record<'static> {
        Record { offset, key: Some(b"k"), payload: Some(b"body"), time_ms: 77 }
    }

    fn read(record: Record<'_>, headers: &[RawHeader<'_>]) -> Event {
        let mut chunk = Chunk::default();
        chunk.push(record, headers.iter().copied()).expect("it fits");
        chunk.finish(&origin()).expect("one record").events.remove(0)
    }

    #[test]
    fn keys_and_bodies_keep_what_is_missing_apart_from_what_is_empty() {
        for part in [None, Some(&b""[..]), Some(&b"x\0"[..])] {
            let event = read(Record { key: part, payload: part, ..record(1) }, &[]);
            assert_eq!(event.key.as_deref(), part);
            assert_eq!(event.payload.as_deref(), part);
        }
    }

    #[test]
    fn headers_are_byte_exact_in_order_with_repeats_and_nulls() {
        let raw: [RawHeader<'_>; 5] =
            [("b", Some(b"1")), ("a", None), ("b", Some(b"1")), ("", Some(b"\xff\0")), ("a", Some(b""))];
        let event = read(record(1), &raw);
        let found: Vec<_> = event.headers.iter().map(|h| (h.name, h.tag, h.value)).collect();
        let expected: Vec<_> = raw
            .iter()
            .map(|(name, value)| {
                let tag = if value.is_some() { HeaderTag::BYTES } else { HeaderTag::NULL };
                (*name, tag, value.unwrap_or_default())
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_correlation_id_and_a_trace_parent_stay_as_they_were() {
        let raw: [RawHeader<'_>; 4] = [
            ("ce_correlationid", Some(b"c-1")),
            ("correlation_id", Some(b"c-2")),
            ("amqp.correlation_id", Some(b"c-3")),
            ("traceparent", Some(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
        ];
        let event = read(record(1), &raw);
        let written: Vec<_> =
            event.headers.iter().map(|header| (header.name, header_value(&header).flatten())).collect();
        let expected: Vec<_> = raw.iter().map(|(name, value)| (*name, value.map(Cow::Borrowed))).collect();
        assert_eq!(written, expected);
    }

    #[test]
    fn our_own_headers_are_lifted_and_a_malformed_id_is_dropped() {
        let id = EventId(0xabc);
        let text = format!("{:032x}", id.0);
        let event = read(
            record(9),
            &[("a", Some(b"1")), (ID, Some(text.as_bytes())), (PROVENANCE, Some(b"prov")), ("z", None)],
        );
        assert_eq!((event.id, &event.provenance[..]), (id, &b"prov"[..]));
        assert_eq!(event.headers.iter().map(|h| h.name).collect::<Vec<_>>(), ["a", "z"]);
        let event = read(record(9), &[(ID, Some(b"nonsense")), (ID, None)]);
        assert_eq!(event.id, EventId::of_position(5, 8, hash64(b"orders/3"), 9));
        assert!(event.headers.is_empty() && event.provenance.is_empty());
    }

    #[test]
    fn an_identity_of_content_stays_one() {
        let text = format!("{:032x}", 0xabc);
        let id = (ID, Some(text.as_bytes()));
        let mark = (IDENTITY, Some(OF_CONTENT));
        assert_eq!(read(record(9), &[id, mark]).identity, Identity::Content);
        assert_eq!(read(record(9), &[id]).identity, Identity::Unique);
        assert_eq!(read(record(9), &[mark]).identity, Identity::Unique);
        assert!(read(record(9), &[id, mark]).headers.is_empty());
    }

    #[test]
    fn a_refused_record_leaves_the_chunk_as_it_was() {
        let mut chunk = Chunk::with_room(10);
        chunk.push(record(1), std::iter::empty()).expect("it fits");
        let before = chunk.len();
        let many = [("n", None); HEADER_COUNT_MAX + 1];
        assert_eq!(chunk.push(record(2), many.into_iter()), Err(HeaderError::TooMany));
        assert_eq!(chunk.push(record(2), many[..HEADER_COUNT_MAX].iter().copied()), Ok(()), "just inside");
        let large = vec![0; HEADER_BYTES_MAX];
        assert_eq!(chunk.push(record(3), [("n", Some(&large[..]))].into_iter()), Err(HeaderError::TooLarge));
        assert_eq!(chunk.push(record(3), [("n", Some(&large[1..]))].into_iter()), Ok(()), "just inside");
        assert!(chunk.len() > before);
        let batch = chunk.finish(&origin()).expect("three records");
        assert_eq!((batch.events.len(), batch.last), (3, 3));
        assert_eq!(batch.events[1].headers.iter().count(), HEADER_COUNT_MAX);
        assert_eq!(batch.events[1].payload.as_deref(), Some(&b"body"[..]));
    }

    #[test]
    fn a_chunk_without_records_is_no_batch() {
        assert!(Chunk::with_room(10).finish(&origin()).is_none());
    }

    #[test]
    fn kafka_names_few_topics() {
        for fine in ["a", "orders.eu-west_1", "a..b", &"x".repeat(249)] {
            assert_eq!(check_topic(fine), Ok(()), "{fine}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "gr\u{fc}n", "a\0", &"x".repeat(250)] {
            assert!(check_topic(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_empty_body_is_a_tombstone_only_where_the_route_says_so() {
        let event = |payload| read(Record { payload, ..record(1) }, &[]);
        assert_eq!(payload(&event(Some(b"")), false), Some(&b""[..]));
        assert_eq!(payload(&event(Some(b"")), true), None);
        assert_eq!(payload(&event(None), false), None);
        assert_eq!(payload(&event(Some(b"x")), true), Some(&b"x"[..]));
    }
}
