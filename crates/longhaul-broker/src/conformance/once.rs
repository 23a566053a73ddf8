//! Stages for sinks that take events and their cursor as one: what is there and what the cursor says is the same, whenever a writer ends.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use longhaul_event::{Event, Position};
use longhaul_topology::FlowKey;
use tokio::time::timeout;

use super::events::{batch, event, offset_of};
use super::stages::{WRITE_MAX, commit, nothing_more, open};
use super::tail::Tails;
use super::{Subject, check};
use crate::{Opened, Poison, Sink, SinkError};

/// Where the events of these stages begin.
const ONCE_FROM: usize = 40_000;
const ONCE_EVENTS: usize = 1_200;
const POISON_FROM: usize = 50_000;
/// Writers that end in the middle, at least.
const ROUNDS_MIN: usize = 16;
const INCARNATION: u64 = 9;

/// The cursor behind event `index`: its offset and, every other time, a little more, as where a route left events out.
fn cursor_of(index: usize) -> Position {
    Position { incarnation: INCARNATION, offset: offset_of(index) + (index % 2) as u64 }
}

/// The first event behind a cursor.
fn behind(cursor: Option<Position>) -> usize {
    let covered = |index: &usize| cursor.is_some_and(|cursor| offset_of(*index) <= cursor.offset);
    (ONCE_FROM..ONCE_FROM + ONCE_EVENTS).find(|index| !covered(index)).unwrap_or(ONCE_FROM + ONCE_EVENTS)
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }
}

type Write = (usize, BoxFuture<'static, Result<(), SinkError>>);

/// A writer that is dropped at some moment with writes under way, opened again, continued from its cursor, over and over: everything is
/// there once and in order, and no cursor is behind what was confirmed or beyond what was sent.
pub(super) async fn dropped_writers(subject: &Subject, sink: &dyn Sink, tails: &mut Tails, shards: usize) {
    let flow = subject.flow("once");
    let events = batch(&subject.topics, ONCE_FROM, ONCE_FROM + ONCE_EVENTS);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut confirmed, mut sent) = (None, None);
    let mut rounds = 0;
    let mut read = Vec::new();
    let mut known = 0;
    loop {
        let Opened { mut writer, cursor } = open(sink, &flow).await;
        let next = check_cursor(cursor, confirmed, sent);
        // What the cursor covers is there, and nothing beyond it: the next collect would not expect that.
        read.extend(tails.collect(&events[known..next - ONCE_FROM]).await);
        known = next - ONCE_FROM;
        if next == ONCE_FROM + ONCE_EVENTS {
            break;
        }
        let (mut writes, mut from): (Vec<Write>, usize) = (Vec::new(), next);
        for _ in 0..1 + dice.below(6) {
            let to = (from + 1 + dice.below(24)).min(ONCE_FROM + ONCE_EVENTS);
            if from < to {
                let chunk = events[from - ONCE_FROM..to - ONCE_FROM].to_vec();
                writes.push((to - 1, writer.write_with_cursor(chunk, cursor_of(to - 1))));
                from = to;
            }
        }
        sent = sent.max(Some(from - 1));
        confirmed = confirmed.max(let_some_settle(writes, rounds, &mut dice).await);
        // Every third writer commits before it ends, as flows do.
        if let Some(last) = confirmed.filter(|_| rounds % 3 == 2) {
            commit(&mut *writer, cursor_of(last)).await;
        }
        drop(writer);
        rounds += 1;
    }
    assert!(rounds >= ROUNDS_MIN, "only {rounds} writers ended in the middle: the stage shows too little");
    check::all_arrived(&super::expect_of(subject), &events, &read, shards);
    nothing_more(tails).await;
    commits_resolve(sink, &flow, events.last().expect("some")).await;
}

/// The first event that must be written again.
fn check_cursor(cursor: Option<Position>, confirmed: Option<usize>, sent: Option<usize>) -> usize {
    let next = behind(cursor);
    if let Some(cursor) = cursor {
        assert_eq!(cursor.incarnation, INCARNATION, "the incarnation of a cursor");
    }
    let least = confirmed.map_or(ONCE_FROM, |last| last + 1);
    assert!(next >= least, "the cursor {cursor:?} is behind what was confirmed, up to {confirmed:?}");
    let most = sent.map_or(ONCE_FROM, |last| last + 1);
    assert!(next <= most, "the cursor {cursor:?} is beyond what was sent, up to {sent:?}");
    next
}

/// Gives the writes up at some moment and says which was the last that had resolved.
async fn let_some_settle(mut writes: Vec<Write>, round: usize, dice: &mut Dice) -> Option<usize> {
    match round % 4 {
        // Not polled at all.
        0 => None,
        // As far as they get in a moment.
        1 => {
            let results: Vec<_> = writes.iter_mut().map(|(last, write)| (*last, write.now_or_never())).collect();
            resolved(results)
        }
        2 => {
            let wait = Duration::from_micros(dice.below(20_000) as u64);
            let all = writes.into_iter().map(|(last, write)| async move { (last, timeout(wait, write).await.ok()) });
            resolved(join_all(all).await)
        }
        // The first ones, to their end.
        _ => {
            let some = 1 + dice.below(writes.len());
            let first = writes.drain(..some).map(|(last, write)| async move { (last, Some(write.await)) });
            let first = timeout(WRITE_MAX, join_all(first)).await.expect("the writes resolve in time");
            assert!(first.iter().all(|(_, result)| matches!(result, Some(Ok(())))), "a write failed: {first:?}");
            resolved(first)
        }
    }
}

fn resolved(results: Vec<(usize, Option<Result<(), SinkError>>)>) -> Option<usize> {
    results.into_iter().filter(|(_, result)| matches!(result, Some(Ok(())))).map(|(last, _)| last).max()
}

/// A commit of what stands there resolves, a commit beyond it moves the cursor, and both are found again.
async fn commits_resolve(sink: &dyn Sink, flow: &FlowKey, last: &Event) {
    let there = Position { incarnation: INCARNATION, offset: last.offset + 1 };
    for position in [there, there, Position { offset: there.offset + 100, ..there }] {
        let mut writer = open(sink, flow).await.writer;
        commit(&mut *writer, position).await;
        drop(writer);
        assert_eq!(open(sink, flow).await.cursor, Some(position), "the cursor of a commit behind the last write");
    }
}

/// A refused event is refused alone: what stands before it is there and the cursor stands between both; nothing behind it is there.
pub(super) async fn poison(subject: &Subject, sink: &dyn Sink, tails: &mut Tails) {
    if subject.too_large_bytes == 0 {
        return;
    }
    let flow = subject.flow("once-poison");
    let at = |index: usize| event(POISON_FROM + index, offset_of(POISON_FROM + index), &subject.topics[index % 2]);
    let cursor = |index: usize| Position { incarnation: INCARNATION, offset: offset_of(POISON_FROM + index) };
    let mut large = at(2);
    large.payload = Some(Bytes::from(vec![b'x'; subject.too_large_bytes]));
    let mut writer = open(sink, &flow).await.writer;
    let first = writer.write_with_cursor(vec![at(0), at(1), large, at(3)], cursor(3));
    let second = writer.write_with_cursor(vec![at(4)], cursor(4));
    match timeout(WRITE_MAX, first).await.expect("a refusal comes in time") {
        Err(SinkError::Poison { offset, kind: Poison::TooLarge, .. }) => {
            assert_eq!(offset, cursor(2).offset, "the offset of the event that is too large, beside its cursor");
        }
        answer => panic!("an event that is too large ends in {answer:?}, not in a refusal"),
    }
    let second = timeout(WRITE_MAX, second).await.expect("a write behind a refusal resolves in time");
    assert!(second.is_err(), "a write behind a refused event is confirmed, with its cursor");
    let spent = timeout(WRITE_MAX, writer.commit(cursor(4))).await.expect("a spent writer answers in time");
    assert!(spent.is_err(), "a writer commits after a refusal");
    drop(writer);

    let Opened { mut writer, cursor: found } = open(sink, &flow).await;
    let found = found.expect("what stands before a refused event has a cursor");
    let between = cursor(1).offset..cursor(2).offset;
    assert!(
        found.incarnation == INCARNATION && between.contains(&found.offset),
        "the cursor stands at {found:?}, not right before the refused event"
    );
    tails.collect(&[at(0), at(1)]).await;
    nothing_more(tails).await;
    // The route leaves the refused event out and goes on.
    let rest = timeout(WRITE_MAX, writer.write_with_cursor(vec![at(3), at(4)], cursor(4))).await.expect("in time");
    rest.unwrap_or_else(|error| panic!("a write behind a refused event failed: {error}"));
    drop(writer);
    tails.collect(&[at(3), at(4)]).await;
    assert_eq!(open(sink, &flow).await.cursor, Some(cursor(4)), "the cursor of the flow that went on");
}
