//! What a server does to a flow in its worst hours: killed while writing and reading, frozen, its streams purged and made again.

mod support;

use std::time::Duration;

use longhaul_broker::{Connector, Gap, Health, SinkError, SourceError};
use longhaul_event::{Event, Position, Start};
use longhaul_test_brokers::nats::Nats;
use support::*;
use tokio::time::timeout;

const EVENTS: u64 = 20_000;
const WRITE: u64 = 100;

/// Writes all events as a flow does: again after the cursor whenever something fails.
async fn write_all(connector: &longhaul_nats::NatsConnector, events: u64) {
    let flow = flow("kill");
    'open: loop {
        let (mut writer, cursor) = writer(connector, sink_spec(), &flow).await;
        let mut next = cursor.map_or(0, |offset| offset + 1);
        while next < events {
            let to = (next + WRITE * 10).min(events);
            let writes: Vec<_> = (next..to)
                .step_by(WRITE as usize)
                .map(|from| writer.write((from..(from + WRITE).min(to)).map(|n| event(n, "a.x")).collect()))
                .collect();
            let written = timeout(LIMIT, futures::future::try_join_all(writes)).await.expect("an answer in time");
            if written.is_err() || writer.commit(Position { incarnation: 1, offset: to - 1 }).await.is_err() {
                continue 'open;
            }
            next = to;
        }
        return;
    }
}

/// Reads until all are there, as a flow does: again after the last position whenever something fails.
async fn read_all(connector: &longhaul_nats::NatsConnector, events: u64) -> Vec<Event> {
    let source = connector.source(named("S", &[])).expect("a source");
    let shard = shard(&*source).await;
    let (mut all, mut start) = (Vec::new(), Start::Earliest);
    'open: loop {
        let mut reader = reader(&*source, &shard, start).await;
        let incarnation = reader.incarnation();
        while (all.len() as u64) < events {
            match read(&mut *reader).await {
                Ok(batch) => {
                    start = Start::After(Position { incarnation, offset: batch.last });
                    all.extend(batch.events);
                }
                Err(SourceError::Transient(_)) => continue 'open,
                Err(error) => panic!("the reader stopped: {error}"),
            }
        }
        return all;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_it_loses_nothing_and_stores_nothing_twice() {
    let mut nats = Nats::start_with("").expect("a server");
    stream(&nats, "S", &["a.>"]).await;
    let connector = connector(access(&nats));
    up(&connector).await;
    let (to_write, to_read) = (connector.clone(), connector.clone());
    let writing = tokio::spawn(async move { write_all(&to_write, EVENTS).await });
    let reading = tokio::spawn(async move { read_all(&to_read, EVENTS).await });
    let mut kills = 0;
    while !writing.is_finished() && kills < 5 {
        // Long enough for the flow to be in full swing again; the interesting moment is a random one.
        tokio::time::sleep(Duration::from_millis(400)).await;
        nats.kill();
        nats.restart().expect("it comes back");
        kills += 1;
    }
    assert!(kills >= 2, "written before the server was killed twice: the test shows nothing");
    timeout(2 * LIMIT, writing).await.expect("written in time").expect("no panic");
    let events = timeout(2 * LIMIT, reading).await.expect("read in time").expect("no panic");
    let numbers: Vec<u64> = events.iter().map(number).collect();
    assert!(numbers.iter().copied().eq(0..EVENTS), "lost, repeated or out of order after {kills} kills");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_noticed_and_taken_up_again() {
    let nats = Nats::start_with("").expect("a server");
    stream(&nats, "S", &["a.>"]).await;
    let connector = connector(access(&nats));
    up(&connector).await;
    let (mut first, _) = writer(&connector, sink_spec(), &flow("f")).await;
    write(&mut *first, vec![event(0, "a.x")]).await.expect("written");
    nats.freeze();
    let mut health = connector.health();
    let down = timeout(LIMIT, health.wait_for(|health| matches!(health, Health::Down(_)))).await;
    assert!(down.is_ok(), "nobody noticed: the client still believes");
    drop(down);
    assert!(matches!(write(&mut *first, vec![event(1, "a.x")]).await, Err(SinkError::Transient(_))));
    nats.thaw();
    up(&connector).await;
    drop(first);
    let (mut second, _) = writer(&connector, sink_spec(), &flow("f")).await;
    write(&mut *second, vec![event(1, "a.x")]).await.expect("written");
}

async fn filled(count: u64) -> (Nats, std::sync::Arc<longhaul_nats::NatsConnector>, async_nats::jetstream::Context) {
    let nats = Nats::start_with("").expect("a server");
    let js = stream(&nats, "S", &["a.>", "b.>"]).await;
    let connector = connector(access(&nats));
    up(&connector).await;
    let (mut writer, _) = writer(&connector, sink_spec(), &flow("fill")).await;
    write(&mut *writer, (0..count).map(|n| event(n, "a.x")).collect()).await.expect("written");
    (nats, connector, js)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_is_a_gap_at_open_and_while_reading() {
    let (_nats, connector, js) = filled(3000).await;
    let source = connector.source(named("S", &[])).expect("a source");
    let shard = shard(&*source).await;
    let mut running = reader(&*source, &shard, Start::Earliest).await;
    let incarnation = running.incarnation();
    let (before, _) = read_some(&mut *running, 1).await;
    // More than a reader asks for at once must follow, else it has all of it already.
    let (mut more, _) = writer(&connector, sink_spec(), &flow("more")).await;
    write(&mut *more, (3000..9000).map(|n| event(n, "a.x")).collect()).await.expect("written");
    js.get_stream("S").await.expect("S").purge().sequence(8000).await.expect("purged");

    let (after, error) = read_some(&mut *running, 9000).await;
    let last = after.last().or(before.last()).expect("events").offset;
    let Some(SourceError::Gap(Gap::Purged { from, to })) = error else { panic!("no gap but {error:?}") };
    assert_eq!((from, to), (last + 1, 8000), "the gap begins behind the last event");
    assert!(matches!(read(&mut *running).await, Err(SourceError::Gap(_))), "a gap is not passed by reading on");

    let old = Start::After(Position { incarnation, offset: 10 });
    let error = source.open(&shard, old).await.err();
    assert!(matches!(error, Some(SourceError::Gap(Gap::Purged { from: 11, to: 8000 }))), "{error:?}");
    let kept = Start::After(Position { incarnation, offset: 7999 });
    let mut reader = source.open(&shard, kept).await.expect("what is there can be read");
    assert_eq!(read_some(&mut *reader, 1).await.0[0].offset, 8000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_the_unread_tail_is_a_gap_even_when_nothing_follows() {
    let (_nats, connector, js) = filled(9000).await;
    let source = connector.source(named("S", &[])).expect("a source");
    let shard = shard(&*source).await;
    let mut reader = reader(&*source, &shard, Start::Earliest).await;
    read_some(&mut *reader, 1).await;
    js.get_stream("S").await.expect("S").purge().await.expect("purged");
    let (_, error) = read_some(&mut *reader, 9000).await;
    assert!(matches!(error, Some(SourceError::Gap(Gap::Purged { to: 9001, .. }))), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_made_again_is_a_gap_at_open_and_while_reading() {
    let (_nats, connector, js) = filled(10).await;
    let source = connector.source(named("S", &[])).expect("a source");
    let shard = shard(&*source).await;
    let mut running = reader(&*source, &shard, Start::Earliest).await;
    let incarnation = running.incarnation();
    read_some(&mut *running, 10).await;
    js.delete_stream("S").await.expect("deleted");
    let config = async_nats::jetstream::stream::Config {
        name: "S".to_owned(),
        subjects: vec!["a.>".to_owned()],
        ..Default::default()
    };
    js.create_stream(config).await.expect("made again");
    let error = read(&mut *running).await.err();
    assert!(
        matches!(error, Some(SourceError::Gap(Gap::Recreated { cursor, .. })) if cursor == incarnation),
        "{error:?}"
    );
    let error = source.open(&shard, Start::After(Position { incarnation, offset: 10 })).await.err();
    assert!(matches!(error, Some(SourceError::Gap(Gap::Recreated { .. }))), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_messages_are_no_gap() {
    let (_nats, connector, js) = filled(20).await;
    let stream = js.get_stream("S").await.expect("S");
    for sequence in [5, 6, 20] {
        stream.delete_message(sequence).await.expect("deleted");
    }
    let source = connector.source(named("S", &[])).expect("a source");
    let shard = shard(&*source).await;
    let mut reader = reader(&*source, &shard, Start::Earliest).await;
    let (events, error) = read_some(&mut *reader, 17).await;
    assert_eq!((events.len(), events[4].offset), (17, 7), "{error:?}");
    let batch = read(&mut *reader).await.expect("the deleted end is passed over");
    assert_eq!((batch.events.len(), batch.last), (0, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filtered_reader_covers_what_is_not_its_own() {
    let (_nats, connector, _js) = filled(50).await;
    let source = connector.source(named("S", &["b.>"])).expect("a source");
    let shard = shard(&*source).await;
    assert_eq!(shard.name, "S?b.>");
    let mut reader = reader(&*source, &shard, Start::Earliest).await;
    let batch = read(&mut *reader).await.expect("a batch");
    assert_eq!(
        (batch.events.len(), batch.last),
        (0, 50),
        "the cursor moves with the stream, else retention overtakes it"
    );
    let (mut writer, _) = writer(&connector, sink_spec(), &flow("b")).await;
    write(&mut *writer, vec![event(50, "a.x"), event(51, "b.x")]).await.expect("written");
    let batch = read(&mut *reader).await.expect("a batch");
    assert_eq!((batch.events.len(), batch.events[0].offset, batch.last), (1, 52, 52));
}
