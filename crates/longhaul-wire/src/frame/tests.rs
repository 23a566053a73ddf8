//! What control frames promise.

use proptest::prelude::*;

use super::*;

fn hello() -> Hello {
    Hello {
        version: PROTOCOL_VERSION,
        mesh: "earth".into(),
        region: "eu".into(),
        router: "eu-1".into(),
        instance: 7,
        event_bytes_max: 1 << 20,
        headers_max: 64,
        features: u64::MAX,
    }
}

fn open() -> FlowOpen {
    FlowOpen {
        handle: 9,
        mesh: "earth".into(),
        route: "orders".into(),
        from: ("eu".into(), "kafka".into(), "orders".into()),
        to: ("us".into(), "nats".into()),
        partition: Some(3),
        owner_epoch: u64::MAX,
        path_epoch: 2,
        route_hash: 1,
        class: 1,
        links: 1,
    }
}

fn every_kind() -> Vec<Frame> {
    let position = Position { incarnation: 5, offset: u64::MAX };
    vec![
        Frame::Hello(hello()),
        Frame::Heartbeat { at_micros: 1 },
        Frame::HeartbeatEcho { at_micros: u64::MAX },
        Frame::Open(open()),
        Frame::Accept { handle: 1, path_epoch: 2, resume: Some(position), events_limit: 3, bytes_limit: 4 },
        Frame::Ack { handle: 1, path_epoch: 2, durable: 3, events_limit: 4, bytes_limit: 5 },
        Frame::Reset { handle: 1, path_epoch: 2, code: 3, text: "the sink is lost".into(), retry_ms: 4 },
        Frame::Close { handle: 1, path_epoch: 2 },
        Frame::Goodbye { text: "drained".into() },
    ]
}

fn bytes_of(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    encode_frame(frame, &mut out).unwrap();
    out
}

fn raw(body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32_le(body.len().try_into().unwrap());
    out.put_slice(body);
    out
}

#[test]
fn every_kind_comes_back_as_it_was_however_it_is_cut() {
    let frames = every_kind();
    let all: Vec<u8> = frames.iter().flat_map(|frame| bytes_of(frame).to_vec()).collect();
    for step in [1, 2, 7, all.len()] {
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for chunk in all.chunks(step) {
            buffer.extend_from_slice(chunk);
            while let Some(frame) = next_frame(&mut buffer).unwrap() {
                found.push(frame);
            }
        }
        assert_eq!(found, frames, "in steps of {step}");
        assert!(buffer.is_empty());
    }
}

#[test]
fn kinds_are_numbered_in_order_and_all_known() {
    let kinds: Vec<u8> = every_kind().iter().map(|frame| bytes_of(frame)[PREFIX_BYTES]).collect();
    assert_eq!(kinds, (0..KNOWN_KINDS).collect::<Vec<_>>());
    assert_eq!(kinds[usize::from(HELLO_KIND)], HELLO_KIND);
}

#[test]
fn unknown_kinds_are_skipped_only_where_they_may_be() {
    let mut skippable = raw(&[SKIPPABLE_FROM, 1, 2, 3]);
    skippable.extend_from_slice(&bytes_of(&Frame::Heartbeat { at_micros: 1 }));
    assert_eq!(next_frame(&mut skippable), Ok(Some(Frame::Heartbeat { at_micros: 1 })));
    for kind in [KNOWN_KINDS, SKIPPABLE_FROM - 1] {
        assert_eq!(next_frame(&mut raw(&[kind, 0])), Err(WireError::FrameKind(kind)));
    }
    assert_eq!(next_frame(&mut raw(&[])), Err(WireError::Truncated("frame")));
}

#[test]
fn only_a_hello_may_say_more() {
    let longer = |frame: &Frame| {
        let mut body = bytes_of(frame).split_off(PREFIX_BYTES).to_vec();
        body.push(1);
        raw(&body)
    };
    assert_eq!(next_frame(&mut longer(&Frame::Hello(hello()))), Ok(Some(Frame::Hello(hello()))));
    assert_eq!(next_frame(&mut longer(&Frame::Heartbeat { at_micros: 1 })), Err(WireError::FrameForm(1)));
}

/// As a router of before the first version did it, whose `Open` had a field less.
#[test]
fn a_frame_of_another_form_says_that_the_peer_is_of_another_build() {
    let mut body = bytes_of(&Frame::Open(open())).split_off(PREFIX_BYTES).to_vec();
    body.pop();
    let error = next_frame(&mut raw(&body)).unwrap_err();
    assert_eq!(error, WireError::FrameForm(3));
    assert!(error.to_string().contains("of a build that this one cannot speak with"), "{error}");
}

#[test]
fn the_length_alone_refuses_what_is_too_long() {
    let at = u32::try_from(FRAME_BYTES_MAX).unwrap();
    assert_eq!(next_frame(&mut BytesMut::from(&at.to_le_bytes()[..])), Ok(None));
    let over = (at + 1).to_le_bytes();
    assert_eq!(next_frame(&mut BytesMut::from(&over[..])), Err(WireError::FrameTooLarge(FRAME_BYTES_MAX + 1)));
}

#[test]
fn a_frame_may_have_64_kib_and_not_more() {
    let with_route = |len: usize| Frame::Open(FlowOpen { route: "r".repeat(len), ..open() });
    let rest = bytes_of(&with_route(40_000)).len() - PREFIX_BYTES - 40_000;
    let longest = FRAME_BYTES_MAX - rest;
    assert_eq!(bytes_of(&with_route(longest)).len(), PREFIX_BYTES + FRAME_BYTES_MAX);
    let mut out = BytesMut::new();
    assert_eq!(encode_frame(&with_route(longest + 1), &mut out), Err(WireError::FrameTooLarge(FRAME_BYTES_MAX + 1)));
    assert!(out.is_empty());
}

#[test]
fn long_reasons_are_cut_between_characters() {
    let text = "é".repeat(TEXT_BYTES_MAX);
    let mut bytes = bytes_of(&Frame::Goodbye { text: format!("x{text}") });
    let Ok(Some(Frame::Goodbye { text })) = next_frame(&mut bytes) else { panic!("a goodbye comes back") };
    assert_eq!(text.len(), TEXT_BYTES_MAX - 1);
    let exact = Frame::Goodbye { text: "x".repeat(TEXT_BYTES_MAX) };
    assert_eq!(next_frame(&mut bytes_of(&exact)), Ok(Some(exact)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = next_frame(&mut buffer) {}
    }

    #[test]
    fn arbitrary_bodies_do_no_harm(kind in 0..KNOWN_KINDS, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut whole = vec![kind];
        whole.extend(body);
        if let Ok(Some(frame)) = next_frame(&mut raw(&whole)) {
            prop_assert_eq!(next_frame(&mut bytes_of(&frame)), Ok(Some(frame)));
        }
    }
}
