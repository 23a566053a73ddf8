//! What RabbitMQ, or AMQP, refuses ends in a sentence, and what a header could make the broker do is not done.

mod common;

use common::{
    PATIENCE, Raw, access, connector, context, down, event, exchange_spec, flow, open, queue_spec, read, read_from,
    refusal, to_exchange, to_queue, up,
};
use lapin::ExchangeKind;
use lapin::types::ShortString;
use longhaul_broker::{Connector, Poison, Sink, SinkError};
use longhaul_event::{HeaderTag, Headers, Position};
use longhaul_rabbitmq::RabbitMqConnector;
use longhaul_test_brokers::rabbitmq::RabbitMq;
use longhaul_test_brokers::skip;
use tokio::time::timeout;

async fn sink_refusal(sink: &dyn Sink) -> String {
    match sink.open(&flow("refused"), None).await {
        Err(SinkError::Config(text)) => text,
        Err(other) => panic!("refused as {other:?}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_sentences() {
    let node = RabbitMq::start_with("max_message_size = 1000000").expect("RabbitMQ starts");
    let raw = Raw::connect(node.uri()).await;
    let rabbit = connector(node.uri());
    up(&rabbit).await;
    missing_queues_and_exchanges(&rabbit).await;
    types_of_exchanges(&raw, &rabbit).await;
    unroutable_is_poison(&raw, &rabbit).await;
    a_lowered_size_limit_is_learnt(&raw, &rabbit).await;
    control_headers_do_nothing(&raw, &rabbit).await;
    wrong_passwords_are_told_without_them(&node).await;
    assert!(raw.connection.status().connected());
}

async fn missing_queues_and_exchanges(rabbit: &RabbitMqConnector) {
    let queue = rabbit.source(queue_spec("nowhere")).expect("a source");
    assert!(refusal(&*queue).await.contains("queue \"nowhere\" is not there"));
    let exchange = rabbit.source(exchange_spec("nowhere", &[">"], "longhaul.spool.nowhere")).expect("a source");
    assert!(refusal(&*exchange).await.contains("exchange \"nowhere\" is not there"));
    let sink = rabbit.sink(to_exchange("nowhere")).expect("a sink");
    assert!(sink_refusal(&*sink).await.contains("exchange \"nowhere\" is not there"));
    let sink = rabbit.sink(to_queue("nowhere")).expect("a sink");
    assert!(sink_refusal(&*sink).await.contains("queue \"nowhere\" is not there"));
    assert!(rabbit.sink(to_exchange("")).is_err(), "the default exchange has no name");
    assert!(rabbit.sink(to_queue(&"q".repeat(256))).is_err(), "no queue has such a name");
}

async fn types_of_exchanges(raw: &Raw, rabbit: &RabbitMqConnector) {
    raw.exchange("direct", ExchangeKind::Direct).await;
    raw.exchange("fanout", ExchangeKind::Fanout).await;
    raw.exchange("headers", ExchangeKind::Headers).await;
    let wild = rabbit.source(exchange_spec("direct", &["orders.*"], "longhaul.spool.wild")).expect("a source");
    assert!(refusal(&*wild).await.contains("orders.*"), "a direct exchange would never match it");
    for exchange in ["direct", "fanout", "headers"] {
        let spec = exchange_spec(exchange, &["orders.new", "orders.old"], &format!("longhaul.spool.{exchange}"));
        let source = rabbit.source(spec).expect("a source");
        let mut reader = read_from(&*source).await;
        for key in ["orders.new", "orders.other", "orders.old"] {
            raw.publish(exchange, key, lapin::BasicProperties::default(), key.as_bytes()).await;
        }
        let events = read(&mut *reader, 2).await;
        let topics: Vec<&str> = events.iter().map(|event| event.topic.as_str()).collect();
        assert_eq!(topics, ["orders.new", "orders.old"], "from a {exchange} exchange");
    }
}

async fn unroutable_is_poison(raw: &Raw, rabbit: &RabbitMqConnector) {
    raw.exchange("some", ExchangeKind::Topic).await;
    raw.queue("bound", "quorum").await;
    raw.bind("bound", "some", "known.#").await;
    let sink = rabbit.sink(to_exchange("some")).expect("a sink");
    let mut writer = open(&*sink, &flow("unroutable")).await.writer;
    // The unroutable one is in the second of three writes that are all under way.
    let topic = |number| if number == 137 { "unknown" } else { "known.topic" };
    let writes: Vec<_> = [0..100, 100..200, 200..300]
        .into_iter()
        .map(|numbers| writer.write(numbers.map(|number| event(number, topic(number), 100)).collect()))
        .collect();
    let mut results = Vec::new();
    for write in writes {
        results.push(timeout(PATIENCE, write).await.expect("a write resolves"));
    }
    assert!(results[0].is_ok(), "what is before it is confirmed: {:?}", results[0]);
    let poison = |result: &Result<(), SinkError>| match result {
        Err(SinkError::Poison { offset, kind: Poison::Unroutable, .. }) => Some(*offset),
        _ => None,
    };
    assert_eq!(poison(&results[1]), Some(137), "{:?}", results[1]);
    assert!(matches!(&results[2], Err(SinkError::Transient(_))), "{:?}", results[2]);
    assert!(writer.write(Vec::new()).await.is_err(), "the writer is spent");
    drop(writer);
    let mut writer = open(&*sink, &flow("unroutable")).await.writer;
    writer.write(vec![event(138, "known.topic", 100)]).await.expect("it goes on behind it");
    raw.channel.queue_purge("bound".into(), lapin::options::QueuePurgeOptions::default()).await.expect("a queue");
}

async fn a_lowered_size_limit_is_learnt(raw: &Raw, rabbit: &RabbitMqConnector) {
    let sink = rabbit.sink(to_queue("bound")).expect("a sink");
    let large = || vec![event(1, "t", 999_000), event(2, "t", 1_000_001), event(3, "t", 10)];
    let mut writer = open(&*sink, &flow("large")).await.writer;
    let first = timeout(PATIENCE, writer.write(large())).await.expect("a write resolves");
    assert!(matches!(first, Err(SinkError::Transient(_))), "the broker closes the channel: {first:?}");
    let mut writer = open(&*sink, &flow("large")).await.writer;
    match timeout(PATIENCE, writer.write(large())).await.expect("a write resolves") {
        Err(SinkError::Poison { offset: 2, kind: Poison::TooLarge, reason }) => assert!(reason.contains("1000000")),
        other => panic!("the second time it is known: {other:?}"),
    }
    let mut keyed = event(4, "t", 10);
    keyed.key = Some(vec![0; 200_000].into());
    let mut writer = open(&*sink, &flow("large")).await.writer;
    let frame = timeout(PATIENCE, writer.write(vec![keyed])).await.expect("a write resolves");
    assert!(matches!(frame, Err(SinkError::Poison { offset: 4, kind: Poison::TooLarge, .. })), "{frame:?}");
    raw.channel.queue_purge("bound".into(), lapin::options::QueuePurgeOptions::default()).await.expect("a queue");
}

async fn control_headers_do_nothing(raw: &Raw, rabbit: &RabbitMqConnector) {
    raw.queue("victim", "quorum").await;
    raw.queue("target", "quorum").await;
    let mut copied = event(1, "t", 10);
    let mut headers = Headers::builder();
    let mut list = vec![b'S'];
    list.extend(6_u32.to_be_bytes());
    list.extend(b"victim");
    let len = u32::try_from(list.len()).expect("small");
    for name in ["CC", "BCC"] {
        headers.push_tagged(name, HeaderTag(b'A'), &[&len.to_be_bytes()[..], &list].concat()).expect("small");
    }
    for name in ["x-delay", "x-death", "x-first-death-queue", "amqp.user_id", "amqp.expiration"] {
        headers.push(name, b"1").expect("small");
    }
    copied.headers = headers.finish();
    let sink = rabbit.sink(to_queue("target")).expect("a sink");
    let mut writer = open(&*sink, &flow("control")).await.writer;
    writer.write(vec![copied]).await.expect("it is written once");
    let delivery = raw.get("target").await.expect("the message");
    let table = delivery.properties.headers().clone().expect("headers");
    assert!(["CC", "BCC", "x-delay", "x-death", "x-first-death-queue"].iter().all(|name| !table.contains_key(name)));
    assert_eq!((delivery.properties.user_id(), delivery.properties.expiration()), (&None, &None));
    assert_eq!(delivery.properties.delivery_mode(), &Some(2), "persistent");
    let id = format!("{:032x}", 2);
    assert_eq!(delivery.properties.message_id().as_ref().map(ShortString::as_str), Some(&*id));
    assert!(raw.get("victim").await.is_none(), "a copy was routed by a header");
    assert!(raw.get("target").await.is_none(), "it was written once");
    writer.commit(Position { incarnation: 1, offset: 1 }).await.expect("the writer works");
}

async fn wrong_passwords_are_told_without_them(node: &RabbitMq) {
    let uri = node.uri().replace("guest:guest@", "guest:s3cret-and-wrong@");
    if uri == node.uri() {
        skip("wrong_passwords_are_told_without_them", "an external broker with another login");
        return;
    }
    let rabbit = RabbitMqConnector::new(access(&uri), context()).expect("well-formed");
    let reason = down(&rabbit).await;
    assert!(reason.contains("ACCESS_REFUSED") && !reason.contains("s3cret"), "{reason}");
    let sink = rabbit.sink(to_queue("target")).expect("a sink");
    let refused = sink_refusal(&*sink).await;
    assert!(refused.contains("ACCESS_REFUSED") && !refused.contains("s3cret"), "{refused}");
}
