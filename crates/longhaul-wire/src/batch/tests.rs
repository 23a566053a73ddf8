//! What batches promise: every event comes back as it was, and nothing that a peer can send does harm.

use bytes::Bytes;
use longhaul_event::{Event, EventId, HEADER_COUNT_MAX, Headers, Identity};
use longhaul_topic::{TOPIC_BYTES_MAX, Topic};
use proptest::prelude::*;

use super::*;
use crate::{
    BATCH_EVENTS_MAX, BATCH_RAW_BYTES_MAX, KEY_BYTES_MAX, Limits, PROVENANCE_BYTES_MAX, WireError,
    limits::EVENT_FRAME_BYTES_MAX,
};

mod hostile;
mod limits;

fn event(offset: u64, payload: &[u8]) -> Event {
    Event {
        offset,
        topic: Topic::parse("orders.eu").unwrap(),
        key: Some(Bytes::from_static(b"key")),
        headers: Headers::default(),
        payload: Some(Bytes::copy_from_slice(payload)),
        time_ms: 1_700_000_000_000,
        id: EventId(u128::from(offset) << 64 | 7),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}

fn chain(prev: u64, last: u64) -> Chain {
    Chain { handle: 3, path_epoch: 4, start: true, incarnation: 5, prev, last }
}

/// Encodes events under their own topics and provenance.
fn encode(encoder: &mut BatchEncoder, events: &[Event], chain: Chain, compression: Compression) -> Bytes {
    for event in events {
        encoder.push(event, event.topic.as_str(), &event.provenance).unwrap();
    }
    encoder.finish(chain, compression)
}

fn encode_one(event: &Event, compression: Compression) -> Bytes {
    let prev = event.offset.wrapping_sub(1);
    let mut encoder = BatchEncoder::new(Limits::default());
    encode(&mut encoder, std::slice::from_ref(event), chain(prev, event.offset), compression)
}

prop_compose! {
    fn any_event()(
        topic in "[a-z.]{0,12}", key in any::<Option<Vec<u8>>>(), payload in any::<Option<Vec<u8>>>(), time_ms in any::<i64>(),
        id in any::<u128>(), content in any::<bool>(), provenance in proptest::collection::vec(any::<u8>(), 0..60),
        headers in proptest::collection::vec(("[a-zA-Z-]{0,9}", any::<u8>(), any::<Vec<u8>>()), 0..5), gap in 1_u64..1000,
    ) -> (u64, Event) {
        let mut builder = Headers::builder();
        for (name, tag, value) in &headers {
            builder.push_tagged(name, longhaul_event::HeaderTag(*tag), value).unwrap();
        }
        (gap, Event {
            offset: 0, topic: Topic::parse(&topic).unwrap(), key: key.map(Bytes::from), headers: builder.finish(),
            payload: payload.map(Bytes::from), time_ms, id: EventId(id),
            identity: if content { Identity::Content } else { Identity::Unique }, provenance: provenance.into(),
        })
    }
}

/// Events with rising offsets behind `prev`.
fn rising(prev: u64, events: Vec<(u64, Event)>) -> Vec<Event> {
    let mut at = prev;
    let mut offset = |gap: u64| {
        at = at.wrapping_add(gap);
        at
    };
    events.into_iter().map(|(gap, event)| Event { offset: offset(gap), ..event }).collect()
}

fn any_prev() -> impl Strategy<Value = u64> {
    prop_oneof![Just(u64::MAX), 0_u64..1000, Just(u64::MAX / 2)]
}

fn any_compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::None), Just(Compression::Lz4), Just(Compression::Zstd)]
}

proptest! {
    #[test]
    fn batches_come_back_as_they_were(
        prev in any_prev(), events in proptest::collection::vec(any_event(), 0..20), beyond in 0_u64..9,
        compression in any_compression(), start in any::<bool>(), handle in any::<u32>(), incarnation in any::<u64>(),
    ) {
        let events = rising(prev, events);
        let last = events.last().map_or(prev, |event| event.offset).wrapping_add(beyond);
        let chain = Chain { handle, path_epoch: 9, start, incarnation, prev, last };
        let mut encoder = BatchEncoder::new(Limits::default());
        // Twice, since an encoder is used again and again.
        for _ in 0..2 {
            let bytes = encode(&mut encoder, &events, chain, compression);
            prop_assert_eq!((encoder.count(), encoder.len()), (0, 0));
            let (header, found) = decode_batch(bytes.clone(), &Limits::default()).unwrap();
            prop_assert_eq!(&found, &events);
            prop_assert_eq!(usize::try_from(header.count).unwrap(), events.len());
            prop_assert_eq!(
                Chain { handle: header.handle, path_epoch: header.path_epoch, start: header.start,
                        incarnation: header.incarnation, prev: header.prev, last: header.last },
                chain
            );
            prop_assert_eq!(frame_len(&header, &Limits::default()), Ok(bytes.len()));
        }
    }
}

#[test]
fn destination_topic_and_provenance_replace_those_of_the_event() {
    let mut encoder = BatchEncoder::new(Limits::default());
    let event = Event { provenance: Bytes::from_static(b"old"), ..event(1, b"x") };
    encoder.push(&event, "copy.orders", b"new").unwrap();
    let (_, events) = decode_batch(encoder.finish(chain(0, 1), Compression::None), &Limits::default()).unwrap();
    assert_eq!(events[0].topic.as_str(), "copy.orders");
    assert_eq!(&events[0].provenance[..], b"new");
}

#[test]
fn a_topic_is_written_once_while_it_stays() {
    let len = |topics: [&str; 3]| {
        let mut encoder = BatchEncoder::new(Limits::default());
        for (offset, topic) in (1..).zip(topics) {
            encoder.push(&event(offset, b"x"), topic, b"").unwrap();
        }
        encoder.len()
    };
    assert_eq!(len(["aaaa", "bbbb", "cccc"]) - len(["aaaa", "aaaa", "aaaa"]), 2 * 5);
}

#[test]
fn events_are_slices_of_one_buffer() {
    let bytes = encode_one(&event(1, &[7; 1000]), Compression::None);
    let range = bytes.as_ptr_range();
    let (_, events) = decode_batch(bytes, &Limits::default()).unwrap();
    assert!(range.contains(&events[0].payload.as_ref().unwrap().as_ptr()));
}

#[test]
fn compression_is_used_where_it_pays_and_tried_again_after_a_while() {
    let random: Vec<u8> = (0..4000_u32).flat_map(|n| crc32c::crc32c(&n.to_le_bytes()).to_le_bytes()).collect();
    let (dull, rich) = (event(1, &[7; 4000]), event(1, &random));
    for (compression, codec) in [(Compression::Lz4, Codec::Lz4), (Compression::Zstd, Codec::Zstd)] {
        let mut encoder = BatchEncoder::new(Limits::default());
        let mut codec_of = |event: &Event| {
            let bytes = encode(&mut encoder, std::slice::from_ref(event), chain(0, 1), compression);
            decode_header(&bytes).unwrap().codec
        };
        assert_eq!(codec_of(&dull), codec);
        assert_eq!(codec_of(&rich), Codec::None, "random bytes gain nothing");
        for _ in 0..63 {
            assert_eq!(codec_of(&dull), Codec::None, "not tried for 63 more");
        }
        assert_eq!(codec_of(&dull), codec);
    }
    assert_eq!(decode_header(&encode_one(&dull, Compression::None)).unwrap().codec, Codec::None);
}

#[test]
fn offsets_must_rise_and_a_refused_push_changes_nothing() {
    let mut encoder = BatchEncoder::new(Limits::default());
    encoder.push(&event(5, b"x"), "t", b"").unwrap();
    let len = encoder.len();
    assert_eq!(encoder.push(&event(5, b"y"), "t", b""), Err(WireError::Order));
    assert_eq!((encoder.len(), encoder.count()), (len, 1));
    encoder.push(&event(6, b"z"), "t", b"").unwrap();
    let (_, events) = decode_batch(encoder.finish(chain(4, 6), Compression::None), &Limits::default()).unwrap();
    assert_eq!(events.iter().map(|event| event.offset).collect::<Vec<_>>(), [5, 6]);
}

#[test]
fn a_cleared_batch_leaves_no_trace() {
    let mut encoder = BatchEncoder::new(Limits::default());
    encoder.push(&event(9, b"x"), "t", b"").unwrap();
    encoder.clear();
    encoder.push(&event(1, b"y"), "t", b"").unwrap();
    let (_, events) = decode_batch(encoder.finish(chain(0, 1), Compression::None), &Limits::default()).unwrap();
    assert_eq!((events.len(), events[0].offset, events[0].topic.as_str()), (1, 1, "t"));
}

#[test]
fn a_batch_that_passes_on_changes_its_handle_and_nothing_else() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let events = [event(7, &[b'x'; 2000]), event(9, b"")];
        let limits = Limits::new(1 << 20, 64);
        let batch = encode(&mut BatchEncoder::new(limits), &events, chain(6, 9), compression);
        let passed = readdress(batch.clone(), 77).unwrap();
        assert_eq!(passed.len(), batch.len());
        let (header, found) = decode_batch(passed, &limits).unwrap();
        assert_eq!(header.handle, 77);
        let (before, as_sent) = decode_batch(batch.clone(), &limits).unwrap();
        assert_eq!((BatchHeader { handle: before.handle, ..header }, found), (before, as_sent));
        let mut damaged = batch.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(readdress(damaged.into(), 77), Err(WireError::Checksum));
        assert!(matches!(readdress(batch.slice(..BATCH_HEADER_BYTES - 1), 77), Err(WireError::Truncated(_))));
    }
}
