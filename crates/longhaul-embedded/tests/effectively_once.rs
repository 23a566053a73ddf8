//! Effectively once into the embedded broker: events and cursor are one commit, whoever is killed, refused or late.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::io::Write;

use longhaul_broker::{Connector, Opened, Poison, SinkError, SinkSpec};
use longhaul_embedded::Embedded;
use longhaul_event::{Event, Position, Start};
use longhaul_topology::Guarantee;
use support::{access, context, event, flow, kill_after, read, reader, sink, start};

const WRITE: u64 = 7;

fn at(offset: u64) -> Position {
    Position { incarnation: 1, offset }
}

fn events(from: u64, to: u64) -> Vec<Event> {
    (from..to).map(|number| event(number, number.to_string())).collect()
}

async fn open(broker: &Embedded) -> Opened {
    let spec = SinkSpec { guarantee: Guarantee::EffectivelyOnce, ..sink() };
    broker.sink(spec).unwrap().open(&flow("a"), None).await.unwrap()
}

fn next(cursor: Option<Position>) -> u64 {
    cursor.map_or(0, |cursor| cursor.offset + 1)
}

/// The origin's numbers of all that is there.
async fn stored(broker: &Embedded) -> Vec<u64> {
    let mut reader = reader(broker, Start::Earliest).await;
    let end = reader.end().unwrap_or(0);
    let events = read(&mut *reader, usize::try_from(end).unwrap()).await;
    events.iter().map(|event| u64::try_from(event.id.0).unwrap() - 1).collect()
}

/// Runs as a process of its own, see below: goes on from the cursor for ever, a few writes under way.
#[tokio::test]
#[ignore = "the child of the test below"]
async fn child_that_goes_on_until_it_is_killed() {
    let Ok(folder) = std::env::var("LONGHAUL_TEST_FOLDER") else { return };
    let broker = Embedded::start(&access(folder.as_ref()), context()).await.unwrap();
    let Opened { mut writer, cursor } = open(&broker).await;
    let mut from = next(cursor);
    let mut out = std::io::stdout();
    loop {
        let writes: Vec<_> = (0..8)
            .map(|part| from + part * WRITE)
            .map(|from| writer.write_with_cursor(events(from, from + WRITE), at(from + WRITE - 1)))
            .collect();
        futures::future::try_join_all(writes).await.unwrap();
        from += 8 * WRITE;
        writeln!(out, "confirmed {}", from - 1).unwrap();
    }
}

#[tokio::test]
async fn killed_again_and_again_it_has_every_event_once_and_the_cursor_behind_the_last() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=8 {
        let last = kill_after(folder.path(), "child_that_goes_on_until_it_is_killed", 3 * round);

        let broker = start(folder.path()).await;
        let next = next(open(&broker).await.cursor);
        assert!(next > last, "the cursor is before {next}, confirmed was {last}");
        let there = stored(&broker).await;
        assert!(there.iter().copied().eq(0..next), "{} events are there, the cursor is before {next}", there.len());
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_refused_event_in_the_middle_leaves_the_cursor_right_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let Opened { mut writer, .. } = open(&broker).await;
    let mut some = events(0, 10);
    some[4].payload = Some(vec![0; support::EVENT_BYTES_MAX + 1].into());
    let first = writer.write_with_cursor(some, at(9));
    let second = writer.write_with_cursor(events(10, 20), at(19));
    let refused = first.await;
    assert!(matches!(refused, Err(SinkError::Poison { offset: 4, kind: Poison::TooLarge, .. })), "{refused:?}");
    assert!(second.await.is_err() && writer.commit(at(19)).await.is_err());
    let Opened { mut writer, cursor } = open(&broker).await;
    assert_eq!(cursor, Some(at(3)));
    writer.write_with_cursor(events(5, 20), at(19)).await.unwrap();
    assert!(stored(&broker).await.into_iter().eq((0..4).chain(5..20)));
}

#[tokio::test]
async fn a_fenced_writer_adds_nothing_and_moves_no_cursor() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let mut zombie = open(&broker).await.writer;
    zombie.write_with_cursor(events(0, 5), at(4)).await.unwrap();
    let Opened { mut writer, cursor } = open(&broker).await;
    assert_eq!(cursor, Some(at(4)), "without any commit");
    let late = zombie.write_with_cursor(events(5, 10), at(9)).await;
    assert!(matches!(&late, Err(SinkError::Transient(reason)) if reason.contains("another writer")), "{late:?}");
    writer.write_with_cursor(events(5, 8), at(7)).await.unwrap();
    // A commit behind what is written is nothing new, and pulls nothing back.
    let under_way = writer.write_with_cursor(events(8, 12), at(11));
    writer.commit(at(7)).await.unwrap();
    under_way.await.unwrap();
    writer.commit(at(7)).await.unwrap();
    assert_eq!(open(&broker).await.cursor, Some(at(11)));
    assert!(stored(&broker).await.into_iter().eq(0..12));
}
