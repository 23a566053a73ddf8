//! Two routers of a region, one queue: one reads, the other stands by and takes over when the first is gone, however it went.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::relay::Relay;
use common::{PATIENCE, Raw, access, context, queue_spec};
use lapin::BasicProperties;
use longhaul_broker::{Connector, Reader, Source, SourceError};
use longhaul_event::{Event, Start};
use longhaul_rabbitmq::RabbitMqConnector;
use longhaul_test_brokers::rabbitmq::RabbitMq;
use tokio::time::{Instant, sleep, timeout};

/// What a router that is gone may cost.
const TAKEN_OVER_MAX: Duration = Duration::from_secs(10);
/// A standby asks once a second: that long it must have been refused to be believed.
const QUIET: Duration = Duration::from_millis(1_500);
const COUNT: u64 = 3_000;

fn router(uri: &str, name: &str) -> std::sync::Arc<RabbitMqConnector> {
    let mut context = context();
    context.router = name.to_owned();
    RabbitMqConnector::new(access(uri), context).expect("a good configuration")
}

async fn listed(source: &dyn Source) -> Instant {
    let mut shards = source.shards();
    timeout(PATIENCE, shards.wait_for(|shards| !shards.is_empty())).await.expect("it is listed").expect("a source");
    Instant::now()
}

async fn opened(source: &dyn Source) -> Box<dyn Reader> {
    let end = Instant::now() + PATIENCE;
    loop {
        let shard = source.shards().borrow().first().cloned().expect("it is listed");
        match source.open(&shard, Start::Latest).await {
            Ok(reader) => return reader,
            Err(SourceError::Transient(_)) if Instant::now() < end => sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("the shard does not open: {error}"),
        }
    }
}

fn number(event: &Event) -> u64 {
    std::str::from_utf8(event.payload.as_deref().expect("a body")).expect("text").parse().expect("a number")
}

/// Reads until `count` different events were seen, releasing as it goes.
async fn take(reader: &mut dyn Reader, seen: &mut HashMap<u64, u32>, count: usize) {
    while seen.len() < count {
        let batch = timeout(PATIENCE, reader.read()).await.expect("events come in time").expect("reading works");
        for event in &batch.events {
            *seen.entry(number(event)).or_default() += 1;
        }
        reader.release(batch.last);
    }
}

async fn fill(raw: &Raw, queue: &str) {
    raw.queue(queue, "quorum").await;
    for number in 0..COUNT {
        let sent = raw.send("", queue, BasicProperties::default(), number.to_string().as_bytes()).await;
        if number + 1 == COUNT {
            assert!(sent.await.expect("confirmed").is_ack());
        }
    }
}

/// The first reads a part and is gone by `end`; everything comes to one of both.
async fn taken_over(node: &RabbitMq, raw: &Raw, how: &str, end: impl AsyncFnOnce(&Relay)) -> Duration {
    let queue = format!("shared-{how}");
    fill(raw, &queue).await;
    let relay = Relay::start(node.uri()).await;
    let (first, second) = (router(relay.uri(), "r1"), router(node.uri(), "r2"));
    let one = first.source(queue_spec(&queue)).expect("a source");
    listed(&*one).await;
    let two = second.source(queue_spec(&queue)).expect("a source");
    let mut seen = HashMap::new();
    let mut reader = opened(&*one).await;
    take(&mut *reader, &mut seen, 500).await;
    // A standby lists nothing, and asking does not disturb who reads.
    sleep(QUIET).await;
    assert!(two.shards().borrow().is_empty(), "both routers list the queue");
    assert_eq!(one.shards().borrow().len(), 1);
    take(&mut *reader, &mut seen, 700).await;

    let gone = Instant::now();
    if how == "stopped" {
        drop((reader, one, first));
    } else {
        end(&relay).await;
    }
    let after = listed(&*two).await - gone;
    let mut reader = opened(&*two).await;
    take(&mut *reader, &mut seen, usize::try_from(COUNT).expect("small")).await;
    assert_eq!(seen.len() as u64, COUNT);
    after
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over() {
    let node = RabbitMq::start().expect("RabbitMQ starts");
    let raw = Raw::connect(node.uri()).await;
    // What the broker sees of a router that is killed.
    let killed = taken_over(&node, &raw, "killed", async |relay| relay.cut()).await;
    assert!(killed < TAKEN_OVER_MAX, "{killed:?}");
    let stopped = taken_over(&node, &raw, "stopped", async |_| {}).await;
    assert!(stopped < TAKEN_OVER_MAX, "{stopped:?}");
    // One that hangs is found out by the broker, by its heartbeats.
    let frozen = taken_over(&node, &raw, "frozen", async |relay| relay.freeze()).await;
    assert!(frozen < 2 * TAKEN_OVER_MAX, "{frozen:?}");
    println!(
        "the other router has the queue {killed:?} after a kill, {stopped:?} after an end, {frozen:?} after a freeze"
    );
}
