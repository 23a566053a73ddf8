//! Taps at both ends of a flow: what they show of what becomes of events, what they refuse, and that they hold nothing up.

use std::time::Duration;

use longhaul_topology::OnPoison;

use super::broker::Broker;
use super::mesh::{TestMesh, balanced, events, route, wait_for};
use crate::{Outcome, Router, Tap, TapAsked, TapError, TapLine};

const QUIET: Duration = Duration::from_secs(3);

fn tap(router: &Router, asked: TapAsked) -> Tap {
    router.tap(&asked).expect("a tap")
}

fn asked(route: &str) -> TapAsked {
    TapAsked { route: Some(route.into()), ..TapAsked::default() }
}

/// What a tap shows until nothing comes any more: offset, outcome and reason, and how many it missed.
async fn drain(mut tap: Tap) -> (Vec<(u64, Outcome, Option<String>)>, u64) {
    let (mut shown, mut missed_all) = (Vec::new(), 0);
    while let Ok(line) = tokio::time::timeout(QUIET, tap.next()).await {
        match line {
            TapLine::Event(event) => shown.push((event.offset, event.outcome, event.reason)),
            TapLine::Missed { missed, .. } => missed_all += missed,
        }
    }
    (shown, missed_all)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_say_what_becomes_of_each_event() {
    let (source, sink) = (Broker::new(90, true, &["a", "b~"]), Broker::new(91, true, &[]));
    sink.faults(|faults| assert!(faults.poison.insert("a:30".to_owned())));
    let mut parks = route("r", &[0]);
    parks.on_poison = OnPoison::Park;
    let mesh = TestMesh::new(source, vec![sink], vec![parks]).start().await;
    let (out, into) = (tap(mesh.eu(), TapAsked::default()), tap(mesh.us(), asked("r")));
    let only = TapAsked { outcome: Some("skipped".into()), from: Some("eu/source".into()), ..TapAsked::default() };
    let skipped = tap(mesh.eu(), only);
    ["a", "b~"].into_iter().for_each(|shard| mesh.source.publish(shard, 0..50));
    wait_for("the rest", &mesh, || mesh.sinks[0].written("r", "a").len() >= 49 && balanced(&mesh)).await;

    let (shown, missed) = drain(out).await;
    let mut offsets: Vec<_> = shown.iter().map(|(offset, ..)| *offset).collect();
    offsets.sort_unstable();
    // What stands behind the refused event is sent again.
    offsets.dedup();
    assert!(shown.iter().all(|(_, outcome, _)| *outcome == Outcome::Sent), "{shown:?}");
    assert_eq!((offsets, missed), ((0..50).collect(), 0));

    let (shown, missed) = drain(into).await;
    let of = |outcome: Outcome| shown.iter().filter(move |(_, shown, _)| *shown == outcome).collect::<Vec<_>>();
    let mut delivered: Vec<_> = of(Outcome::Delivered).iter().map(|(offset, ..)| *offset).collect();
    delivered.sort_unstable();
    assert_eq!((delivered, missed), ((0..50).filter(|offset| *offset != 30).collect(), 0));
    for outcome in [Outcome::Refused, Outcome::Parked] {
        assert_eq!(of(outcome), [&(30, outcome, Some("as the test wants it".to_owned()))]);
    }

    let (shown, _) = drain(skipped).await;
    assert_eq!(shown, (0..50).map(|offset| (offset, Outcome::Skipped, None)).collect::<Vec<_>>());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_that_nobody_reads_holds_nothing_up_and_says_what_it_missed() {
    let (source, sink) = (Broker::new(92, true, &["a"]), Broker::new(93, true, &[]));
    let mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0])]).start().await;
    let (out, into) = (tap(mesh.eu(), asked("r")), tap(mesh.us(), asked("r")));
    mesh.source.publish("a", 0..5_000);
    wait_for("all of it", &mesh, || mesh.sinks[0].written("r", "a").len() >= 5_000 && balanced(&mesh)).await;
    assert_eq!(mesh.sinks[0].written("r", "a"), events("a", 5_000));
    for (tap, outcome) in [(out, Outcome::Sent), (into, Outcome::Delivered)] {
        let (shown, missed) = drain(tap).await;
        assert_eq!((shown.len(), missed), (1_000, 4_000));
        let expected: Vec<_> = (0..1_000).map(|offset| (offset, outcome, None)).collect();
        assert_eq!(shown, expected, "the first ones, in order");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_come_is_refused_in_a_sentence() {
    let (source, sink) = (Broker::new(94, true, &["a"]), Broker::new(95, true, &[]));
    let mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0])]).start().await;
    let text = |text: &str| Some(text.to_owned());
    for (asked, says) in [
        (asked("nope"), "route: there is no route called \"nope\"; there are r"),
        (TapAsked { from: text("us"), ..asked("r") }, "from, to: the route r does not go from us to anywhere"),
        (TapAsked { to: text("us/sink9"), ..TapAsked::default() }, "from, to: no route goes from anywhere to us/sink9"),
        (TapAsked { topic: text("a.>.b"), ..TapAsked::default() }, "topic: `>` takes the rest of a topic"),
        (TapAsked { event: text("12"), ..TapAsked::default() }, "event: an identity is 32 hex digits"),
        (TapAsked { outcome: text("gone"), ..TapAsked::default() }, "outcome: there is no \"gone\""),
        (
            TapAsked { correlation: text(&"x".repeat(257)), ..TapAsked::default() },
            "correlation: an id is 1 to 256 bytes",
        ),
    ] {
        match mesh.eu().tap(&asked).err() {
            Some(TapError::Wrong(said)) => assert!(said.starts_with(says), "{said}"),
            other => panic!("{asked:?}: {other:?}"),
        }
    }
    let good =
        TapAsked { from: text("eu"), to: text("us/sink0"), correlation: text(&"x".repeat(256)), ..TapAsked::default() };
    assert!(mesh.eu().tap(&good).is_ok() && mesh.us().tap(&good).is_ok());
    mesh.stop().await;
}
