//! What a tap gives, misses and refuses, without a router around it.

use bytes::Bytes;
use longhaul_event::{EventId, Headers, Identity};
use longhaul_topic::Topic;

use super::*;

fn key() -> FlowKey {
    let from = ("eu".to_owned(), "orders".to_owned(), "orders.new-0".to_owned());
    FlowKey { mesh: "test".into(), route: "orders".into(), from, to: ("us".into(), "billing".into()) }
}

fn event(offset: u64) -> Event {
    let mut headers = Headers::builder();
    headers.push("correlation_id", format!("order-{offset}").as_bytes()).unwrap();
    headers.push("Traceparent", b"as it came").unwrap();
    Event {
        offset,
        topic: Topic::parse("orders.new").unwrap(),
        key: Some(Bytes::from(vec![b'k', 0xff])),
        headers: headers.finish(),
        payload: Some(Bytes::from_static(b"secret")),
        time_ms: 1,
        id: EventId(u128::from(offset)),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}

/// Everything that a tap has now: how many it missed, and the offsets of its lines.
async fn drain(tap: &mut Tap) -> (u64, Vec<u64>) {
    let (mut missed_all, mut offsets) = (0, Vec::new());
    // Time is paused: it moves on when there is no line left, a second or two at the most.
    while let Ok(line) = tokio::time::timeout(TICK + TICK, tap.next()).await {
        match line {
            TapLine::Event(event) => offsets.push(event.offset),
            TapLine::Missed { missed, .. } => missed_all += missed,
        }
    }
    (missed_all, offsets)
}

#[tokio::test(start_paused = true)]
async fn a_line_says_everything_but_the_payload() {
    let taps = Taps::new();
    let flow = taps.flow(&key(), End::Out);
    assert!(flow.tapping().is_none(), "nobody taps");
    let mut tap = taps.open(Filter::default()).unwrap();
    flow.tapping().unwrap().see(&event(7), Outcome::Refused, Some("predicate"));
    let line = serde_json::to_value(tap.next().await).unwrap();
    let names: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = vec![
        "timestamp",
        "end",
        "outcome",
        "reason",
        "route",
        "from",
        "shard",
        "offset",
        "to",
        "topic",
        "key",
        "event",
        "correlation_id",
        "traceparent",
        "payload_bytes",
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(
        (&line["from"], &line["to"], &line["shard"]),
        (&"eu/orders".into(), &"us/billing".into(), &"orders.new-0".into())
    );
    assert_eq!(
        (&line["end"], &line["outcome"], &line["reason"]),
        (&"out".into(), &"refused".into(), &"predicate".into())
    );
    assert_eq!((&line["correlation_id"], &line["traceparent"]), (&"order-7".into(), &"as it came".into()));
    assert_eq!(
        (&line["key"], &line["event"], &line["payload_bytes"]),
        (&"k\u{fffd}".into(), &format!("{:032x}", 7).into(), &6.into())
    );
    assert!(line["timestamp"].as_str().is_some_and(|at| at.len() == 27 && at.ends_with('Z')), "{line}");
    assert!(!line.to_string().contains("secret"));
    drop(tap);
    assert!(flow.tapping().is_none(), "nobody taps any more");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_read_is_counted_and_nobody_waits() {
    let taps = Taps::new();
    let flow = taps.flow(&key(), End::Out);
    let mut slow = taps.open(Filter::default()).unwrap();
    let pour = |offsets: std::ops::Range<u64>| {
        let tapping = flow.tapping().unwrap();
        offsets.for_each(|offset| tapping.see(&event(offset), Outcome::Sent, None));
    };
    pour(0..u64::from(LINES_PER_SECOND_MAX));
    pour(5_000..5_001);
    let exactly: Vec<u64> = (0..u64::from(LINES_PER_SECOND_MAX)).collect();
    assert_eq!(drain(&mut slow).await, (1, exactly), "one more than it gives in a second");
    // It goes on after that, with whatever comes.
    pour(6_000..6_003);
    assert_eq!(drain(&mut slow).await, (0, vec![6_000, 6_001, 6_002]));
}

#[tokio::test(start_paused = true)]
async fn a_tap_that_waits_for_writes_holds_so_many_and_gives_them_back() {
    let taps = Taps::new();
    let flow = taps.flow(&key(), End::In);
    let events: Vec<_> = (0..HELD_EVENTS_MAX as u64 + 5).map(event).collect();
    assert!(flow.hold(&events).is_empty(), "nobody taps");
    let mut tap = taps.open(Filter::default()).unwrap();
    let held = flow.hold(&events);
    assert_eq!((taps.held.load(Relaxed), drain(&mut tap).await), (HELD_EVENTS_MAX, (5, Vec::new())));
    held.end(|event| (event.offset < 2).then_some((Outcome::Delivered, None)));
    drop(held);
    assert_eq!((taps.held.load(Relaxed), drain(&mut tap).await), (0, (0, vec![0, 1])));
}

#[tokio::test(start_paused = true)]
async fn taps_are_few_and_each_has_its_place_back() {
    let taps = Taps::new();
    let mut open: Vec<_> = (0..TAPS_MAX).map(|_| taps.open(Filter::default()).unwrap()).collect();
    assert_eq!(taps.open(Filter::default()).err(), Some(TapError::TooMany(TAPS_MAX)));
    open.pop();
    assert!(taps.open(Filter::default()).is_ok());
}
