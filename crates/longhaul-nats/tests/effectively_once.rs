//! Effectively once into a real server: in atomic batches and with message ids, while servers and writers die, and long after.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longhaul_broker::{Connector, Poison, SinkError, SinkSpec, Writer};
use longhaul_config::Nats as Access;
use longhaul_event::{Event, Position, Start};
use longhaul_nats::NatsConnector;
use longhaul_test_brokers::nats::Nats;
use longhaul_topology::{Guarantee, SinkKind};
use serde_json::json;
use support::*;
use tokio::time::timeout;

const EVENTS: u64 = 20_000;
const WRITE: u64 = 100;
/// A window that a test can outlast.
const SHORT: Duration = Duration::from_secs(2);

fn at(offset: u64) -> Position {
    Position { incarnation: 1, offset }
}

fn events(from: u64, to: u64) -> Vec<Event> {
    (from..to).map(|n| event(n, "a.x")).collect()
}

async fn put(writer: &mut dyn Writer, from: u64, to: u64) -> Result<(), SinkError> {
    timeout(LIMIT, writer.write_with_cursor(events(from, to), at(to - 1))).await.expect("an answer in time")
}

/// The numbers of all events in stream S, in order.
async fn stored(nats: &Nats, connector: &NatsConnector) -> Vec<u64> {
    let js = async_nats::jetstream::new(client(nats).await);
    let count = js.get_stream("S").await.expect("S").cached_info().state.last_sequence;
    let source = connector.source(named("S", &[])).expect("a source");
    let mut reader = reader(&*source, &shard(&*source).await, Start::Earliest).await;
    let mut numbers = Vec::new();
    let mut last = 0;
    while last < count {
        let batch = read(&mut *reader).await.expect("a batch");
        last = batch.last;
        numbers.extend(batch.events.iter().map(number));
    }
    numbers
}

fn once_and_in_order(numbers: &[u64], count: u64) {
    let wrong = numbers.iter().copied().zip(0..).find(|(is, was)| is != was);
    assert!(
        numbers.len() as u64 == count && wrong.is_none(),
        "{} events of {count}, first wrong: {wrong:?}",
        numbers.len()
    );
}

/// Writes all as a router does: eight writes under way, a commit now and then, again after the cursor whenever something fails.
async fn write_all(connector: &NatsConnector, flow: &str) -> u64 {
    let (flow, mut openings) = (flow_of(flow), 0);
    'open: loop {
        let (mut writer, cursor) = writer(connector, once_spec(), &flow).await;
        openings += 1;
        let mut next = cursor.map_or(0, |offset| offset + 1);
        while next < EVENTS {
            let to = (next + WRITE * 8).min(EVENTS);
            let writes: Vec<_> = (next..to)
                .step_by(WRITE as usize)
                .map(|from| (from, (from + WRITE).min(to)))
                .map(|(from, to)| writer.write_with_cursor(events(from, to), at(to - 1)))
                .collect();
            let written = timeout(LIMIT, futures::future::try_join_all(writes)).await.expect("an answer in time");
            // Every third round is not committed: what is there must be found all the same.
            let commits = !(next / WRITE).is_multiple_of(3);
            if written.is_err() || (commits && writer.commit(at(to - 1)).await.is_err()) {
                continue 'open;
            }
            next = to;
        }
        return openings;
    }
}

fn flow_of(route: &str) -> longhaul_topology::FlowKey {
    flow(route)
}

async fn killed_again_and_again(mut nats: Nats) {
    let connector = connector(access(&nats));
    up(&connector).await;
    let to_write = connector.clone();
    let writing = tokio::spawn(async move { write_all(&to_write, "kill").await });
    let mut kills: u64 = 0;
    while !writing.is_finished() && kills < 5 {
        // The interesting moment is a random one; long enough for some writes to get through.
        tokio::time::sleep(Duration::from_millis(130 + 70 * (kills % 3))).await;
        nats.kill();
        nats.restart().expect("it comes back");
        up(&connector).await;
        kills += 1;
    }
    let openings = timeout(2 * LIMIT, writing).await.expect("written in time").expect("no panic");
    assert!(kills >= 2 && openings >= 2, "{kills} kills, {openings} openings: the test shows nothing");
    once_and_in_order(&stored(&nats, &connector).await, EVENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_server_repeat_nothing_in_atomic_batches() {
    let nats = Nats::start_with("").expect("a server");
    atomic_stream(&nats, "S", &["a.>"]).await;
    killed_again_and_again(nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_server_repeat_nothing_with_message_ids() {
    let nats = Nats::start_with("").expect("a server");
    stream(&nats, "S", &["a.>"]).await;
    killed_again_and_again(nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_an_older_server_repeat_nothing_with_message_ids() {
    let Some(nats) = older_server("kills_of_an_older_server_repeat_nothing_with_message_ids") else { return };
    stream(&nats, "S", &["a.>"]).await;
    killed_again_and_again(nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_is_fenced_by_the_cursor_among_the_events() {
    let nats = Nats::start_with("").expect("a server");
    atomic_stream(&nats, "S", &["a.>"]).await;
    let (one, two) = (connector(access(&nats)), connector(access(&nats)));
    let (mut zombie, _) = writer(&one, once_spec(), &flow("f")).await;
    // Before anything is there, too: both begin with no cursor.
    let (mut first, _) = writer(&two, once_spec(), &flow("f")).await;
    put(&mut *first, 0, 10).await.expect("written");
    fenced(put(&mut *zombie, 0, 10).await);
    drop((first, zombie));

    let (mut zombie, cursor) = writer(&one, once_spec(), &flow("f")).await;
    assert_eq!(cursor, Some(9), "the cursor came with the events, without a commit");
    put(&mut *zombie, 10, 20).await.expect("written");
    let under_way: Vec<_> =
        (20..40).map(|n| zombie.write_with_cursor(events(n * 100, n * 100 + 100), at(n * 100 + 99))).collect();
    let (mut heir, cursor) = writer(&two, once_spec(), &flow("f")).await;
    let next = cursor.expect("a cursor") + 1;
    let settled = timeout(LIMIT, futures::future::join_all(under_way)).await.expect("in time");
    let confirmed = settled.iter().filter(|result| result.is_ok()).count() as u64;
    assert!(put(&mut *zombie, 4_000, 4_010).await.is_err(), "a zombie goes on");
    put(&mut *heir, 5_000, 5_010).await.expect("whoever opened last writes");
    assert!(
        2_000 + confirmed * 100 <= next.max(2_000),
        "{confirmed} writes were confirmed, the cursor was before {next}"
    );
    let there = stored(&nats, &two).await;
    assert!(there.iter().copied().eq((0..20).chain(2_000..next.max(2_000)).chain(5_000..5_010)), "{next}: {there:?}");
}

fn fenced(result: Result<(), SinkError>) {
    match result {
        Err(SinkError::Transient(text)) => assert!(text.contains("another router"), "{text}"),
        answer => panic!("a zombie is told {answer:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_too_short_is_refused_with_what_to_do() {
    let nats = Nats::start_with("").expect("a server");
    let short = json!({ "name": "S", "subjects": ["a.>"], "duplicate_window": 119_000_000_000_u64 });
    let js = create(&nats, "CREATE", short).await;
    let connector = connector(access(&nats));
    let (mut writer, _) = writer(&connector, once_spec(), &flow("f")).await;
    match put(&mut *writer, 0, 10).await {
        Err(SinkError::Config(text)) => {
            for word in ["119 s", "120 s", "duplicate_window", "allow_atomic", "$LONGHAUL.cursor.S.>"] {
                assert!(text.contains(word), "{text}");
            }
        }
        answer => panic!("a stream that forgets too early is {answer:?}"),
    }
    assert_eq!(js.get_stream("S").await.expect("S").cached_info().state.messages, 0, "nothing was written");
    let core = SinkSpec { sink: SinkKind::CoreNats, guarantee: Guarantee::EffectivelyOnce };
    assert!(matches!(connector.sink(core), Err(SinkError::Config(_))));
}

/// Writes 300 with a cursor at 99, sleeps for longer than the window, goes on from the cursor to 400.
async fn after_a_long_sleep(nats: &mut Nats, spec: SinkSpec, restart: bool) -> Vec<u64> {
    let connector = NatsConnector::with_window_min(access(nats), context(), SHORT).expect("a connector");
    up(&connector).await;
    let once = spec.guarantee == Guarantee::EffectivelyOnce;
    let write = |writer: &mut Box<dyn Writer>, from, to| match once {
        true => writer.write_with_cursor(events(from, to), at(to - 1)),
        false => writer.write(events(from, to)),
    };
    let (mut first, _) = writer(&connector, spec.clone(), &flow("f")).await;
    write(&mut first, 0, 100).await.expect("written");
    first.commit(at(99)).await.expect("committed");
    write(&mut first, 100, 300).await.expect("written");
    drop(first);
    // Nothing else lets a window of the server pass.
    tokio::time::sleep(SHORT * 2).await;
    if restart {
        nats.kill();
        nats.restart().expect("it comes back");
        up(&connector).await;
    }
    let (mut second, cursor) = writer(&connector, spec, &flow("f")).await;
    let next = cursor.expect("a cursor") + 1;
    write(&mut second, next, 400).await.expect("written");
    stored(nats, &connector).await
}

async fn short_window() -> Nats {
    let nats = Nats::start_with("").expect("a server");
    let window = u64::try_from(SHORT.as_nanos()).expect("short");
    create(&nats, "CREATE", json!({ "name": "S", "subjects": ["a.>"], "duplicate_window": window })).await;
    nats
}

#[tokio::test(flavor = "multi_thread")]
async fn longer_than_the_window_away_repeats_nothing() {
    let (mut plain, mut once, mut again) = (short_window().await, short_window().await, short_window().await);
    let (plain, once, again) = tokio::join!(
        after_a_long_sleep(&mut plain, sink_spec(), false),
        after_a_long_sleep(&mut once, once_spec(), false),
        after_a_long_sleep(&mut again, once_spec(), true),
    );
    assert_eq!(plain.len(), 600, "at least once repeats them here, or the test shows nothing");
    once_and_in_order(&once, 400);
    once_and_in_order(&again, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_takes_its_batch_with_it_and_is_then_refused_alone() {
    let nats = Nats::start_with("").expect("a server");
    atomic_stream(&nats, "S", &["a.>"]).await;
    let connector = connector(access(&nats));
    up(&connector).await;
    let (mut stale, _) = writer(&connector, once_spec(), &flow("f")).await;
    put(&mut *stale, 0, 5).await.expect("written");
    // The limit shrinks behind the writer's back.
    let shrunk =
        json!({ "name": "S", "subjects": ["a.>", "$LONGHAUL.cursor.S.>"], "allow_atomic": true, "max_msg_size": 800 });
    create(&nats, "UPDATE", shrunk).await;
    let mut some = events(5, 10);
    some[2].payload = Some(Bytes::from(vec![b'1'; 1_000]));
    let vague = stale.write_with_cursor(some.clone(), at(9)).await;
    assert!(matches!(vague, Err(SinkError::Transient(_))), "{vague:?}");
    drop(stale);
    once_and_in_order(&stored(&nats, &connector).await, 5);
    let (mut fresh, cursor) = writer(&connector, once_spec(), &flow("f")).await;
    assert_eq!(cursor, Some(4), "a batch is there whole or not at all");
    let refused = fresh.write_with_cursor(some, at(9)).await;
    assert!(matches!(refused, Err(SinkError::Poison { offset: 7, kind: Poison::TooLarge, .. })), "{refused:?}");
    drop(fresh);
    let (mut last, cursor) = writer(&connector, once_spec(), &flow("f")).await;
    assert_eq!(cursor, Some(6), "everything before the refused event, and the cursor with it");
    put(&mut *last, 8, 10).await.expect("written");
    assert_eq!(stored(&nats, &connector).await, [0, 1, 2, 3, 4, 5, 6, 8, 9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_the_stream_lost_is_in_the_bucket() {
    let nats = Nats::start_with("").expect("a server");
    let js = atomic_stream(&nats, "S", &["a.>"]).await;
    let connector = connector(access(&nats));
    let (mut first, _) = writer(&connector, once_spec(), &flow("f")).await;
    put(&mut *first, 0, 2_500).await.expect("more than one batch holds");
    first.commit(at(2_499)).await.expect("committed");
    once_and_in_order(&stored(&nats, &connector).await, 2_500);
    js.get_stream("S").await.expect("S").purge().await.expect("purged");
    drop(first);
    assert_eq!(writer(&connector, once_spec(), &flow("f")).await.1, Some(2_499));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_flow_over_two_streams_is_exact_and_a_mixed_one_is_refused() {
    let nats = Nats::start_with("").expect("a server");
    atomic_stream(&nats, "S", &["a.>"]).await;
    let js = atomic_stream(&nats, "T", &["t.>"]).await;
    stream(&nats, "PLAIN", &["p.>"]).await;
    let connector = connector(access(&nats));
    let turns = |from: u64, to: u64| (from..to).map(|n| event(n, if n % 3 == 0 { "t.x" } else { "a.x" })).collect();
    let (mut first, _) = writer(&connector, once_spec(), &flow("f")).await;
    first.write_with_cursor(turns(0, 50), at(49)).await.expect("written");
    drop(first);
    let (mut second, cursor) = writer(&connector, once_spec(), &flow("f")).await;
    assert_eq!(cursor, Some(49), "whatever stream the last event is in");
    second.write_with_cursor(turns(50, 90), at(89)).await.expect("written");
    let mixed = second.write_with_cursor(vec![event(90, "p.x")], at(90)).await;
    assert!(matches!(&mixed, Err(SinkError::Config(text)) if text.contains("PLAIN")), "{mixed:?}");
    let there = stored(&nats, &connector).await;
    assert!(there.iter().copied().eq((0..90).filter(|n| n % 3 != 0)), "{there:?}");
    let state = js.get_stream("T").await.expect("T").cached_info().state.clone();
    assert!(state.messages >= 30, "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_made_takes_atomic_batches() {
    let nats = Nats::start_with("").expect("a server");
    let connector: Arc<NatsConnector> = connector(Access { create_streams: true, ..access(&nats) });
    let (mut first, _) = writer(&connector, once_spec(), &flow("f")).await;
    let made = put(&mut *first, 0, 10).await;
    assert!(matches!(made, Err(SinkError::Transient(_))), "{made:?}");
    drop(first);
    let (mut second, _) = writer(&connector, once_spec(), &flow("f")).await;
    put(&mut *second, 0, 10).await.expect("written");
    drop(second);
    assert_eq!(writer(&connector, once_spec(), &flow("f")).await.1, Some(9), "the cursor came with the events");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_flows_than_a_stream_takes_batches_go_on_side_by_side() {
    let nats = Nats::start_with("").expect("a server");
    atomic_stream(&nats, "S", &["a.>"]).await;
    let routers = [connector(access(&nats)), connector(access(&nats))];
    for router in &routers {
        up(router).await;
    }
    let one = |n: usize| {
        let router = routers[n % 2].clone();
        async move {
            let (mut writer, _) = writer(&router, once_spec(), &flow(&format!("f{n}"))).await;
            for from in (0..900).step_by(450) {
                put(&mut *writer, from, from + 450).await.expect("nobody is turned away");
            }
        }
    };
    futures::future::join_all((0..80).map(one)).await;
    let mut there = stored(&nats, &routers[0]).await;
    there.sort_unstable();
    assert!(there.into_iter().eq((0..900).flat_map(|n| std::iter::repeat_n(n, 80))), "every event of every flow once");
}
