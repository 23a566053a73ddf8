//! Every limit in a pair: just inside, just outside; at the sender and at the receiver.

use super::*;

fn generous() -> Limits {
    Limits::new(u32::MAX, u16::MAX)
}

/// What a receiver with these limits says to an event that a generous sender lets through.
fn received(event: &Event, limits: &Limits) -> Result<(), WireError> {
    let mut encoder = BatchEncoder::new(generous());
    let chain = chain(event.offset - 1, event.offset);
    decode_batch(encode(&mut encoder, std::slice::from_ref(event), chain, Compression::None), limits).map(drop)
}

fn sent(event: &Event, limits: &Limits) -> Result<(), WireError> {
    BatchEncoder::new(*limits).push(event, event.topic.as_str(), &event.provenance)
}

fn with_headers(count: usize) -> Event {
    let mut builder = Headers::builder();
    for _ in 0..count {
        builder.push("h", b"v").unwrap();
    }
    Event { headers: builder.finish(), ..event(1, b"x") }
}

#[test]
fn event_bytes() {
    let limits = Limits::new(1000, 64);
    let around = "orders.eu".len() + "key".len();
    let (inside, outside) = (event(1, &vec![0; 1000 - around]), event(1, &vec![0; 1001 - around]));
    let refused = Err(WireError::EventTooLarge { bytes: 1001, limit: 1000 });
    assert_eq!((sent(&inside, &limits), sent(&outside, &limits)), (Ok(()), refused.clone()));
    assert_eq!((received(&inside, &limits), received(&outside, &limits)), (Ok(()), refused));
}

#[test]
fn key_bytes() {
    let with_key = |len: usize| Event { key: Some(vec![0; len].into()), ..event(1, b"x") };
    assert_eq!(sent(&with_key(KEY_BYTES_MAX), &generous()), Ok(()));
    assert_eq!(received(&with_key(KEY_BYTES_MAX), &generous()), Ok(()));
    let over = KEY_BYTES_MAX + 1;
    assert_eq!(sent(&with_key(over), &generous()), Err(WireError::KeyTooLarge(over)));
}

#[test]
fn provenance_bytes() {
    let with = |len: usize| Event { provenance: vec![0; len].into(), ..event(1, b"x") };
    assert_eq!(received(&with(PROVENANCE_BYTES_MAX), &generous()), Ok(()));
    let over = PROVENANCE_BYTES_MAX + 1;
    assert_eq!(sent(&with(over), &generous()), Err(WireError::ProvenanceTooLarge(over)));
}

#[test]
fn header_count() {
    let too_many: Result<(), WireError> = Err(longhaul_event::HeaderError::TooMany.into());
    assert_eq!(received(&with_headers(HEADER_COUNT_MAX), &generous()), Ok(()));
    let three = Limits::new(u32::MAX, 3);
    assert_eq!((sent(&with_headers(3), &three), sent(&with_headers(4), &three)), (Ok(()), too_many.clone()));
    assert_eq!((received(&with_headers(3), &three), received(&with_headers(4), &three)), (Ok(()), too_many));
}

#[test]
fn topic_bytes() {
    let mut encoder = BatchEncoder::new(generous());
    let push = |encoder: &mut BatchEncoder, offset, len| encoder.push(&event(offset, b"x"), &"t".repeat(len), b"");
    assert_eq!(push(&mut encoder, 1, TOPIC_BYTES_MAX), Ok(()));
    assert_eq!(push(&mut encoder, 2, TOPIC_BYTES_MAX + 1), Err(WireError::Topic));
}

#[test]
fn events_per_batch() {
    let mut encoder = BatchEncoder::new(generous());
    for offset in 0..u64::from(BATCH_EVENTS_MAX) {
        encoder.push(&event(offset, b""), "t", b"").unwrap();
    }
    let last = u64::from(BATCH_EVENTS_MAX);
    assert_eq!(encoder.push(&event(last, b""), "t", b""), Err(WireError::BatchFull));
    let bytes = encoder.finish(chain(u64::MAX, last - 1), Compression::Lz4);
    assert_eq!(decode_batch(bytes, &generous()).unwrap().1.len(), BATCH_EVENTS_MAX as usize);
}

#[test]
fn raw_bytes_per_batch() {
    let mut encoder = BatchEncoder::new(generous());
    encoder.push(&event(1, &vec![1; BATCH_RAW_BYTES_MAX / 2]), "t", b"").unwrap();
    let room = BATCH_RAW_BYTES_MAX - encoder.len() - EVENT_FRAME_BYTES_MAX - "t".len() - "key".len();
    let mut full = event(2, &vec![1; room + 1]);
    assert_eq!(encoder.push(&full, "t", b""), Err(WireError::BatchFull));
    full.payload = full.payload.map(|payload| payload.slice(1..));
    assert_eq!(encoder.push(&full, "t", b""), Ok(()));
    let bytes = encoder.finish(chain(0, 2), Compression::None);
    assert_eq!(decode_batch(bytes, &generous()).unwrap().1.len(), 2);
}

#[test]
fn one_event_alone_may_be_larger_than_a_batch() {
    let large = event(1, &vec![1; 2 * BATCH_RAW_BYTES_MAX]);
    assert_eq!(received(&large, &generous()), Ok(()));
    assert!(matches!(received(&large, &Limits::default()), Err(WireError::BatchTooLarge { .. })));
    let mut encoder = BatchEncoder::new(generous());
    encoder.push(&event(0, b"x"), "t", b"").unwrap();
    assert_eq!(encoder.push(&large, "t", b""), Err(WireError::BatchFull), "but not beside another");
}

#[test]
fn limits_are_held_to_what_the_protocol_allows() {
    assert_eq!(generous().event_bytes_max, 64 * 1024 * 1024);
    assert_eq!(generous().headers_max, HEADER_COUNT_MAX);
    assert_eq!(Limits::new(10, 2), Limits { event_bytes_max: 10, headers_max: 2 });
}
