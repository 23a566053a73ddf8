//! What cannot work says so in a sentence, and harms nothing that can.

mod support;

use bytes::Bytes;
use longhaul_broker::{Connector, Health, Poison, SinkError, SinkSpec, SourceError};
use longhaul_config::Nats as Access;
use longhaul_event::{Headers, Position, Start};
use longhaul_test_brokers::nats::Nats;
use longhaul_topology::{Guarantee, SinkKind, SourceKind};
use support::*;
use tokio::time::timeout;

fn sized(offset: u64, topic: &str, bytes: usize) -> longhaul_event::Event {
    longhaul_event::Event { payload: Some(Bytes::from(vec![b'x'; bytes])), ..event(offset, topic) }
}

async fn count(js: &async_nats::jetstream::Context, stream: &str) -> u64 {
    js.get_stream(stream).await.expect("the stream").cached_info().state.messages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_without_a_stream_is_a_sentence_and_blocks_nothing_before_it() {
    let nats = Nats::start_with("").expect("a server");
    let js = stream(&nats, "S", &["a.>"]).await;
    let connector = connector(access(&nats));
    up(&connector).await;
    let (mut writer, _) = writer(&connector, sink_spec(), &flow("f")).await;
    let first = writer.write(vec![event(0, "a.x")]);
    let second = writer.write(vec![event(1, "nowhere"), event(2, "a.x")]);
    first.await.expect("written");
    match second.await {
        Err(SinkError::Config(text)) => assert_eq!(text, "no stream holds subject nowhere"),
        answer => panic!("{answer:?}"),
    }
    assert!(write(&mut *writer, vec![event(3, "a.x")]).await.is_err(), "after an error a writer is spent");
    assert!(writer.commit(Position { incarnation: 1, offset: 0 }).await.is_err(), "for commits too");
    assert_eq!(count(&js, "S").await, 1, "nothing behind the refused event was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_is_made_when_the_document_says_so() {
    let nats = Nats::start_with("").expect("a server");
    let connector = connector(Access { create_streams: true, ..access(&nats) });
    up(&connector).await;
    let (mut first, _) = writer(&connector, sink_spec(), &flow("f")).await;
    assert!(matches!(write(&mut *first, vec![event(0, "new.x")]).await, Err(SinkError::Transient(_))));
    drop(first);
    let (mut second, _) = writer(&connector, sink_spec(), &flow("f")).await;
    write(&mut *second, vec![event(0, "new.x"), event(1, "new.y.z")]).await.expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_for_the_stream_is_found_before_anything_behind_it_is_sent() {
    let nats = Nats::start_with("").expect("a server");
    let js = stream(&nats, "S", &["a.>"]).await;
    let config = async_nats::jetstream::stream::Config {
        name: "SMALL".to_owned(),
        subjects: vec!["small".to_owned()],
        max_message_size: 2000,
        ..Default::default()
    };
    js.create_stream(config.clone()).await.expect("a stream");
    let connector = connector(access(&nats));
    up(&connector).await;
    let (mut first, _) = writer(&connector, sink_spec(), &flow("f")).await;
    let events = vec![sized(0, "small", 1000), sized(1, "small", 2000), sized(2, "small", 10)];
    let refused = write(&mut *first, events).await;
    assert!(matches!(refused, Err(SinkError::Poison { offset: 1, kind: Poison::TooLarge, .. })), "{refused:?}");
    assert_eq!(count(&js, "SMALL").await, 1);

    // The limit shrinks behind the writer's back: found by a refusal, and then by one event alone.
    let (mut stale, _) = writer(&connector, sink_spec(), &flow("g")).await;
    write(&mut *stale, vec![sized(0, "small", 10)]).await.expect("written");
    let shrunk = async_nats::jetstream::stream::Config { max_message_size: 500, ..config };
    js.update_stream(shrunk).await.expect("shrunk");
    let events: Vec<_> = (1..5).map(|n| sized(n, "small", if n == 2 { 1000 } else { 10 })).collect();
    let vague = write(&mut *stale, events.clone()).await;
    assert!(matches!(vague, Err(SinkError::Transient(_))), "{vague:?}");
    drop(stale);
    let (mut fresh, _) = writer(&connector, sink_spec(), &flow("g")).await;
    let refused = write(&mut *fresh, events).await;
    assert!(matches!(refused, Err(SinkError::Poison { offset: 2, kind: Poison::TooLarge, .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_the_middle_that_passes_never_turns_the_order_around() {
    let nats = Nats::start_with("").expect("a server");
    let js = async_nats::jetstream::new(client(&nats).await);
    let config = |max_message_size| async_nats::jetstream::stream::Config {
        name: "S".to_owned(),
        subjects: vec!["a.x".to_owned()],
        max_message_size,
        ..Default::default()
    };
    js.create_stream(config(2000)).await.expect("a stream");
    let connector = connector(access(&nats));
    up(&connector).await;
    let events: Vec<_> = (0..5).map(|n| sized(n, "a.x", if n == 1 { 1000 } else { 10 })).collect();
    let (mut first, _) = writer(&connector, sink_spec(), &flow("f")).await;
    js.update_stream(config(500)).await.expect("shrunk");
    assert!(matches!(write(&mut *first, events.clone()).await, Err(SinkError::Transient(_))));
    drop(first);
    js.update_stream(config(2000)).await.expect("as before");
    let (mut second, _) = writer(&connector, sink_spec(), &flow("f")).await;
    write(&mut *second, events).await.expect("written");

    let stored = usize::try_from(count(&js, "S").await).expect("few");
    let source = connector.source(named("S", &[])).expect("a source");
    let mut reader = reader(&*source, &shard(&*source).await, Start::Earliest).await;
    let ids: Vec<u128> = read_some(&mut *reader, stored).await.0.iter().map(|event| event.id.0).collect();
    assert!(ids.len() > 5, "nothing behind the refused event was stored before it: the test shows nothing");
    assert_eq!(ids[ids.len() - 5..], [1, 2, 3, 4, 5], "a repeated tail, in order: {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn max_payload_counts_headers() {
    let nats = Nats::start_with("max_payload: 8192").expect("a server");
    stream(&nats, "S", &["a.>"]).await;
    let connector = connector(access(&nats));
    up(&connector).await;
    let mut headers = Headers::builder();
    headers.push("h", &[b'v'; 4000]).expect("a header");
    let mut fits = sized(0, "a.x", 3500);
    fits.headers = headers.finish();
    let mut not = fits.clone();
    (not.offset, not.payload) = (1, Some(Bytes::from(vec![b'x'; 4100])));
    let (mut writer, _) = writer(&connector, sink_spec(), &flow("f")).await;
    write(&mut *writer, vec![fits]).await.expect("written");
    let refused = write(&mut *writer, vec![not]).await;
    assert!(matches!(refused, Err(SinkError::Poison { offset: 1, kind: Poison::TooLarge, .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_no_subject_is_poison() {
    let nats = Nats::start_with("").expect("a server");
    stream(&nats, "S", &["a.>"]).await;
    let connector = connector(access(&nats));
    up(&connector).await;
    for (sink, topic) in
        [(SinkKind::JetStream, "a..b"), (SinkKind::CoreNats, "a b"), (SinkKind::JetStream, "$JS.API.STREAM.PURGE.S")]
    {
        let (mut writer, _) =
            writer(&connector, SinkSpec { sink, guarantee: Guarantee::AtLeastOnce }, &flow("f")).await;
        let refused = write(&mut *writer, vec![event(0, "a.x"), event(9, topic)]).await;
        assert!(matches!(refused, Err(SinkError::Poison { offset: 9, kind: Poison::BadTopic, .. })), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn control_headers_of_a_source_event_command_nothing() {
    let nats = Nats::start_with("").expect("a server");
    let js = jetstream_with_rollup(&nats).await;
    let connector = connector(access(&nats));
    up(&connector).await;
    let mut headers = Headers::builder();
    for (name, value) in
        [("Nats-Rollup", "all"), ("nats-rollup", "all"), ("Nats-Expected-Last-Sequence", "99"), ("Nats-TTL", "1s")]
    {
        headers.push(name, value.as_bytes()).expect("a header");
    }
    let mut hostile = event(5, "a.x");
    hostile.headers = headers.finish();
    let (mut writer, _) = writer(&connector, sink_spec(), &flow("f")).await;
    write(&mut *writer, (0..5).map(|n| event(n, "a.x")).chain([hostile]).collect()).await.expect("written");
    assert_eq!(count(&js, "S").await, 6, "the destination was purged");
}

async fn jetstream_with_rollup(nats: &Nats) -> async_nats::jetstream::Context {
    let js = async_nats::jetstream::new(client(nats).await);
    let config = async_nats::jetstream::stream::Config {
        name: "S".to_owned(),
        subjects: vec!["a.>".to_owned()],
        allow_rollup: true,
        ..Default::default()
    };
    js.create_stream(config).await.expect("a stream");
    js
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_without_it() {
    let nats = Nats::start_with("authorization { user: user, password: right }").expect("a server");
    let connector = connector(with_password(&nats, "sesame"));
    let mut health = connector.health();
    let down = timeout(LIMIT, health.wait_for(|health| matches!(health, Health::Down(_)))).await.expect("in time");
    let Health::Down(reason) = down.expect("a health").clone() else { unreachable!("waited for Down") };
    assert!(reason.contains("password") && !reason.contains("sesame"), "{reason}");
    let sink = connector.sink(sink_spec()).expect("a sink");
    assert!(matches!(sink.open(&flow("f"), None).await, Err(SinkError::Config(_))));
    let right = support::connector(with_password(&nats, "right"));
    up(&right).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_cannot_be_read_are_named() {
    let nats = Nats::start_with("").expect("a server");
    let js = async_nats::jetstream::new(client(&nats).await);
    let config = async_nats::jetstream::stream::Config {
        name: "W".to_owned(),
        subjects: vec!["w".to_owned()],
        retention: async_nats::jetstream::stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    js.create_stream(config).await.expect("a stream");
    let connector = connector(access(&nats));
    up(&connector).await;
    for (stream, words) in [("W", "workqueue retention"), ("NONE", "no stream NONE")] {
        let source = connector.source(named(stream, &[])).expect("a source");
        let error = source.open(&shard(&*source).await, Start::Earliest).await.err();
        assert!(matches!(&error, Some(SourceError::Config(text)) if text.contains(words)), "{error:?}");
    }
    let error = connector.source(source_spec(SourceKind::Kafka { topics: vec![] })).err();
    assert!(matches!(error, Some(SourceError::Config(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_routers_that_write_one_flow_notice_each_other() {
    let nats = Nats::start_with("").expect("a server");
    stream(&nats, "S", &["a.>"]).await;
    let (one, two) = (connector(access(&nats)), connector(access(&nats)));
    let (mut old, cursor) = writer(&one, sink_spec(), &flow("f")).await;
    assert_eq!(cursor, None);
    old.commit(Position { incarnation: 1, offset: 4 }).await.expect("committed");
    let (mut new, cursor) = writer(&two, sink_spec(), &flow("f")).await;
    assert_eq!(cursor, Some(4));
    match old.commit(Position { incarnation: 1, offset: 5 }).await {
        Err(SinkError::Transient(text)) => assert!(text.contains("another router"), "{text}"),
        answer => panic!("the old owner does not notice: {answer:?}"),
    }
    new.commit(Position { incarnation: 1, offset: 6 }).await.expect("committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_larger_than_may_be_read_stops_its_shard_with_a_sentence() {
    let nats = Nats::start_with("max_payload: 4MB").expect("a server");
    let js = stream(&nats, "S", &["a.>"]).await;
    for bytes in [10, 1 << 20, 10] {
        js.publish("a.x", Bytes::from(vec![0; bytes])).await.expect("sent").await.expect("stored");
    }
    // Beyond what a request of a reader asks for: the server does not even send it.
    js.publish("a.x", Bytes::from(vec![0; 3 << 20])).await.expect("sent").await.expect("stored");
    let connector = connector(access(&nats));
    let source = connector.source(named("S", &[])).expect("a source");
    let shard = shard(&*source).await;
    let mut from_first = reader(&*source, &shard, Start::Earliest).await;
    let (events, error) = read_some(&mut *from_first, 4).await;
    assert_eq!(events.len(), 1, "what stands before it is read");
    assert!(matches!(&error, Some(SourceError::Config(text)) if text.contains("sequence 2")), "{error:?}");
    let after = Start::After(Position { incarnation: from_first.incarnation(), offset: 2 });
    let (events, error) = read_some(&mut *reader(&*source, &shard, after).await, 2).await;
    assert_eq!(events.len(), 1);
    assert!(matches!(&error, Some(SourceError::Config(text)) if text.contains("behind sequence 3")), "{error:?}");
}
