//! How fast events of 1 KiB go in and out. Prints figures and asserts none; run by hand:
//! `cargo test -p longhaul-nats --test speed --release -- --ignored --nocapture`

mod support;

use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use longhaul_broker::{Connector, SinkSpec};
use longhaul_event::{Event, Position, Start};
use longhaul_test_brokers::nats::Nats;
use longhaul_topology::Guarantee;
use serde_json::json;
use support::*;

const EVENTS: u64 = 100_000;
const PRICE_EVENTS: u64 = 40_000;
const WRITE: u64 = 250;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a test"]
async fn events_per_second() {
    let nats = Nats::start_with("").expect("a server");
    stream(&nats, "S", &["a.>"]).await;
    let connector = connector(access(&nats));
    up(&connector).await;
    let payload = Bytes::from(vec![b'x'; 1024]);
    let make = |n| Event { payload: Some(payload.clone()), ..event(n, "a.x") };
    let (mut writer, _) = writer(&connector, sink_spec(), &flow("f")).await;
    let begin = Instant::now();
    let writes: Vec<_> = (0..EVENTS)
        .step_by(WRITE as usize)
        .map(|from| writer.write((from..from + WRITE).map(make).collect()))
        .collect();
    futures::future::try_join_all(writes).await.expect("written");
    println!("written: {:.0} events/s", EVENTS as f64 / begin.elapsed().as_secs_f64());

    let source = connector.source(named("S", &[])).expect("a source");
    let shard = shard(&*source).await;
    let mut reader = reader(&*source, &shard, Start::Earliest).await;
    let (begin, mut count, mut batches) = (Instant::now(), 0, 0);
    while count < EVENTS as usize {
        count += read(&mut *reader).await.expect("a batch").events.len();
        batches += 1;
    }
    println!("read: {:.0} events/s in batches of {}", EVENTS as f64 / begin.elapsed().as_secs_f64(), count / batches);
    anchor(&nats, payload).await;
}

/// Both guarantees side by side, as a router writes: eight writes under way, a commit behind each eight. Repeated in turns, since the
/// machine changes its mind.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a test"]
async fn price_of_effectively_once() {
    let nats = Nats::start_with("").expect("a server");
    let js = stream(&nats, "S", &["a.>"]).await;
    atomic_stream(&nats, "T", &["t.>"]).await;
    let memory =
        json!({ "name": "M", "subjects": ["m.>", "$LONGHAUL.cursor.M.>"], "allow_atomic": true, "storage": "memory" });
    create(&nats, "CREATE", memory).await;
    let connector = connector(access(&nats));
    up(&connector).await;
    for round in 0..4 {
        let plain = rate(&connector, sink_spec(), &format!("plain{round}"), "a.x").await;
        let ids = rate(&connector, once_spec(), &format!("ids{round}"), "a.y").await;
        let batches = rate(&connector, once_spec(), &format!("batches{round}"), "t.x").await;
        let memory = rate(&connector, once_spec(), &format!("memory{round}"), "m.x").await;
        for stream in ["S", "T", "M"] {
            js.get_stream(stream).await.expect("a stream").purge().await.expect("purged");
        }
        let price = |other: f64| 100.0 * (1.0 - other / plain);
        println!(
            "at least once {plain:.0} events/s; effectively once by message ids {ids:.0} ({:+.0} %), in atomic batches {batches:.0} ({:+.0} %), the same without a disk {memory:.0} ({:+.0} %)",
            -price(ids),
            -price(batches),
            -price(memory)
        );
    }
}

async fn rate(connector: &longhaul_nats::NatsConnector, spec: SinkSpec, route: &str, topic: &str) -> f64 {
    let payload = Bytes::from(vec![b'x'; 1024]);
    let id =
        |n: u64| longhaul_event::EventId(u128::from(longhaul_event::hash64(route.as_bytes())) << 64 | u128::from(n));
    let once = spec.guarantee == Guarantee::EffectivelyOnce;
    let (mut writer, _) = writer(connector, spec, &flow(route)).await;
    let begin = Instant::now();
    for from in (0..PRICE_EVENTS).step_by(8 * WRITE as usize) {
        let at = |n: u64| Position { incarnation: 1, offset: n };
        let writes: Vec<_> = (from..from + 8 * WRITE)
            .step_by(WRITE as usize)
            .map(|from| {
                let make = |n| Event { payload: Some(payload.clone()), id: id(n), ..event(n, topic) };
                let events = (from..from + WRITE).map(make).collect();
                if once { writer.write_with_cursor(events, at(from + WRITE - 1)) } else { writer.write(events) }
            })
            .collect();
        futures::future::try_join_all(writes).await.expect("written");
        writer.commit(at(from + 8 * WRITE - 1)).await.expect("committed");
    }
    PRICE_EVENTS as f64 / begin.elapsed().as_secs_f64()
}

/// The same by the bare client, with its own window and its own pull consumer: what there is to compare with.
#[expect(clippy::print_stdout, reason = "figures are what this file is for")]
async fn anchor(nats: &Nats, payload: Bytes) {
    let js = stream(nats, "T", &["t.>"]).await;
    let begin = Instant::now();
    let mut acks = std::collections::VecDeque::new();
    for _ in 0..EVENTS {
        acks.push_back(js.publish("t.x", payload.clone()).await.expect("sent"));
        if acks.len() == 1024 {
            acks.pop_front().expect("one").await.expect("stored");
        }
    }
    for ack in acks {
        ack.await.expect("stored");
    }
    println!("bare client, written: {:.0} messages/s, without headers", EVENTS as f64 / begin.elapsed().as_secs_f64());
    let config = async_nats::jetstream::consumer::pull::Config {
        ack_policy: async_nats::jetstream::consumer::AckPolicy::None,
        ..Default::default()
    };
    let consumer = js.get_stream("S").await.expect("S").create_consumer(config).await.expect("a consumer");
    let begin = Instant::now();
    let messages = consumer.stream().max_messages_per_batch(1000).messages().await.expect("messages");
    let count = messages.take(EVENTS as usize).count().await;
    println!("bare client, read: {:.0} messages/s", count as f64 / begin.elapsed().as_secs_f64());
}
