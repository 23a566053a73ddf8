//! How fast one process writes and reads: 4 partitions, events of 1 KiB. Printed, judged by nobody:
//! `cargo test -p longhaul-kafka --test speed -- --ignored --nocapture`.

mod common;

use std::time::Instant;

use common::*;
use futures::future::join_all;
use longhaul_topology::Partition;

const COUNT: usize = 400_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn events_per_second() {
    let kafka = kafka();
    let name = unique("speed");
    kafka.create_topic(&name, 4).expect("the topic can be made");
    let connector = connector(kafka.bootstrap());
    let mut writer = open(&*sink(&connector, Partition::Key), &flow("speed")).await.writer;
    let events = keyed(&topic(&name), 250, 1024);
    let cpu = cpu_seconds();
    let begun = Instant::now();
    let mut under_way = std::collections::VecDeque::new();
    for _ in 0..COUNT / events.len() {
        under_way.push_back(writer.write(events.clone()));
        if under_way.len() > 32 {
            under_way.pop_front().expect("there are some").await.expect("it is written");
        }
    }
    for write in under_way {
        write.await.expect("it is written");
    }
    told("written", begun, cpu);

    let source = source(&connector, &name);
    let found = shards(&*source, 4).await;
    let mut readers = Vec::new();
    let cpu = cpu_seconds();
    let begun = Instant::now();
    for shard in &found {
        readers.push(earliest(&*source, shard).await);
    }
    let (count, full) = (std::sync::atomic::AtomicUsize::new(0), tokio::sync::Notify::new());
    let reading = readers.iter_mut().map(|reader| async {
        while let Ok(batch) = reader.read().await {
            let read = batch.events.len();
            let before = count.fetch_add(read, std::sync::atomic::Ordering::Relaxed);
            if before + read >= COUNT {
                full.notify_one();
            }
        }
    });
    tokio::select! {
        _ = join_all(reading) => panic!("a reader ended"),
        () = full.notified() => {}
    }
    told("read", begun, cpu);
}

#[expect(clippy::print_stdout, reason = "the figures are what this is for")]
fn told(what: &str, begun: Instant, cpu: f64) {
    let rate = COUNT as f64 / begun.elapsed().as_secs_f64();
    let each = (cpu_seconds() - cpu) * 1e6 / COUNT as f64;
    println!("{what}: {rate:.0} events/s, {each:.1} us of CPU each");
}

fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = text.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("ticks");
    (ticks(11) + ticks(12)) / 100.0
}
