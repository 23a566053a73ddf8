//! The stages of the suite, in the order in which [`run`](super::run) calls them.

use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, try_join_all};
use longhaul_event::{Event, Position, Start};
use longhaul_topology::FlowKey;
use tokio::time::{Instant, timeout};

use super::events::{batch, event, offset_of};
use super::tail::{Found, Tail, Tails, brief};
use super::{Expect, Subject, check};
use crate::{Gap, Health, Opened, Poison, Shard, Sink, SinkError, Source, SourceError, Writer};

const UP_MAX: Duration = Duration::from_secs(30);
pub(super) const WRITE_MAX: Duration = Duration::from_secs(60);
/// Events of the main stage, and how many of them go into one write.
const MAIN_EVENTS: usize = 500;
const WRITE_EVENTS: usize = 47;
/// Where the later stages' events begin, so that no two stages write the same one.
const TOMBSTONE_FROM: usize = 10_000;
const POISON_FROM: usize = 20_000;
const AGAIN_FROM: usize = 30_000;
const AGAIN_EVENTS: usize = 100;
/// How long nothing must happen for "nothing more comes" to be believed, and for acknowledgements without an answer to get there.
const QUIET: Duration = Duration::from_secs(1);

/// The connector finds its broker by itself.
pub(super) async fn health_comes_up(subject: &Subject) {
    let mut health = subject.connector.health();
    let up = timeout(UP_MAX, health.wait_for(|health| *health == Health::Up)).await;
    match up {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => panic!("the connector gave up telling its health"),
        Err(_) => panic!("health is {:?} after {UP_MAX:?}, not Up", subject.connector.health().borrow().clone()),
    }
}

/// The shards are listed, for every topic where shards have one.
pub(super) async fn shards_appear(subject: &Subject, source: &dyn Source) -> Vec<Shard> {
    let mut watch = source.shards();
    let complete = |shards: &[Shard]| {
        !shards.is_empty()
            && (shards.iter().any(|shard| shard.topic.is_none())
                || subject.topics.iter().all(|topic| shards.iter().any(|shard| shard.topic.as_ref() == Some(topic))))
    };
    let found = timeout(UP_MAX, watch.wait_for(|shards| complete(shards))).await;
    let shards: Vec<Shard> = match found {
        Ok(Ok(shards)) => shards.to_vec(),
        Ok(Err(_)) => panic!("the source gave up listing its shards"),
        Err(_) => panic!("the shards are not all there after {UP_MAX:?}: {:?}", source.shards().borrow()),
    };
    let mut names: Vec<&str> = shards.iter().map(|shard| shard.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), shards.len(), "two shards have the same name: {shards:?}");
    assert!(shards.iter().all(|shard| !shard.name.is_empty()), "a shard has no name");
    shards
}

/// Opens a flow, trying again while the broker is away or still holds the lock of a writer that was dropped just now.
pub(super) async fn open(sink: &dyn Sink, flow: &FlowKey) -> Opened {
    let end = Instant::now() + UP_MAX;
    loop {
        match sink.open(flow, None).await {
            Ok(opened) => return opened,
            Err(SinkError::Transient(_)) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("the flow does not open: {error}"),
        }
    }
}

/// Writes as the router does for that guarantee.
fn put(subject: &Subject, writer: &mut dyn Writer, events: Vec<Event>) -> BoxFuture<'static, Result<(), SinkError>> {
    match events.last() {
        Some(last) if subject.is_effectively_once() => {
            let cursor = Position { incarnation: 7, offset: last.offset };
            writer.write_with_cursor(events, cursor)
        }
        _ => writer.write(events),
    }
}

async fn write(subject: &Subject, writer: &mut dyn Writer, events: Vec<Event>) {
    let written = timeout(WRITE_MAX, put(subject, writer, events)).await;
    written.expect("a write resolves in time").unwrap_or_else(|error| panic!("a write failed: {error}"));
}

pub(super) async fn commit(writer: &mut dyn Writer, cursor: Position) {
    let committed = timeout(WRITE_MAX, writer.commit(cursor)).await;
    committed.expect("a commit resolves in time").unwrap_or_else(|error| panic!("a commit failed: {error}"));
}

/// Many writes under way at once, by one writer.
pub(super) async fn write_main(subject: &Subject, expect: &Expect, sink: &dyn Sink) -> Vec<Event> {
    let Opened { mut writer, cursor } = open(sink, &subject.flow("main")).await;
    assert_eq!(cursor, None, "a flow that never wrote has no cursor");
    let events = batch(&subject.topics, 0, MAIN_EVENTS);
    let writes: Vec<_> = events.chunks(WRITE_EVENTS).map(|chunk| put(subject, &mut *writer, chunk.to_vec())).collect();
    let written = timeout(WRITE_MAX, try_join_all(writes)).await.expect("the writes resolve in time");
    written.unwrap_or_else(|error| panic!("a write failed: {error}"));
    if !subject.is_effectively_once() {
        write(subject, &mut *writer, Vec::new()).await;
    }
    if expect.cursor {
        commit(&mut *writer, Position { incarnation: 7, offset: offset_of(MAIN_EVENTS - 1) }).await;
    }
    events
}

/// A release is a note, not a call to the broker.
pub(super) fn release_does_not_block(tails: &mut Tails) {
    let begin = Instant::now();
    for tail in tails.iter_mut() {
        for _ in 0..1_000 {
            tail.reader.release(tail.covered);
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(2), "releasing took {:?}: it blocks", begin.elapsed());
}

/// A replayable shard gives the same again from its beginning, from a time before all, and from behind any position.
pub(super) async fn replays(source: &dyn Source, shards: &[Shard], read: &[Found]) {
    for shard in shards.iter().filter(|shard| shard.replayable) {
        let of_shard: Vec<&Found> = read.iter().filter(|found| found.shard == shard.name).collect();
        reads_the_same(source, shard, Start::Earliest, &of_shard).await;
        reads_the_same(source, shard, Start::Time(1), &of_shard).await;
        for at in [0, of_shard.len() / 3, of_shard.len().saturating_sub(2)] {
            let Some(found) = of_shard.get(at) else { continue };
            let position = Position { incarnation: found.incarnation, offset: found.event.offset };
            reads_the_same(source, shard, Start::After(position), &of_shard[at + 1..]).await;
        }
    }
}

async fn reads_the_same(source: &dyn Source, shard: &Shard, start: Start, expected: &[&Found]) {
    let mut tail = Tail::open(source, shard, start).await;
    if let Start::After(position) = start {
        assert_eq!(tail.reader.start(), position.offset, "{}: start() of a reader after {position:?}", shard.name);
    }
    let end = Instant::now() + WRITE_MAX;
    let mut again: Vec<Found> = Vec::new();
    while again.len() < expected.len() {
        assert!(Instant::now() < end, "{}: {} of {} came again", shard.name, again.len(), expected.len());
        again.extend(tail.read_impatiently(50).await);
    }
    assert_eq!(again.len(), expected.len(), "{} from {start:?}: as many as the first time", shard.name);
    for (first, second) in expected.iter().zip(&again) {
        assert_eq!(first.incarnation, second.incarnation, "{}: one life, one incarnation", shard.name);
        assert_eq!(first.event, second.event, "{} from {start:?} gives the same events again", shard.name);
    }
}

/// Positions that a replayable shard does not have are gaps, never something near.
pub(super) async fn starts_elsewhere(source: &dyn Source, shards: &[Shard], read: &[Found]) {
    for shard in shards.iter().filter(|shard| shard.replayable) {
        let Some(last) = read.iter().rfind(|found| found.shard == shard.name) else { continue };
        let other = Position { incarnation: last.incarnation ^ 1, offset: last.event.offset };
        match source.open(shard, Start::After(other)).await {
            Err(SourceError::Gap(Gap::Recreated { cursor, found })) => {
                assert_eq!((cursor, found), (other.incarnation, last.incarnation), "which incarnations a gap names");
            }
            answer => panic!("{}: a cursor of another incarnation is {}", shard.name, told(&answer.map(|_| ()))),
        }
        let beyond = Position { incarnation: last.incarnation, offset: last.event.offset + 1_000_000 };
        match source.open(shard, Start::After(beyond)).await {
            Err(SourceError::Gap(Gap::Truncated { cursor, end })) => {
                assert!(
                    cursor == beyond.offset && end > last.event.offset && end < cursor,
                    "a cut at {end}, cursor {cursor}"
                );
            }
            answer => panic!("{}: a cursor beyond the end is {}", shard.name, told(&answer.map(|_| ()))),
        }
    }
}

fn told(answer: &Result<(), SourceError>) -> String {
    match answer {
        Ok(()) => "accepted in silence".to_owned(),
        Err(error) => format!("refused as {error:?}"),
    }
}

/// The last cursor of a flow is found by the next open of it and by no other flow.
pub(super) async fn cursors(subject: &Subject, expect: &Expect, sink: &dyn Sink) {
    if !expect.cursor {
        return;
    }
    let (flow, other) = (subject.flow("main"), subject.flow("other"));
    let Opened { mut writer, cursor } = open(sink, &flow).await;
    assert_eq!(
        cursor,
        Some(Position { incarnation: 7, offset: offset_of(MAIN_EVENTS - 1) }),
        "the cursor of the last commit"
    );
    commit(&mut *writer, Position { incarnation: 7, offset: 50_000 }).await;
    // The start before offset 0, in an incarnation that fills its number.
    let start = Position { incarnation: u64::MAX - 1, offset: u64::MAX };
    commit(&mut *writer, start).await;
    let Opened { writer: second, cursor } = open(sink, &other).await;
    assert_eq!(cursor, None, "a cursor of one flow is not another's");
    drop((writer, second));
    assert_eq!(open(sink, &flow).await.cursor, Some(start), "the last of several commits is the cursor");
    assert_eq!(open(sink, &other).await.cursor, None, "opening a flow alone leaves no cursor");
}

/// An event without a payload is written and comes back as the table says.
pub(super) async fn tombstone(subject: &Subject, expect: &Expect, sink: &dyn Sink, tails: &mut Tails) {
    let mut events = batch(&subject.topics, TOMBSTONE_FROM, TOMBSTONE_FROM + 8);
    for event in events.iter_mut().skip(3) {
        event.payload = None;
    }
    let mut writer = open(sink, &subject.flow("tombstone")).await.writer;
    write(subject, &mut *writer, events.clone()).await;
    let read = tails.collect(&events).await;
    for found in &read {
        let was = events.iter().find(|event| event.id == found.event.id).expect("collect lets only these through");
        check::restored(expect, was, &found.event);
    }
}

/// An event that is too large is named; what stands before it is written; what stands behind it is not confirmed.
pub(super) async fn poison_too_large(subject: &Subject, expect: &Expect, sink: &dyn Sink, tails: &mut Tails) {
    if subject.too_large_bytes == 0 {
        return;
    }
    let topic = &subject.topics[0];
    let at = |index| event(POISON_FROM + index, offset_of(POISON_FROM + index), topic);
    let (before, behind, later) = ([at(0), at(1)], at(3), at(4));
    let mut large = at(2);
    large.payload = Some(Bytes::from(vec![b'x'; subject.too_large_bytes]));

    let flow = subject.flow("poison");
    let mut writer = open(sink, &flow).await.writer;
    let first = put(subject, &mut *writer, [&before[..], &[large.clone(), behind.clone()]].concat());
    let second = put(subject, &mut *writer, vec![later.clone()]);
    match timeout(WRITE_MAX, first).await.expect("a refusal comes in time") {
        Err(SinkError::Poison { offset, kind: Poison::TooLarge, .. }) => {
            assert_eq!(offset, large.offset, "the offset of the event that is too large");
        }
        answer => panic!("an event of {} bytes ends in {answer:?}, not in a refusal", subject.too_large_bytes),
    }
    let second = timeout(WRITE_MAX, second).await.expect("a write behind a refusal resolves in time");
    assert!(second.is_err(), "a write behind a refused event is confirmed");
    let spent = timeout(WRITE_MAX, put(subject, &mut *writer, vec![later.clone()]))
        .await
        .expect("a spent writer answers in time");
    assert!(spent.is_err(), "a writer goes on after a refusal");
    drop(writer);

    if expect.stops_at_poison || subject.is_effectively_once() {
        tails.collect(&before).await;
        nothing_more(tails).await;
    } else {
        let mut missing: Vec<_> = before.iter().map(|event| event.id).collect();
        let end = Instant::now() + WRITE_MAX;
        while !missing.is_empty() {
            assert!(Instant::now() < end, "what stands before a refused event is not there");
            let found = tails.read_once().await;
            missing.retain(|id| !found.iter().any(|found| found.event.id == *id));
        }
        drain(tails).await;
    }
    // The flow goes on behind the refused event.
    let mut writer = open(sink, &flow).await.writer;
    let rest = [at(5), at(6)];
    write(subject, &mut *writer, rest.to_vec()).await;
    tails.collect(&rest).await;
}

/// Reads until it is quiet.
async fn drain(tails: &mut Tails) -> Vec<Found> {
    let mut found = Vec::new();
    let mut end = Instant::now() + QUIET;
    while Instant::now() < end {
        let more = tails.read_once().await;
        if !more.is_empty() {
            end = Instant::now() + QUIET;
        }
        found.extend(more);
    }
    found
}

/// No event comes that nobody wrote.
pub(super) async fn nothing_more(tails: &mut Tails) {
    let more = drain(tails).await;
    let more: Vec<_> = more.iter().map(brief).collect();
    assert!(more.is_empty(), "events came that were not written, or not to be: {more:?}");
}

/// Where reading consumes: what was not released comes again to the next reader in order, what was released does not.
pub(super) async fn unreleased_comes_again(
    subject: &Subject,
    expect: &Expect,
    source: &dyn Source,
    sink: &dyn Sink,
    mut tails: Tails,
) {
    let events = batch(&subject.topics, AGAIN_FROM, AGAIN_FROM + AGAIN_EVENTS);
    for tail in tails.iter_mut() {
        tail.reader.release(tail.covered);
    }
    let mut writer = open(sink, &subject.flow("again")).await.writer;
    write(subject, &mut *writer, events.clone()).await;
    let read = tails.collect(&events).await;
    for tail in tails.iter_mut() {
        let of_shard: Vec<_> = read.iter().filter(|found| found.shard == tail.shard.name).collect();
        if let Some(half) = of_shard.get(of_shard.len() / 2) {
            tail.reader.release(half.event.offset);
        }
    }
    // A release has no answer: give it the time to get there, and see that nothing comes meanwhile.
    nothing_more(&mut tails).await;
    for tail in tails.into_tails() {
        let Tail { shard, reader, .. } = tail;
        drop(reader);
        if shard.replayable || !expect.redelivers {
            continue;
        }
        let of_shard: Vec<&Found> = read.iter().filter(|found| found.shard == shard.name).collect();
        let expected: Vec<_> = of_shard.iter().skip(of_shard.len() / 2 + 1).map(|found| found.event.id).collect();
        let mut next = Tail::open(source, &shard, Start::Latest).await;
        let mut again = Vec::new();
        let end = Instant::now() + WRITE_MAX;
        while again.len() < expected.len() {
            assert!(
                Instant::now() < end,
                "{}: {} of {} unreleased events came again",
                shard.name,
                again.len(),
                expected.len()
            );
            again.extend(next.read_impatiently(50).await.into_iter().map(|found| found.event.id));
        }
        assert!(again == expected, "{}: exactly what was not released comes again, in order", shard.name);
        next.reader.release(next.covered);
    }
}
