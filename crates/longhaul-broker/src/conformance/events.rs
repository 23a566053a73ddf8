//! The events that the suite writes: every combination of keys, headers and payload sizes that has broken a connector before.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use longhaul_event::{Event, EventId, HeaderTag, Headers, HeadersBuilder, Identity};
use longhaul_topic::Topic;

/// Sizes of payloads, in turn. The large ones come once in a round of 16.
const PAYLOAD_BYTES: [usize; 16] =
    [0, 1, 2, 10, 100, 255, 256, 1_000, 1_024, 3, 4_096, 16_000, 0, 32_768, 65_535, 65_536];
/// Different headers; see [`headers`].
const HEADER_CASES: usize = 12;

/// Event number `index` of a run, at that offset. Same index, same content; the identity differs between processes.
#[must_use]
pub fn event(index: usize, offset: u64, topic: &Topic) -> Event {
    Event {
        offset,
        topic: topic.clone(),
        key: key(index),
        headers: headers(index % HEADER_CASES),
        payload: Some(payload(index)),
        time_ms: 1_700_000_000_000 + i64::try_from(index).expect("an index is small") * 1_000,
        id: EventId((run_id() << 32) | index as u128),
        identity: Identity::Unique,
        provenance: provenance(index),
    }
}

/// Events `from..to`, with ascending offsets that have holes, over all the topics in turn.
#[must_use]
pub fn batch(topics: &[Topic], from: usize, to: usize) -> Vec<Event> {
    (from..to).map(|index| event(index, offset_of(index), &topics[index % topics.len()])).collect()
}

/// The offset that event `index` has at its origin.
pub(super) fn offset_of(index: usize) -> u64 {
    1_000 + 3 * index as u64
}

/// Sets runs apart, so that an event that was left over from another run is not taken for one of this.
fn run_id() -> u128 {
    static RUN: OnceLock<u128> = OnceLock::new();
    *RUN.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos()))
}

fn key(index: usize) -> Option<Bytes> {
    match index % 10 {
        0 => None,
        1 => Some(Bytes::new()),
        2 => Some(Bytes::from_static(b"\x00\xff\r\n key")),
        n => Some(Bytes::from(format!("customer-{n}"))),
    }
}

fn payload(index: usize) -> Bytes {
    let len = PAYLOAD_BYTES[index % PAYLOAD_BYTES.len()];
    (0..len).map(|at| (at.wrapping_mul(31).wrapping_add(index) % 256) as u8).collect()
}

/// One of the [`HEADER_CASES`].
fn headers(case: usize) -> Headers {
    let mut builder = Headers::builder();
    let mut push = |name: &str, value: &[u8]| push(&mut builder, name, HeaderTag::BYTES, value);
    match case {
        0 => {}
        1 => push("trace", b"one"),
        2 => {
            push("repeat", b"first");
            push("between", b"x");
            push("repeat", b"second");
            push("repeat", b"second");
            push("repeat", b"");
        }
        3 => push("binary", &(0..=255).collect::<Vec<u8>>()),
        4 => push("empty", b""),
        5 => push("large", &vec![b'v'; 16 * 1024]),
        6 => push("lines", b"a\r\nInjected: b\r\n\r\n"),
        7 => push("spaces", b"  around  "),
        8 => {
            push("Case", b"upper");
            push("case", b"lower");
        }
        9 => {
            push("content-type", b"application/json");
            push("unicode", "gr\u{fc}n \u{2713}".as_bytes());
        }
        10 => {
            push("zulu", b"before");
            self::push(&mut builder, "null", HeaderTag::NULL, b"");
        }
        _ => {
            push("alpha", b"before");
            // A long-int as AMQP encodes it.
            self::push(&mut builder, "typed", HeaderTag(b'I'), &42_i32.to_be_bytes());
        }
    }
    builder.finish()
}

fn push(builder: &mut HeadersBuilder, name: &str, tag: HeaderTag, value: &[u8]) {
    builder.push_tagged(name, tag, value).expect("the suite's headers are within the limits");
}

/// A well-formed provenance with one hop; none for every fifth event.
fn provenance(index: usize) -> Bytes {
    if index.is_multiple_of(5) {
        return Bytes::new();
    }
    let mut bytes = BytesMut::new();
    bytes.put_u8(1);
    bytes.put_u32_le(0xfeed_f00d);
    for part in [u64::MAX - 1, 0x0a0d_0a0d_0a0d_0a0d, 7, offset_of(index), 0x00ff_00ff_00ff_00ff] {
        bytes.put_u64_le(part);
    }
    bytes.put_slice(&[0, 1]);
    bytes.put_u32_le(11);
    bytes.put_u64_le(12);
    bytes.put_u32_le(13);
    bytes.freeze()
}
