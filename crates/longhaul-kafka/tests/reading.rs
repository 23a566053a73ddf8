//! Reading from a real Kafka: gaps are told, readers do not hold each other back, memory stays bounded.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use longhaul_broker::{Gap, Source, SourceError};
use longhaul_event::{Position, Start};
use longhaul_kafka::KafkaConnector;
use longhaul_test_brokers::kafka::Kafka;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::{Instant, timeout};

/// A topic of one partition with that many events, and a source on it.
async fn filled(kafka: &Kafka, count: usize, bytes: usize) -> (Arc<KafkaConnector>, String, Arc<dyn Source>) {
    let name = unique("read");
    kafka.create_topic(&name, 1).expect("the topic can be made");
    let connector = connector(kafka.bootstrap());
    fill(&connector, keyed(&topic(&name), count, bytes)).await;
    let source = source(&connector, &name);
    (connector, name, source)
}

async fn purge(kafka: &Kafka, name: &str, before: i64) {
    let admin: AdminClient<DefaultClientContext> = client(kafka.bootstrap(), &[]);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(name, 0, Offset::Offset(before)).expect("an offset");
    admin.delete_records(&list, &AdminOptions::new()).await.expect("records are deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_told_and_never_jumped() {
    let kafka = kafka();
    // Purged before it is opened.
    let (connector, name, events) = filled(&kafka, 100, 10).await;
    let shard = &shards(&*events, 1).await[0];
    purge(&kafka, &name, 50).await;
    let after = async |offset| after(&*events, shard, offset).await;
    assert_eq!(gap(open_reader(&*events, shard, after(10).await).await), Gap::Purged { from: 11, to: 50 });
    let next = after(49).await;
    let mut reader = open_reader(&*events, shard, next).await.expect("the first that is left is the next");
    assert_eq!(collect(&mut *reader, 50).await[0].offset, 50);
    let mut reader = earliest(&*events, shard).await;
    assert_eq!(reader.start(), 49);
    assert_eq!(collect(&mut *reader, 50).await[0].offset, 50);
    let (life, beyond) = (reader.incarnation(), after(100).await);
    assert_eq!(gap(open_reader(&*events, shard, beyond).await), Gap::Truncated { cursor: 100, end: 100 });
    fill(&connector, keyed(&topic(&name), 100, 10)).await;
    assert_eq!(
        gap(open_reader(&*events, shard, beyond).await),
        Gap::Truncated { cursor: 100, end: 100 },
        "it stays one"
    );
    let end = Start::After(Position { incarnation: life, offset: 99 });
    let behind = open_reader(&*events, shard, end).await.expect("nothing is missing at the cut");
    assert_ne!(behind.incarnation(), life, "what comes behind it cannot be taken for what was there");
    let found = behind.incarnation();
    for cursor in [0, 9, life ^ 1] {
        let other = Start::After(Position { incarnation: cursor, offset: 60 });
        assert_eq!(gap(open_reader(&*events, shard, other).await), Gap::Recreated { cursor, found });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_under_a_slow_reader_is_a_gap_behind_what_it_holds() {
    let kafka = kafka();
    let (_connector, name, events) = filled(&kafka, 30_000, 1024).await;
    let shard = &shards(&*events, 1).await[0];
    let mut reader = earliest(&*events, shard).await;
    collect(&mut *reader, 1).await;
    // Until its lane is full and the partition is paused.
    tokio::time::sleep(Duration::from_secs(2)).await;
    purge(&kafka, &name, 29_990).await;
    let (count, error) = until_error(&mut *reader).await;
    match error {
        SourceError::Gap(Gap::Purged { from, to }) => {
            assert!(count < 29_990 && from < 29_990, "{count} events, gap from {from}");
            assert_eq!(to, 29_990);
        }
        other => panic!("{other:?}"),
    }
    let mut reader =
        open_reader(&*events, shard, after(&*events, shard, 29_989).await).await.expect("it goes on behind the gap");
    assert_eq!(collect(&mut *reader, 10).await[9].offset, 29_999);
}

fn memory_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = text.split(' ').nth(1).expect("a second number").parse().expect("a number");
    pages * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_paused_in_bounded_memory_and_misses_nothing() {
    const COUNT: usize = 80_000;
    let kafka = kafka();
    let name = unique("slow");
    kafka.create_topic(&name, 1).expect("the topic can be made");
    let connector = connector(kafka.bootstrap());
    let mut writer = open(&*sink(&connector, longhaul_topology::Partition::Key), &flow("slow")).await.writer;
    write_all(&mut *writer, &keyed(&topic(&name), COUNT, 1024)).await;
    let events = source(&connector, &name);
    let shard = &shards(&*events, 1).await[0];

    let before = memory_bytes();
    let mut slow = earliest(&*events, shard).await;
    let mut behind = earliest(&*events, shard).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let grown = memory_bytes().saturating_sub(before);
    assert!(grown < 50 << 20, "two readers that nobody reads from take {grown} bytes, of a partition of 80 MiB");
    for reader in [&mut slow, &mut behind] {
        let mut next = 0;
        while next < COUNT as u64 {
            // Slow enough to be paused again and again, whatever the broker's speed.
            if next % 7 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for event in read(&mut **reader).await.expect("a batch").events {
                assert_eq!(event.offset, next);
                next += 1;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_reader_catches_up_beside_the_first() {
    let kafka = kafka();
    let (connector, name, events) = filled(&kafka, 1000, 100).await;
    let shard = &shards(&*events, 1).await[0];
    let mut first = open_reader(&*events, shard, Start::Latest).await.expect("the end");
    assert_eq!(first.start(), 999);
    let mut second = open_reader(&*events, shard, after(&*events, shard, 499).await).await.expect("an older position");
    fill(&connector, vec![event(1000, &topic(&name), None, 10)]).await;
    assert_eq!(collect(&mut *first, 1).await[0].offset, 1000);
    let caught_up = collect(&mut *second, 501).await;
    assert_eq!((caught_up[0].offset, caught_up[500].offset), (500, 1000));
    // The place of the first is free again at once, at any position.
    drop(first);
    let mut third = open_reader(&*events, shard, after(&*events, shard, 9).await).await.expect("an older position");
    let all = collect(&mut *third, 991).await;
    assert!(all.iter().enumerate().all(|(at, event)| event.offset == 10 + at as u64));
    let at_start = open_reader(&*events, shard, Start::Time(0)).await.expect("a time");
    assert_eq!(at_start.start(), u64::MAX, "before offset 0");
    let at_end = open_reader(&*events, shard, Start::Time(4_000_000_000_000)).await.expect("a time");
    assert_eq!(at_end.start(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_show_what_was_committed_and_their_markers_are_covered() {
    let kafka = kafka();
    let name = unique("transactions");
    kafka.create_topic(&name, 1).expect("the topic can be made");
    let bootstrap = kafka.bootstrap().to_owned();
    let produced = name.clone();
    tokio::task::spawn_blocking(move || {
        // A transaction ends when somebody has heard of every delivery: this one has a thread for that.
        let producer: ThreadedProducer<DefaultProducerContext> = client(&bootstrap, &[("transactional.id", "t")]);
        producer.init_transactions(PATIENCE).expect("transactions");
        for (from, commit) in [(0, true), (10, false), (20, true)] {
            producer.begin_transaction().expect("a transaction");
            for number in from..from + 10 {
                let body = format!("{number}");
                producer.send(BaseRecord::<(), str>::to(&produced).payload(&body)).expect("it is queued");
            }
            // What was not sent yet would leave no trace when the transaction is aborted.
            producer.flush(PATIENCE).expect("it is written");
            let ended =
                if commit { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) };
            ended.expect("the transaction ends");
        }
    })
    .await
    .expect("the producer");
    let connector = connector(kafka.bootstrap());
    let events = source(&connector, &name);
    let shard = &shards(&*events, 1).await[0];
    let mut reader = earliest(&*events, shard).await;
    let (mut bodies, mut last) = (Vec::new(), 0);
    // 30 records and 3 markers.
    while last < 32 {
        let batch = read(&mut *reader).await.expect("a batch");
        last = batch.last;
        bodies.extend(batch.events.into_iter().map(|event| event.payload.expect("a body")));
    }
    let expected: Vec<String> = (0..10).chain(20..30).map(|number| number.to_string()).collect();
    assert_eq!(bodies, expected);
    assert_eq!(last, 32);
    let mut reader = open_reader(&*events, shard, after(&*events, shard, 32).await)
        .await
        .expect("the end of the markers is a position");
    fill(&connector, vec![event(0, &topic(&name), None, 1)]).await;
    assert_eq!(collect(&mut *reader, 1).await[0].offset, 33);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_transaction_hides_shows_as_lag() {
    let kafka = kafka();
    let name = unique("hanging");
    kafka.create_topic(&name, 1).expect("the topic can be made");
    let (bootstrap, produced) = (kafka.bootstrap().to_owned(), name.clone());
    let open = tokio::task::spawn_blocking(move || {
        let producer: ThreadedProducer<DefaultProducerContext> = client(&bootstrap, &[("transactional.id", "hanging")]);
        producer.init_transactions(PATIENCE).expect("transactions");
        producer.begin_transaction().expect("a transaction");
        for _ in 0..10 {
            producer.send(BaseRecord::<(), str>::to(&produced).payload("hidden")).expect("it is queued");
        }
        producer.flush(PATIENCE).expect("it is written");
        producer
    });
    let open = open.await.expect("the producer");
    let connector = connector(kafka.bootstrap());
    let events = source(&connector, &name);
    let mut reader = earliest(&*events, &shards(&*events, 1).await[0]).await;
    let until = Instant::now() + PATIENCE;
    while reader.end() != Some(9) {
        assert!(Instant::now() < until, "the end is said to be {:?}", reader.end());
        let nothing = timeout(Duration::from_millis(100), reader.read()).await;
        assert!(nothing.is_err(), "nothing can be read yet");
    }
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_share_a_thread_new_ones_are_found_and_floors_are_committed() {
    const PARTITIONS: usize = 60;
    let kafka = kafka();
    let name = unique("many");
    kafka.create_topic(&name, PARTITIONS as u32).expect("the topic can be made");
    let connector = connector(kafka.bootstrap());
    let events = source(&connector, &name);
    let found = shards(&*events, PARTITIONS).await;
    let mut readers = Vec::new();
    for shard in &found {
        readers.push(earliest(&*events, shard).await);
    }
    fill(&connector, (0..6000).map(|n| event(n, &topic(&name), Some(&n.to_string()), 100)).collect()).await;
    let (mut count, end) = (0, Instant::now() + PATIENCE);
    while count < 6000 {
        assert!(Instant::now() < end, "{count} of 6000 events");
        for reader in &mut readers {
            if let Ok(batch) = timeout(Duration::from_millis(5), reader.read()).await {
                count += batch.expect("a batch").events.len();
            }
        }
    }
    let threads = std::fs::read_dir("/proc/self/task")
        .expect("Linux")
        .flatten()
        .filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "kafka-read"));
    // Other tests of this binary read too, each of its few sources with one thread.
    assert!(threads.count() < 10, "60 partitions have not a thread each");

    let admin: AdminClient<DefaultClientContext> = client(kafka.bootstrap(), &[]);
    let more = [NewPartitions::new(&name, PARTITIONS + 1)];
    admin.create_partitions(&more, &AdminOptions::new()).await.expect("a partition is added");
    let asked = Instant::now();
    shards(&*events, PARTITIONS + 1).await;
    assert!(asked.elapsed() < Duration::from_secs(30));

    readers[7].release(41);
    let consumer: BaseConsumer = client(kafka.bootstrap(), &[("group.id", "longhaul.mesh.eu.orders")]);
    let end = Instant::now() + PATIENCE;
    loop {
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&name, 7);
        let committed = consumer.committed_offsets(asked, PATIENCE);
        let offset = committed.ok().and_then(|list| list.find_partition(&name, 7).map(|element| element.offset()));
        if offset == Some(Offset::Offset(42)) {
            break;
        }
        assert!(Instant::now() < end, "the committed offset is {offset:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_no_event_can_hold_stops_its_partition_with_its_offset() {
    let kafka = kafka();
    let (_connector, name, events) = filled(&kafka, 3, 10).await;
    let producer: BaseProducer = client(kafka.bootstrap(), &[]);
    let mut headers = rdkafka::message::OwnedHeaders::new();
    for _ in 0..65 {
        headers = headers.insert(rdkafka::message::Header { key: "many", value: Some("x") });
    }
    let record = BaseRecord::<(), str>::to(&name).payload("body").headers(headers);
    producer.send(record).expect("it is queued");
    producer.flush(PATIENCE).expect("it is written");
    let shard = &shards(&*events, 1).await[0];
    let mut reader = earliest(&*events, shard).await;
    let (count, error) = until_error(&mut *reader).await;
    assert_eq!(count, 3, "what stands before it is read");
    match error {
        SourceError::Config(text) => assert!(text.contains(&format!("record 3 of {name}/0")), "{text}"),
        other => panic!("{other:?}"),
    }
}
