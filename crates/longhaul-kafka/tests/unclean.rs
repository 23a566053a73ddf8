//! A source that is cut off at its end: a replica that was behind becomes the leader, and what comes next takes offsets that a reader had.

mod common;

use std::time::Duration;

use common::*;
use longhaul_broker::{Gap, SourceError};
use longhaul_event::{Position, Start};
use longhaul_test_brokers::kafka::Cluster;
use tokio::time::sleep;

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
    let both = cluster.brokers.iter().map(|broker| broker.bootstrap().to_owned()).collect::<Vec<_>>().join(",");
    let connector = connector(&both);
    let mut watched = Vec::new();
    // One will be behind its reader after the cut, the other has grown past it.
    for new in [20, 200] {
        let name = unique("unclean");
        cluster.brokers[0].create_topic(&name, 1).expect("the topic can be made");
        produce(&both, &name, 0..100);
        let events = source(&connector, &name);
        let shard = shards(&*events, 1).await.remove(0);
        let mut reader = earliest(&*events, &shard).await;
        assert_eq!(collect(&mut *reader, 100).await.len(), 100);
        watched.push((new, name, events, shard, reader));
    }

    // The second stops in order, and so leaves the lead to the first, which is then alone.
    cluster.brokers[1].stop();
    for (_, name, _, _, reader) in &mut watched {
        produce(&both, name, 100..150);
        assert_eq!(collect(&mut **reader, 50).await.last().expect("events").offset, 149);
    }
    cluster.brokers[0].kill();
    // The controller misses it first: who comes back then is all there is, and has 100 events.
    sleep(Duration::from_secs(4)).await;
    cluster.brokers[1].restart().expect("it starts again");
    for (new, name, ..) in &watched {
        produce(cluster.brokers[1].bootstrap(), name, 1000..1000 + new);
    }
    for (new, _, events, shard, mut reader) in watched {
        let before = reader.incarnation();
        let (count, error) = until_error(&mut *reader).await;
        assert_eq!(count, 0, "what is new has offsets that were read");
        let SourceError::Gap(Gap::Truncated { cursor: 149, end }) = error else { panic!("{error:?}") };
        assert!((100..=100 + new as u64).contains(&end), "a cut at {end}");
        // It stays a gap for whoever has read what was cut off, whatever the log's end is.
        let after = |offset| Start::After(Position { incarnation: before, offset });
        for _ in 0..2 {
            assert_eq!(gap(open_reader(&*events, &shard, after(149)).await), Gap::Truncated { cursor: 149, end });
        }
        let mut reader = open_reader(&*events, &shard, after(end - 1)).await.expect("it goes on behind the gap");
        assert_ne!(reader.incarnation(), before, "what is new has identities of its own");
        if new == 200 {
            assert_eq!(end, 100, "the reader was told where");
            let events = collect(&mut *reader, new).await;
            assert_eq!((events[0].offset, events[0].payload.as_deref()), (100, Some(&b"1000"[..])));
        }
    }
}
