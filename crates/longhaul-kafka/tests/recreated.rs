//! A topic that is deleted and made again is another one, however far it has grown: nobody reads on in it as if it were the first.

mod common;

use common::*;
use longhaul_broker::{Gap, SourceError};
use longhaul_event::{Position, Start};
use longhaul_test_brokers::kafka::Kafka;

const FIRST: usize = 50;
const SECOND: usize = 80;

/// Deletes the topic and makes another of the same name, which has more events than the first had.
fn make_again(kafka: &Kafka, name: &str) {
    kafka.delete_topic(name).expect("the topic can be deleted");
    kafka.create_topic(name, 1).expect("the topic can be made again");
    produce(kafka.bootstrap(), name, 0..SECOND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_is_another_one_however_far_it_has_grown() {
    let kafka = kafka();
    let name = unique("again");
    kafka.create_topic(&name, 1).expect("the topic can be made");
    let before = connector(kafka.bootstrap());
    produce(kafka.bootstrap(), &name, 0..FIRST);
    let events = source(&before, &name);
    let shard = shards(&*events, 1).await.remove(0);
    let mut reader = earliest(&*events, &shard).await;
    let old = collect(&mut *reader, FIRST).await;
    let life = reader.incarnation();
    let cursor = Start::After(Position { incarnation: life, offset: FIRST as u64 - 1 });
    assert_eq!(open_reader(&*events, &shard, cursor).await.expect("the same topic").incarnation(), life);

    // While nobody reads.
    drop((reader, events, before));
    make_again(&kafka, &name);
    let router = connector(kafka.bootstrap());
    let events = source(&router, &name);
    shards(&*events, 1).await;
    let mut reader = earliest(&*events, &shard).await;
    let found = reader.incarnation();
    for _ in 0..2 {
        assert_eq!(gap(open_reader(&*events, &shard, cursor).await), Gap::Recreated { cursor: life, found });
    }
    let new = collect(&mut *reader, SECOND).await;
    assert!(old.iter().zip(&new).all(|(old, new)| old.offset == new.offset && old.id != new.id), "other identities");

    // Under a reader, at its end and with more to come.
    make_again(&kafka, &name);
    produce(kafka.bootstrap(), &name, SECOND..SECOND + 1);
    let (count, error) = until_error(&mut *reader).await;
    assert_eq!(count, 0, "nothing of the next topic comes to the reader of this one");
    assert!(
        matches!(error, SourceError::Gap(Gap::Recreated { cursor, .. }) if cursor == found)
            || matches!(error, SourceError::Transient(_)),
        "{error:?}"
    );
    let cursor = Start::After(Position { incarnation: found, offset: SECOND as u64 - 1 });
    let gap = gap(open_reader(&*events, &shard, cursor).await);
    assert!(matches!(gap, Gap::Recreated { cursor, found: next } if cursor == found && next != found), "{gap:?}");
    // The consumer that has seen both goes on with the next one.
    assert_eq!(collect(&mut *earliest(&*events, &shard).await, SECOND).await[0].offset, 0);
}
