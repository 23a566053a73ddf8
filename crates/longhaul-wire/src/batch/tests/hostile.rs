//! Bytes that no honest sender makes.

use super::{header::checksum_fits, *};

/// A batch with a right checksum around whatever the header and the body are.
fn sealed(mut header: BatchHeader, body: &[u8]) -> Bytes {
    header.body_len = body.len().try_into().unwrap();
    let mut whole = vec![0; BATCH_HEADER_BYTES];
    whole.extend_from_slice(body);
    header.write(&mut whole);
    assert!(checksum_fits(&whole));
    whole.into()
}

fn header(count: u32, raw_len: usize, codec: Codec) -> BatchHeader {
    BatchHeader {
        handle: 1,
        path_epoch: 1,
        start: false,
        codec,
        count,
        incarnation: 1,
        prev: 0,
        last: 1_000_000,
        raw_len: raw_len.try_into().unwrap(),
        body_len: 0,
    }
}

fn plain(count: u32, body: &[u8]) -> Bytes {
    sealed(header(count, body.len(), Codec::None), body)
}

/// The raw events of one event, as the encoder writes them.
fn raw_of(event: &Event) -> Vec<u8> {
    encode_one(event, Compression::None)[BATCH_HEADER_BYTES..].to_vec()
}

fn refused(bytes: Bytes) -> WireError {
    decode_batch(bytes, &Limits::default()).expect_err("the batch is refused")
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_header(&bytes);
        prop_assert!(decode_batch(bytes.into(), &Limits::default()).is_err());
    }

    #[test]
    fn arbitrary_events_behind_a_good_header_do_no_harm(
        count in 0_u32..20, body in proptest::collection::vec(prop_oneof![0_u8..64, any::<u8>()], 0..400),
    ) {
        let _ = decode_batch(plain(count, &body), &Limits::default());
    }

    #[test]
    fn arbitrary_compressed_bytes_do_no_harm(
        zstd in any::<bool>(), raw_len in 0_usize..5000, body in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let codec = if zstd { Codec::Zstd } else { Codec::Lz4 };
        let _ = decode_batch(sealed(header(1, raw_len, codec), &body), &Limits::default());
    }

    #[test]
    fn every_flipped_bit_is_noticed(
        events in proptest::collection::vec(any_event(), 0..5), compression in any_compression(), at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let events = rising(10, events);
        let last = events.last().map_or(10, |event| event.offset);
        let bytes = encode(&mut BatchEncoder::new(Limits::default()), &events, chain(10, last), compression);
        let mut flipped = bytes.to_vec();
        flipped[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(decode_batch(flipped.into(), &Limits::default()).is_err());
    }

    #[test]
    fn every_cut_is_noticed(events in proptest::collection::vec(any_event(), 0..5), at in any::<prop::sample::Index>()) {
        let events = rising(10, events);
        let last = events.last().map_or(10, |event| event.offset);
        let bytes = encode(&mut BatchEncoder::new(Limits::default()), &events, chain(10, last), Compression::Lz4);
        prop_assert!(decode_batch(bytes.slice(..at.index(bytes.len())), &Limits::default()).is_err());
    }
}

#[test]
fn bytes_behind_a_batch_are_refused() {
    let mut bytes = encode_one(&event(1, b"x"), Compression::None).to_vec();
    bytes.push(0);
    assert_eq!(refused(bytes.into()), WireError::Lengths);
}

#[test]
fn declared_lengths_are_refused_before_anything_is_allocated() {
    let limit = Limits::default().batch_raw_bytes_max();
    let head = |count, raw_len: usize, body_len: u32, codec| BatchHeader { body_len, ..header(count, raw_len, codec) };
    let judge = |header: BatchHeader| frame_len(&header, &Limits::default());
    assert_eq!(judge(head(0, limit, 1, Codec::Lz4)), Ok(BATCH_HEADER_BYTES + 1));
    assert_eq!(judge(head(0, limit + 1, 1, Codec::Lz4)), Err(WireError::BatchTooLarge { bytes: limit + 1, limit }));
    assert_eq!(judge(head(0, 10, 11, Codec::Lz4)), Err(WireError::Lengths), "compression never makes longer");
    assert_eq!(judge(head(0, 10, 9, Codec::None)), Err(WireError::Lengths));
    assert!(judge(head(2, 2 * EVENT_BYTES_MIN, 1, Codec::Lz4)).is_ok());
    assert_eq!(judge(head(2, 2 * EVENT_BYTES_MIN - 1, 1, Codec::Lz4)), Err(WireError::TooManyEvents(2)));
    assert!(judge(head(BATCH_EVENTS_MAX, limit, 1, Codec::Lz4)).is_ok());
    let over = BATCH_EVENTS_MAX + 1;
    assert_eq!(judge(head(over, limit, 1, Codec::Lz4)), Err(WireError::TooManyEvents(over)));
}

#[test]
fn more_events_than_offsets_are_refused() {
    let two = BatchHeader { prev: 7, last: 9, body_len: 60, ..header(2, 60, Codec::None) };
    assert!(frame_len(&two, &Limits::default()).is_ok());
    let one = BatchHeader { prev: 8, ..two };
    assert_eq!(frame_len(&one, &Limits::default()), Err(WireError::TooManyEvents(2)));
}

#[test]
fn bombs_and_short_bodies_are_refused() {
    let raw = raw_of(&event(1, &[0; 100_000]));
    let lz4 = lz4_flex::block::compress(&raw);
    let zstd = zstd::bulk::compress(&raw, 1).unwrap();
    for (codec, body) in [(Codec::Lz4, &lz4), (Codec::Zstd, &zstd)] {
        let judge = |raw_len: usize| decode_batch(sealed(header(1, raw_len, codec), body), &Limits::default());
        assert_eq!(judge(raw.len()).unwrap().1[0].payload.as_ref().unwrap().len(), 100_000);
        assert_eq!(judge(raw.len() - 1), Err(WireError::Decompress), "it would be longer than declared");
        assert_eq!(judge(raw.len() + 1), Err(WireError::Decompress), "it is shorter than declared");
    }
}

#[test]
fn the_fixed_parts_are_held_to_their_layout() {
    let good = encode_one(&event(1, b"x"), Compression::None);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        decode_header(&bytes).expect_err("the header is refused")
    };
    assert_eq!(with(0, b'l'), WireError::Magic);
    assert_eq!(with(2, 2), WireError::Version(2));
    assert_eq!(with(3, 2), WireError::Flags("header of a batch"));
    assert_eq!(with(12, 3), WireError::Codec(3));
    assert_eq!(with(13, 1), WireError::Flags("header of a batch"));
    assert_eq!(decode_header(&good[..BATCH_HEADER_BYTES - 1]), Err(WireError::Truncated("header of a batch")));
}

#[test]
fn events_that_break_their_form_are_refused() {
    let raw = raw_of(&event(1, b"x"));
    assert!(decode_batch(plain(1, &raw), &Limits::default()).is_ok());
    let with = |at: usize, byte: u8| {
        let mut body = raw.clone();
        body[at] = byte;
        refused(plain(1, &body))
    };
    assert_eq!(with(0, raw[0] | 64), WireError::Flags("event"));
    assert_eq!(with(0, raw[0] | flag::SAME_TOPIC), WireError::Topic, "there is no event before the first");
    assert_eq!(with(1, 0), WireError::Order, "offset 0 lies before the range");
    assert_eq!(refused(plain(1, &raw[..raw.len() - 1])), WireError::Truncated("event"));
    assert_eq!(refused(plain(1, &[&raw[..], &[0]].concat())), WireError::Lengths, "something is left over");
}

#[test]
fn offsets_that_do_not_rise_are_refused() {
    let raw = raw_of(&event(1, b"x"));
    let twice = |delta: u8| {
        let mut second = raw.clone();
        second[1] = delta;
        decode_batch(plain(2, &[&raw[..], &second[..]].concat()), &Limits::default())
            .map(|(_, events)| events[1].offset)
    };
    assert_eq!(twice(0), Err(WireError::Order));
    assert_eq!(twice(1), Ok(2));
}

#[test]
fn numbers_that_are_too_long_are_refused() {
    let mut body = raw_of(&event(1, b"x"));
    body.splice(1..2, [0xff; 10]);
    assert_eq!(refused(plain(1, &body)), WireError::Malformed("number"));
    let mut long = raw_of(&event(1, b"x"));
    long.splice(1..2, [0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
    assert_eq!(refused(plain(1, &long)), WireError::Order, "the tenth byte still counts, as bit 63");
}

#[test]
fn headers_of_events_are_checked() {
    let mut builder = Headers::builder();
    builder.push("name", b"value").unwrap();
    let raw = raw_of(&Event { headers: builder.finish(), key: None, ..event(1, b"x") });
    let at = raw.windows(4).position(|window| window == b"name").unwrap();
    let mut body = raw;
    body[at] = 0xff;
    assert_eq!(refused(plain(1, &body)), WireError::Headers(longhaul_event::HeaderError::Malformed));
}
