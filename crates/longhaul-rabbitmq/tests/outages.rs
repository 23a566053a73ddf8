//! The broker stops, crashes and blocks while events are written and read: nothing is lost, order holds, repeats have the same identity.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::{PATIENCE, Raw, connector, down, event, flow, number, open, queue_spec, read, read_from, to_queue, up};
use longhaul_broker::{Connector, Health, Reader, Sink, SinkError, Source, SourceError};
use longhaul_event::Position;
use longhaul_test_brokers::rabbitmq::RabbitMq;
use longhaul_test_brokers::skip;
use tokio::time::{sleep, timeout};

const BATCH: u64 = 50;
/// RabbitMQ 3.10 writes down which quorum queues it has some 500 ms after the last was declared; one that is younger when the node
/// crashes comes back without a leader for ever. That is not what is tested here.
const REGISTERED_AFTER: Duration = Duration::from_secs(2);
const INCARNATION: u64 = 5;

/// Writes `0..count` as a router would: several writes under way, a cursor behind what is confirmed, everything again from the cursor
/// after an error.
async fn write_all(sink: &dyn Sink, route: &str, count: u64) -> u32 {
    let mut outages = 0;
    loop {
        let opened = open(sink, &flow(route)).await;
        let mut next = opened.cursor.map_or(0, |cursor| cursor.offset + 1);
        assert!(opened.cursor.is_none_or(|cursor| cursor.incarnation == INCARNATION));
        let mut writer = opened.writer;
        let result: Result<(), SinkError> = async {
            while next < count {
                let writes: Vec<_> = (0..4)
                    .map(|at| (next + at * BATCH).min(count)..(next + (at + 1) * BATCH).min(count))
                    .map(|numbers| writer.write(numbers.map(|n| event(n, "orders.new", 200)).collect()))
                    .collect();
                for write in writes {
                    write.await?;
                }
                next = (next + 4 * BATCH).min(count);
                writer.commit(Position { incarnation: INCARNATION, offset: next - 1 }).await?;
                // Slow enough for an outage to fall into the middle.
                sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        }
        .await;
        match result {
            Ok(()) => return outages,
            Err(SinkError::Transient(_)) => outages += 1,
            Err(error) => panic!("an outage is {error:?}"),
        }
    }
}

/// Reads until every number of `0..count` was seen, releasing as it goes; panics when an event comes before its predecessor ever did.
async fn read_all(source: &dyn Source, count: u64) -> (u64, u32) {
    let mut seen: HashMap<u64, u32> = HashMap::new();
    let (mut expected, mut outages) = (0, 0);
    let mut reader: Option<Box<dyn Reader>> = None;
    while expected < count {
        let current = match reader.as_mut() {
            Some(current) => current,
            None => reader.insert(read_from(source).await),
        };
        match timeout(PATIENCE, current.read()).await.expect("events come in time") {
            Ok(batch) => {
                for event in &batch.events {
                    let number = number(event);
                    *seen.entry(number).or_default() += 1;
                    assert!(number <= expected, "event {number} came when {expected} had not");
                    expected = expected.max(number + 1);
                }
                current.release(batch.last);
            }
            Err(SourceError::Transient(_)) => {
                outages += 1;
                reader = None;
            }
            Err(error) => panic!("an outage is {error:?}"),
        }
    }
    (seen.values().map(|times| u64::from(times - 1)).sum(), outages)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_lose_nothing() {
    let mut node = RabbitMq::start().expect("RabbitMQ starts");
    if node.stop().is_err() {
        skip("outages_lose_nothing", "an external broker is not ours to stop");
        return;
    }
    node.restart().expect("it starts again");
    let uri = node.uri().to_owned();
    let raw = Raw::connect(&uri).await;
    for kind in ["quorum", "classic"] {
        raw.queue(kind, kind).await;
    }
    drop(raw);
    let rabbit = connector(&uri);
    up(&rabbit).await;
    blocked_publishers_show(&node, &rabbit).await;
    for (queue, crash) in [("quorum", true), ("classic", false), ("quorum", false)] {
        const COUNT: u64 = 20_000;
        let sink = rabbit.sink(to_queue(queue)).expect("a sink");
        let source = rabbit.source(queue_spec(queue)).expect("a source");
        let route = format!("{queue}-{crash}");
        drop(open(&*sink, &flow(&route)).await);
        sleep(REGISTERED_AFTER).await;
        let writing = tokio::spawn(async move { write_all(&*sink, &route, COUNT).await });
        let reading = tokio::spawn(async move { read_all(&*source, COUNT).await });
        sleep(Duration::from_millis(700)).await;
        node = tokio::task::spawn_blocking(move || {
            let ended = if crash { node.kill() } else { node.stop() };
            ended.and_then(|()| node.restart()).expect("the node comes back");
            node
        })
        .await
        .expect("the node comes back");
        let written = timeout(4 * PATIENCE, writing).await.expect("all is written").expect("writing works");
        let (repeats, outages) = timeout(4 * PATIENCE, reading).await.expect("all is read").expect("reading works");
        println!("{queue}, crash {crash}: {written} outages of writing, {outages} of reading, {repeats} repeats");
        assert!(written > 0 && outages > 0, "the outage did not fall into the middle");
        drain(&uri, &rabbit, queue).await;
    }
    assert_eq!(*rabbit.health().borrow(), Health::Up);
    cursors_survive_crashes(&mut node, &rabbit).await;
    node.stop().expect("ours");
    assert!(!down(&rabbit).await.contains("guest"), "no login in a reason");
}

/// Repeats of the end of a round must not be taken for the next round's.
async fn drain(uri: &str, rabbit: &longhaul_rabbitmq::RabbitMqConnector, queue: &str) {
    up(rabbit).await;
    let raw = Raw::connect(uri).await;
    // What the last reader was sent and did not release comes back first.
    sleep(Duration::from_millis(500)).await;
    raw.channel.queue_purge(queue.into(), lapin::options::QueuePurgeOptions::default()).await.expect("a queue");
}

async fn blocked_publishers_show(node: &RabbitMq, rabbit: &longhaul_rabbitmq::RabbitMqConnector) {
    node.ctl(&["set_disk_free_limit", "100000GB"]).expect("an alarm is raised");
    let sink = rabbit.sink(to_queue("quorum")).expect("a sink");
    let opening = tokio::spawn(async move {
        let mut writer = open(&*sink, &flow("blocked")).await.writer;
        writer.write(vec![event(0, "t", 10)]).await
    });
    let reason = down(rabbit).await;
    assert!(reason.contains("blocks publishers"), "{reason}");
    node.ctl(&["set_disk_free_limit", "50MB"]).expect("the alarm is over");
    up(rabbit).await;
    timeout(PATIENCE, opening).await.expect("it goes on").expect("it works").expect("it is written");
    let source = rabbit.source(queue_spec("quorum")).expect("a source");
    let mut reader = read_from(&*source).await;
    let events = read(&mut *reader, 1).await;
    reader.release(events[0].offset);
    // The acknowledgement has no answer.
    sleep(Duration::from_millis(500)).await;
}

/// The newest cursor that was confirmed is found after every crash, however often it was opened before.
async fn cursors_survive_crashes(node: &mut RabbitMq, rabbit: &longhaul_rabbitmq::RabbitMqConnector) {
    let sink = rabbit.sink(to_queue("quorum")).expect("a sink");
    let mut newest = None;
    for round in 0..2 {
        for step in 0..20 {
            let mut opened = open(&*sink, &flow("cursor")).await;
            assert_eq!(opened.cursor, newest, "round {round}, step {step}");
            // Opened again and again without a new one being written, too.
            if step % 3 == 0 {
                let position = Position { incarnation: 1, offset: round * 100 + step };
                opened.writer.commit(position).await.expect("a cursor");
                newest = Some(position);
            }
        }
        let opened = open(&*sink, &flow("cursor")).await;
        sleep(REGISTERED_AFTER).await;
        node.kill().expect("ours");
        node.restart().expect("it comes back");
        drop(opened);
    }
    assert_eq!(open(&*sink, &flow("cursor")).await.cursor, newest);
}
