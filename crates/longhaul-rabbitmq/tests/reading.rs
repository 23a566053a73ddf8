//! One reader at a time; what was not released comes again; what was released never; nothing is acknowledged on another channel.

mod common;

use std::time::Duration;

use common::{
    PATIENCE, Raw, access, connector, context, exchange_spec, flow, nothing, open, queue_spec, read, read_from,
    to_exchange,
};
use lapin::options::BasicGetOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use longhaul_broker::{Connector, SourceError};
use longhaul_event::{Event, HeaderTag, Identity, Position, Start};
use longhaul_rabbitmq::RabbitMqConnector;
use longhaul_test_brokers::rabbitmq::RabbitMq;
use tokio::time::timeout;

/// How long nothing must come for that to be believed, and for an acknowledgement, which has no answer, to get there.
const QUIET: Duration = Duration::from_millis(700);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_is_exclusive_and_forgets_nothing() {
    let node = RabbitMq::start().expect("RabbitMQ starts");
    let raw = Raw::connect(node.uri()).await;
    for kind in ["quorum", "classic"] {
        redelivery_after_a_dropped_reader(&node, &raw, kind).await;
    }
    one_reader_at_a_time(&node, &raw).await;
    prefetch_is_the_bound(&node, &raw).await;
    identity_survives_redelivery(&node, &raw).await;
    bindings_follow_the_route(&node, &raw).await;
    a_note_that_nobody_can_read_holds_nothing_up(&node, &raw).await;
    a_message_that_cannot_be_carried_stays(&node, &raw).await;
    one_writer_at_a_time(&node, &raw).await;
}

async fn publish(raw: &Raw, queue: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        assert!(raw.publish("", queue, BasicProperties::default(), number.to_string().as_bytes()).await);
    }
}

fn bodies(events: &[Event]) -> Vec<u32> {
    let text = |event: &Event| String::from_utf8_lossy(event.payload.as_deref().unwrap_or_default()).into_owned();
    events.iter().map(|event| text(event).parse().expect("a number")).collect()
}

async fn redelivery_after_a_dropped_reader(node: &RabbitMq, raw: &Raw, kind: &str) {
    let queue = format!("again-{kind}");
    raw.queue(&queue, kind).await;
    publish(raw, &queue, 0..20).await;
    let rabbit = connector(node.uri());
    let source = rabbit.source(queue_spec(&queue)).expect("a source");
    let mut first = read_from(&*source).await;
    let events = read(&mut *first, 20).await;
    assert_eq!(bodies(&events), (0..20).collect::<Vec<_>>());
    assert!(first.end() >= Some(20));
    first.release(events[7].offset);
    nothing(&mut *first, QUIET).await;
    let (incarnation, stale) = (first.incarnation(), events[19].offset);
    drop(first);

    let mut second = read_from(&*source).await;
    assert_ne!(second.incarnation(), incarnation, "another channel is another life");
    assert_eq!(second.start(), 0);
    // The tag of the old channel is not one of this: acknowledged here it would take away what nobody has.
    second.release(stale);
    let again = read(&mut *second, 12).await;
    assert_eq!(bodies(&again), (8..20).collect::<Vec<_>>(), "exactly what was not released, in order");
    second.release(stale);
    nothing(&mut *second, QUIET).await;
    drop(second);
    raw.until_waiting(&queue, 12).await;

    let mut third = read_from(&*source).await;
    let last = read(&mut *third, 12).await;
    third.release(last[11].offset);
    nothing(&mut *third, QUIET).await;
    drop(third);
    raw.until_waiting(&queue, 0).await;
}

async fn one_reader_at_a_time(node: &RabbitMq, raw: &Raw) {
    raw.queue("alone", "quorum").await;
    let (here, there) = (connector(node.uri()), connector(node.uri()));
    let source = here.source(queue_spec("alone")).expect("a source");
    let reader = read_from(&*source).await;
    let other = there.source(queue_spec("alone")).expect("a source");
    let shard = source.shards().borrow()[0].clone();
    for source in [&source, &other] {
        match source.open(&shard, Start::Latest).await {
            Err(SourceError::Transient(text)) => assert!(text.contains("another router reads"), "{text}"),
            Err(error) => panic!("refused as {error:?}"),
            Ok(_) => panic!("two readers of one queue"),
        }
    }
    assert!(other.shards().borrow().is_empty(), "what another router reads is not listed");
    drop((reader, source, here));
    let mut reader = read_from(&*other).await;
    publish(raw, "alone", 5..6).await;
    assert_eq!(bodies(&read(&mut *reader, 1).await), [5]);
}

async fn prefetch_is_the_bound(node: &RabbitMq, raw: &Raw) {
    raw.queue("bounded", "quorum").await;
    publish(raw, "bounded", 0..30).await;
    let mut cfg = access(node.uri());
    cfg.prefetch = 10;
    let rabbit = RabbitMqConnector::new(cfg, context()).expect("a good configuration");
    let source = rabbit.source(queue_spec("bounded")).expect("a source");
    let mut reader = read_from(&*source).await;
    let events = read(&mut *reader, 10).await;
    nothing(&mut *reader, QUIET).await;
    reader.release(events[3].offset);
    assert_eq!(bodies(&read(&mut *reader, 4).await), [10, 11, 12, 13]);
    nothing(&mut *reader, QUIET).await;
}

async fn identity_survives_redelivery(node: &RabbitMq, raw: &Raw) {
    raw.queue("identity", "quorum").await;
    let mut table = FieldTable::default();
    table.insert("count".into(), AMQPValue::LongInt(42));
    let plain = BasicProperties::default().with_headers(table).with_content_type("text/plain".into());
    raw.publish("", "identity", plain.clone(), b"same").await;
    raw.publish("", "identity", plain.with_message_id("m-1".into()), b"same").await;
    let rabbit = connector(node.uri());
    let source = rabbit.source(queue_spec("identity")).expect("a source");
    let mut reader = read_from(&*source).await;
    let mut before = read(&mut *reader, 2).await;
    drop(reader);
    let mut reader = read_from(&*source).await;
    let mut after = read(&mut *reader, 2).await;
    before.iter_mut().chain(after.iter_mut()).for_each(|event| event.offset = 0);
    assert_eq!(before, after, "a redelivered event is the same in everything");
    assert_eq!((before[0].identity, before[1].identity), (Identity::Content, Identity::Unique));
    assert_ne!(before[0].id, before[1].id);
    let typed = before[0].headers.first("count").expect("the header");
    assert_eq!((typed.tag, typed.value), (HeaderTag(b'I'), &42_i32.to_be_bytes()[..]));
    assert_eq!(before[0].headers.first("content-type").expect("the property").value, b"text/plain");
}

async fn bindings_follow_the_route(node: &RabbitMq, raw: &Raw) {
    raw.exchange("changing", ExchangeKind::Topic).await;
    let rabbit = connector(node.uri());
    let before = rabbit.source(exchange_spec("changing", &["a.>", "b"], "longhaul.spool.changing")).expect("a source");
    let reader = read_from(&*before).await;
    drop((reader, before));
    // The spool catches events while nobody reads.
    assert!(raw.publish("changing", "b", BasicProperties::default(), b"1").await);
    assert!(raw.publish("changing", "a.x", BasicProperties::default(), b"2").await);
    let after = rabbit.source(exchange_spec("changing", &["a.>", "c"], "longhaul.spool.changing")).expect("a source");
    let mut reader = read_from(&*after).await;
    assert!(!raw.publish("changing", "b", BasicProperties::default(), b"3").await, "the old binding is removed");
    assert!(raw.publish("changing", "c", BasicProperties::default(), b"4").await);
    assert_eq!(bodies(&read(&mut *reader, 2).await), [2, 4], "what an old binding caught is passed over");
}

async fn a_note_that_nobody_can_read_holds_nothing_up(node: &RabbitMq, raw: &Raw) {
    raw.exchange("noted", ExchangeKind::Topic).await;
    let rabbit = connector(node.uri());
    let spec = || exchange_spec("noted", &["a.>"], "longhaul.spool.noted");
    let source = rabbit.source(spec()).expect("a source");
    drop((read_from(&*source).await, source));
    let listed = node.ctl(&["list_queues", "name"]).expect("the queues");
    let notes: Vec<&str> = listed.lines().filter(|name| name.starts_with("longhaul.bindings.")).collect();
    assert!(!notes.is_empty(), "the bindings are noted: {listed}");
    // Their only messages are out with us, as if the queues answered nobody.
    let ours = Raw::connect(node.uri()).await;
    for note in notes {
        let taken = ours.channel.basic_get(note.into(), BasicGetOptions { no_ack: false }).await.expect("a queue");
        assert!(taken.is_some(), "{note} holds something");
    }
    let source = rabbit.source(spec()).expect("a source");
    let mut reader = read_from(&*source).await;
    assert!(raw.publish("noted", "a.x", BasicProperties::default(), b"1").await);
    assert_eq!(bodies(&read(&mut *reader, 1).await), [1]);
    for note in listed.lines().filter(|name| name.starts_with("longhaul.bindings.")) {
        assert_eq!(raw.waiting(note).await, 0, "{note} was not waited for, nor made anew");
    }
}

async fn a_message_that_cannot_be_carried_stays(node: &RabbitMq, raw: &Raw) {
    raw.queue("monster", "quorum").await;
    publish(raw, "monster", 1..2).await;
    raw.publish("", "monster", BasicProperties::default(), &vec![0; 2 << 20]).await;
    let rabbit = connector(node.uri());
    let source = rabbit.source(queue_spec("monster")).expect("a source");
    let mut reader = read_from(&*source).await;
    assert_eq!(bodies(&read(&mut *reader, 1).await), [1], "what stands before it is read");
    match timeout(PATIENCE, reader.read()).await.expect("an answer") {
        Err(SourceError::Config(text)) => assert!(text.contains("monster") && text.contains("1048576"), "{text}"),
        other => panic!("an event of 2 MiB is {other:?}"),
    }
    drop(reader);
    raw.until_waiting("monster", 2).await;
}

async fn one_writer_at_a_time(node: &RabbitMq, raw: &Raw) {
    raw.exchange("written", ExchangeKind::Topic).await;
    let (here, there) = (connector(node.uri()), connector(node.uri()));
    let (sink, other) =
        (here.sink(to_exchange("written")).expect("a sink"), there.sink(to_exchange("written")).expect("a sink"));
    let mut opened = open(&*sink, &flow("alone")).await;
    for sink in [&sink, &other] {
        let refused = sink.open(&flow("alone"), None).await.err().expect("two writers of one flow");
        assert!(refused.to_string().contains("another router writes"), "{refused}");
    }
    let position = Position { incarnation: 3, offset: 9 };
    opened.writer.commit(position).await.expect("a cursor");
    assert!(other.open(&flow("other"), None).await.is_ok(), "another flow is another lock");
    drop(opened);
    assert_eq!(open(&*other, &flow("alone")).await.cursor, Some(position));
    // A lock that somebody deletes is lost: the writer must not go on as if it were alone.
    let mut opened = open(&*sink, &flow("stolen")).await;
    let lock = format!("longhaul.lock.{}", flow("stolen").id());
    let denied = raw.connection.create_channel().await.expect("a channel");
    let options = lapin::options::QueueDeleteOptions::default();
    assert!(
        denied.queue_delete(lock.as_str().into(), options).await.is_err(),
        "an exclusive queue is its connection's"
    );
    opened.writer.commit(position).await.expect("still alone");
}
