//! How fast one flow writes to, and one reader reads from, a quorum queue: run by hand with `--ignored --nocapture`.

mod common;

use common::{Raw, connector, event, flow, open, queue_spec, read_from, to_queue};
use longhaul_broker::Connector;
use longhaul_test_brokers::rabbitmq::RabbitMq;
use tokio::time::Instant;

const EVENTS: u64 = 50_000;
const BATCH: u64 = 250;
const UNDER_WAY: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn rates_of_a_quorum_queue() {
    let node = RabbitMq::start().expect("RabbitMQ starts");
    Raw::connect(node.uri()).await.queue("rate", "quorum").await;
    let rabbit = connector(node.uri());
    let sink = rabbit.sink(to_queue("rate")).expect("a sink");
    let mut writer = open(&*sink, &flow("rate")).await.writer;
    let begin = Instant::now();
    let mut under_way = std::collections::VecDeque::new();
    for from in (0..EVENTS).step_by(usize::try_from(BATCH).expect("small")) {
        under_way.push_back(writer.write((from..from + BATCH).map(|n| event(n, "t", 1_024)).collect()));
        if under_way.len() == UNDER_WAY {
            under_way.pop_front().expect("one at least").await.expect("written");
        }
    }
    for write in under_way {
        write.await.expect("written");
    }
    println!("write {:.0} events/s of 1 KiB", EVENTS as f64 / begin.elapsed().as_secs_f64());

    let source = rabbit.source(queue_spec("rate")).expect("a source");
    let mut reader = read_from(&*source).await;
    let begin = Instant::now();
    let mut count = 0;
    while count < EVENTS {
        let batch = reader.read().await.expect("read");
        count += batch.events.len() as u64;
        reader.release(batch.last);
    }
    println!("read {:.0} events/s of 1 KiB", EVENTS as f64 / begin.elapsed().as_secs_f64());
}
