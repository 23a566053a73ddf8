//! What is confirmed is there: after a stop, a drop, a kill, and unless retention removed it.

mod support;

use std::io::Write;
use std::time::Duration;

use longhaul_broker::{Connector, Gap, Health, SinkError, SourceError};
use longhaul_embedded::{Embedded, EmbeddedError};
use longhaul_event::{Position, Start};
use support::{access, context, event, flow, kill_after, read, reader, sink, source, start, try_start, writer};

#[tokio::test]
async fn a_stop_and_a_drop_keep_all() {
    let folder = tempfile::tempdir().unwrap();
    let cursor = Position { incarnation: 9, offset: 2 };
    let mut incarnations = Vec::new();
    for round in 0..3u64 {
        let broker = start(folder.path()).await;
        let opened = broker.sink(sink()).unwrap().open(&flow("a"), None).await.unwrap();
        assert_eq!(opened.cursor, (round > 0).then_some(cursor));
        let mut writer = opened.writer;
        writer.write(vec![event(round, "x")]).await.unwrap();
        writer.commit(cursor).await.unwrap();
        let mut reader = reader(&broker, Start::Earliest).await;
        let offsets: Vec<u64> = read(&mut *reader, round as usize + 1).await.iter().map(|event| event.offset).collect();
        assert_eq!(offsets, (1..=round + 1).collect::<Vec<_>>());
        incarnations.push(reader.incarnation());
        // The reader and the writer are still held: they must not keep the folder busy.
        if round == 0 {
            broker.stop().await;
            broker.stop().await;
            assert!(matches!(&*broker.health().borrow(), Health::Down(_)));
            assert!(matches!(writer.write(vec![event(9, "late")]).await, Err(SinkError::Transient(_))));
            assert!(matches!(reader.read().await, Err(SourceError::Transient(_))));
        } else {
            drop(broker);
        }
    }
    incarnations.dedup();
    assert_eq!(incarnations.len(), 1, "one store, one incarnation");
}

#[tokio::test]
async fn two_brokers_run_in_one_process_and_share_nothing() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (start(one.path()).await, start(two.path()).await);
    assert_ne!(one.local_addr(), two.local_addr());
    writer(&one, "a").await.write(vec![event(0, "in one")]).await.unwrap();
    let (first, second) = (reader(&one, Start::Latest).await, reader(&two, Start::Latest).await);
    assert_ne!(first.incarnation(), second.incarnation());
    assert_eq!((first.end(), second.end()), (Some(1), None));
}

#[tokio::test]
async fn a_busy_address_and_a_busy_folder_are_errors_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let mut other = access(folder.path());
    other.listen = broker.local_addr();
    let error = try_start(&other).await.map(|_| ()).unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("the embedded broker cannot listen on {}", broker.local_addr())),
        "{error}"
    );
    let error = try_start(&access(folder.path())).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, EmbeddedError::InUse { .. }), "{error}");
    let file = folder.path().join("log.redb");
    let error = try_start(&access(&file)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, EmbeddedError::Folder { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_store_does_not_start_and_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log.redb");
    let broker = start(folder.path()).await;
    let events = (0..2_000).map(|number| event(number, vec![b'x'; 500])).collect();
    writer(&broker, "a").await.write(events).await.unwrap();
    broker.stop().await;
    let good = std::fs::read(&file).unwrap();
    let middle = good.len() / 4;
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("no store at all", b"this is a letter to somebody else ".repeat(200)),
        ("a few bytes", b"short".to_vec()),
        ("the first half", good[..good.len() / 2].to_vec()),
        ("a header of zeros", [&vec![0; 4_096][..], &good[4_096..]].concat()),
    ];
    let mut holed = good.clone();
    holed[middle..middle + 200_000].fill(0xa5);
    cases.push(("a hole of other bytes", holed));
    for (what, bytes) in cases {
        std::fs::write(&file, &bytes).unwrap();
        let error = try_start(&access(folder.path())).await.map(|_| ()).expect_err(what);
        assert!(matches!(error, EmbeddedError::Corrupted { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains("damaged"), "{what}: {error}");
    }
    std::fs::write(&file, &good).unwrap();
    let broker = start(folder.path()).await;
    assert_eq!(read(&mut *reader(&broker, Start::Earliest).await, 2_000).await.len(), 2_000);
}

#[tokio::test]
async fn what_retention_removed_is_a_gap_for_whoever_did_not_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut access = access(folder.path());
    access.retain_bytes = Some(100_000);
    let broker = try_start(&access).await.unwrap();
    let mut writer = writer(&broker, "a").await;
    writer.write(vec![event(0, vec![0; 1_000])]).await.unwrap();
    let mut slow = reader(&broker, Start::Earliest).await;
    let mut fast = reader(&broker, Start::Earliest).await;
    let incarnation = fast.incarnation();
    for number in 1..300 {
        writer.write(vec![event(number, vec![0; 1_000])]).await.unwrap();
        read(&mut *fast, 1).await;
    }
    let Err(SourceError::Gap(Gap::Purged { from: 1, to })) = slow.read().await else {
        panic!("events are gone in silence")
    };
    assert!((200..210).contains(&to), "about 100,000 bytes are kept, from {to}");
    let source = broker.source(source(&[])).unwrap();
    let shard = source.shards().borrow()[0].clone();
    let at = |offset| Start::After(Position { incarnation, offset });
    let gap = source.open(&shard, at(5)).await.map(|_| ()).unwrap_err();
    assert!(matches!(gap, SourceError::Gap(Gap::Purged { from: 6, to: first }) if first == to), "{gap:?}");
    // Just inside and just outside.
    assert!(source.open(&shard, at(to - 2)).await.is_err());
    let mut oldest = source.open(&shard, at(to - 1)).await.unwrap();
    assert_eq!(read(&mut *oldest, 1).await[0].offset, to);
    let mut earliest = reader(&broker, Start::Earliest).await;
    assert_eq!((earliest.start(), read(&mut *earliest, 1).await[0].offset), (to - 1, to));
}

#[tokio::test]
async fn age_counts_from_the_storing_and_may_empty_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut access = access(folder.path());
    access.retain_age = Some(Duration::from_millis(1));
    let broker = try_start(&access).await.unwrap();
    let mut reader = reader(&broker, Start::Latest).await;
    writer(&broker, "a").await.write(vec![event(0, "old")]).await.unwrap();
    // Age is looked at once a second: this waits for the next look.
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let listing = support::request(broker.local_addr(), "GET", "/v1/topics", &[], b"").await.json();
        if listing["first"] == 2 {
            assert_eq!((&listing["next"], &listing["bytes"]), (&2.into(), &0.into()));
            break;
        }
        assert!(tokio::time::Instant::now() < until, "the event is still there: {listing}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let gap = reader.read().await.unwrap_err();
    assert!(matches!(gap, SourceError::Gap(Gap::Purged { from: 1, to: 2 })), "{gap:?}");
    broker.stop().await;
    let broker = start(folder.path()).await;
    let mut reader = support::reader(&broker, Start::Earliest).await;
    writer(&broker, "a").await.write(vec![event(1, "new")]).await.unwrap();
    assert_eq!(read(&mut *reader, 1).await[0].offset, 2, "an emptied log does not begin again at 1");
}

#[tokio::test]
async fn a_time_finds_the_first_event_that_was_stored_at_it_or_later() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let mut writer = writer(&broker, "a").await;
    let now_ms = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    writer.write(vec![event(0, "a"), event(1, "b")]).await.unwrap();
    // The clock must have moved on by a whole millisecond.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let between = now_ms();
    writer.write(vec![event(2, "c")]).await.unwrap();
    for (at, before) in [(0, 0), (between, 2), (now_ms() + 60_000, 3)] {
        assert_eq!(reader(&broker, Start::Time(at)).await.start(), before, "a reader from time {at}");
    }
}

#[tokio::test]
async fn the_latest_open_of_a_flow_writes_it_and_the_earlier_one_is_out() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let mut early = writer(&broker, "a").await;
    let mut other = writer(&broker, "b").await;
    let mut late = writer(&broker, "a").await;
    let refused = early.write(vec![event(0, "zombie")]).await;
    assert!(matches!(&refused, Err(SinkError::Transient(reason)) if reason.contains("another writer")), "{refused:?}");
    assert!(early.commit(Position { incarnation: 1, offset: 1 }).await.is_err());
    drop(early);
    late.write(vec![event(1, "x")]).await.unwrap();
    other.write(vec![event(2, "y")]).await.unwrap();
    let events = read(&mut *reader(&broker, Start::Earliest).await, 2).await;
    assert_eq!(events.iter().map(|event| event.id.0).collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test]
async fn more_writes_than_the_queue_holds_stay_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let mut writer = writer(&broker, "a").await;
    let writes: Vec<_> = (0..3_000).map(|number| writer.write(vec![event(number, "x")])).collect();
    futures::future::try_join_all(writes).await.unwrap();
    let events = read(&mut *reader(&broker, Start::Earliest).await, 3_000).await;
    assert!(events.iter().map(|event| event.id.0).eq(1..=3_000));
}

#[tokio::test]
async fn an_event_beyond_a_limit_that_was_lowered_stops_the_reader_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let events = vec![event(0, vec![b'x'; 100]), event(1, vec![b'x'; 101])];
    writer(&broker, "a").await.write(events).await.unwrap();
    broker.stop().await;
    let lowered = longhaul_broker::Context { event_bytes_max: 100, ..context() };
    let broker = Embedded::start(&access(folder.path()), lowered).await.unwrap();
    let mut reader = reader(&broker, Start::Earliest).await;
    assert_eq!(read(&mut *reader, 1).await[0].offset, 1);
    for _ in 0..2 {
        let error = reader.read().await.unwrap_err();
        let told = "the event at offset 2 has 101 bytes";
        assert!(matches!(&error, SourceError::Config(text) if text.starts_with(told)), "{error:?}");
    }
}

/// Runs as a process of its own, see below: writes for ever and says what is confirmed.
#[tokio::test]
#[ignore = "the child of the test below"]
async fn child_that_writes_until_it_is_killed() {
    let Ok(folder) = std::env::var("LONGHAUL_TEST_FOLDER") else { return };
    let broker = Embedded::start(&access(folder.as_ref()), context()).await.unwrap();
    let from = reader(&broker, Start::Latest).await.end().unwrap_or(0);
    let mut writer = writer(&broker, "a").await;
    let mut out = std::io::stdout();
    for number in from.. {
        writer.write((0..7).map(|part| event(number, format!("{number}/{part}"))).collect()).await.unwrap();
        writer.commit(Position { incarnation: 1, offset: number }).await.unwrap();
        writeln!(out, "confirmed {number}").unwrap();
    }
}

#[tokio::test]
async fn a_killed_process_has_lost_nothing_that_was_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let last = kill_after(folder.path(), "child_that_writes_until_it_is_killed", 40 * round);

        let broker = start(folder.path()).await;
        let opened = broker.sink(sink()).unwrap().open(&flow("a"), None).await.unwrap();
        let cursor = opened.cursor.expect("a cursor was confirmed").offset;
        assert!(cursor >= last, "the cursor fell back from {last} to {cursor}");
        let reader = &mut *reader(&broker, Start::Earliest).await;
        let end = reader.end().unwrap();
        let events = read(reader, end as usize).await;
        let text = |event: &longhaul_event::Event| String::from_utf8(event.payload.clone().unwrap().to_vec()).unwrap();
        let tail: Vec<String> = events.iter().map(text).collect();
        for part in 0..7 {
            assert!(tail.contains(&format!("{last}/{part}")), "event {last}/{part} was confirmed and is gone");
        }
        assert_eq!(events.len() % 7, 0, "a write is there whole or not at all");
        broker.stop().await;
    }
}
