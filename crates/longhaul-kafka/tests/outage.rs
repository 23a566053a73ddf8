//! The broker is killed while events are written and read; twenty seconds later it comes back.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::*;
use longhaul_broker::{Connector, Health};
use longhaul_topology::Partition;
use tokio::time::{Instant, timeout};

const COUNT: usize = 20_000;
const AWAY: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_reordered_while_the_broker_is_away() {
    let mut kafka = kafka();
    let name = unique("outage");
    kafka.create_topic(&name, 3).expect("the topic can be made");
    let connector = connector(kafka.bootstrap());
    let source = source(&connector, &name);
    let found = shards(&*source, 3).await;
    let mut readers = Vec::new();
    for shard in &found {
        readers.push(earliest(&*source, shard).await);
    }
    let mut writer = open(&*sink(&connector, Partition::Key), &flow("outage")).await.writer;
    let events = keyed(&topic(&name), COUNT, 200);
    let mut writes: Vec<_> = events[..COUNT / 2].chunks(100).map(|chunk| writer.write(chunk.to_vec())).collect();
    kafka.kill();
    writes.extend(events[COUNT / 2..].chunks(100).map(|chunk| writer.write(chunk.to_vec())));
    let mut health = connector.health();
    timeout(PATIENCE, health.wait_for(|health| matches!(health, Health::Down(_))))
        .await
        .expect("it is noticed in time")
        .expect("health is told");
    tokio::time::sleep(AWAY).await;
    kafka.restart().expect("Kafka starts again");
    for write in writes {
        timeout(PATIENCE, write).await.expect("a write ends in time").expect("it is written");
    }
    let cursor = longhaul_event::Position { incarnation: 1, offset: COUNT as u64 - 1 };
    timeout(PATIENCE, writer.commit(cursor)).await.expect("in time").expect("the cursor is written");

    let (mut count, mut last, end) = (0, HashMap::new(), Instant::now() + PATIENCE);
    while count < COUNT {
        assert!(Instant::now() < end, "{count} of {COUNT} events");
        for reader in &mut readers {
            let Ok(batch) = timeout(Duration::from_millis(20), reader.read()).await else { continue };
            for event in batch.expect("reading survives").events {
                // The number of an event is its identity less one, and every key has each tenth.
                let number = event.id.0 - 1;
                let before = last.insert(event.key.clone(), number);
                assert_eq!(number, before.map_or(number % 10, |before: u128| before + 10), "of key {:?}", event.key);
                count += 1;
            }
        }
    }
    timeout(PATIENCE, health.wait_for(|health| *health == Health::Up)).await.expect("in time").expect("health is told");
    assert_eq!(open(&*sink(&connector, Partition::Key), &flow("outage")).await.cursor, Some(cursor));
}
