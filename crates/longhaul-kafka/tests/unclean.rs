//! A source that is cut off at its end: a replica that was behind becomes the leader, and what comes next takes offsets that a reader had.

mod common;

use std::time::Duration;

use common::*;
use longhaul_broker::{Gap, SourceError};
use longhaul_event::{Position, Start};
use longhaul_test_brokers::kafka::Cluster;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use tokio::time::sleep;

/// Writes events with these numbers; the leader alone must have them.
fn produce(bootstrap: &str, topic: &str, numbers: std::ops::Range<usize>) {
    let producer: ThreadedProducer<DefaultProducerContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("acks", "1").create().expect("a producer");
    for number in numbers {
        producer.send(BaseRecord::<(), str>::to(topic).payload(&number.to_string())).expect("it is queued");
    }
    producer.flush(PATIENCE).expect("it is written");
}

#[tokio::test(flavor = "multi_thread")]
async fn unclean_leader_election_at_the_source() {
    let options = [
        ("default.replication.factor", "2"),
        ("offsets.topic.replication.factor", "2"),
        ("unclean.leader.election.enable", "true"),
        // A broker that is gone is missed soon.
        ("broker.session.timeout.ms", "2000"),
        ("broker.heartbeat.interval.ms", "500"),
    ];
    let mut cluster = Cluster::start(2, &options).expect("Kafka starts");
    let name = unique("unclean");
    let both = cluster.brokers.iter().map(|broker| broker.bootstrap().to_owned()).collect::<Vec<_>>().join(",");
    cluster.brokers[0].create_topic(&name, 1).expect("the topic can be made");
    produce(&both, &name, 0..100);
    let connector = connector(&both);
    let events = source(&connector, &name);
    let shard = &shards(&*events, 1).await[0];
    let mut reader = earliest(&*events, shard).await;
    assert_eq!(collect(&mut *reader, 100).await.len(), 100);

    // The second stops in order, and so leaves the lead to the first, which is then alone.
    cluster.brokers[1].stop();
    produce(&both, &name, 100..150);
    assert_eq!(collect(&mut *reader, 50).await.last().expect("events").offset, 149);
    cluster.brokers[0].kill();
    // The controller misses it first: who comes back then is all there is, and has 100 events.
    sleep(Duration::from_secs(4)).await;
    cluster.brokers[1].restart().expect("it starts again");
    produce(cluster.brokers[1].bootstrap(), &name, 1000..1020);
    let error = read(&mut *reader).await.expect_err("what is new has offsets that were read");
    assert!(matches!(error, SourceError::Gap(Gap::Truncated { cursor: 149, end: 100..=120 })), "{error:?}");
    let after = Start::After(Position { incarnation: 0, offset: 149 });
    let error = open_reader(&*events, shard, after).await.err().expect("nor is the position one any more");
    assert!(matches!(error, SourceError::Gap(Gap::Truncated { cursor: 149, end: 120 })), "{error:?}");
}
