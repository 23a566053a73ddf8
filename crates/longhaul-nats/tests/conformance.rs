//! The suite of the ports against a real server.

mod support;

use std::sync::Arc;

use longhaul_broker::conformance::{self, Subject};
use longhaul_broker::{Connector, SinkSpec, SourceSpec};
use longhaul_test_brokers::nats::Nats;
use longhaul_topic::Topic;
use longhaul_topology::{BrokerKind, Guarantee, SinkKind, SourceKind};
use support::{access, atomic_stream, connector, filters, named, once_spec, sink_spec, source_spec, stream};

async fn run(nats: &Nats, source: SourceSpec, sink: SinkSpec, too_large_bytes: usize) {
    let connector: Arc<dyn Connector> = connector(access(nats));
    let topics = ["a.one", "a.two", "b"].map(|text| Topic::parse(text).expect("a topic")).to_vec();
    let [mesh, region, broker] = ["m", "eu", "nats"].map(str::to_owned);
    let subject =
        Subject { connector, kind: BrokerKind::Nats, source, sink, topics, mesh, region, broker, too_large_bytes };
    conformance::run(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_stream_keeps_the_contract() {
    let nats = Nats::start_with("").expect("a server");
    stream(&nats, "S", &["a.>", "b"]).await;
    run(&nats, named("S", &[]), sink_spec(), 2 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_atomic_batches_keeps_the_contract_effectively_once() {
    let nats = Nats::start_with("").expect("a server");
    atomic_stream(&nats, "S", &["a.>", "b"]).await;
    run(&nats, named("S", &[]), once_spec(), 2 << 20).await;
}

/// A server without atomic batches. How its streams are written effectively once, by message ids, is tried in `effectively_once`: there
/// events and cursor are two writes, which is another contract.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_server_keeps_the_contract() {
    let Some(nats) = support::older_server("an_older_server_keeps_the_contract") else { return };
    stream(&nats, "S", &["a.>", "b"]).await;
    run(&nats, named("S", &[]), sink_spec(), 2 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_found_by_filters_keep_the_contract() {
    let nats = Nats::start_with("").expect("a server");
    stream(&nats, "S", &["a.>", "b", "c.>"]).await;
    let topics = filters(&["a.#", "b"]);
    run(&nats, source_spec(SourceKind::JetStream { stream: None, topics }), sink_spec(), 2 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_subjects_keep_the_contract() {
    let nats = Nats::start_with("").expect("a server");
    let source = source_spec(SourceKind::NatsCapture { topics: filters(&["a.>", "b"]) });
    run(&nats, source, SinkSpec { sink: SinkKind::CoreNats, guarantee: Guarantee::AtLeastOnce }, 2 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn core_subjects_keep_what_applies_of_the_contract() {
    let nats = Nats::start_with("").expect("a server");
    let source = source_spec(SourceKind::CoreNats { topics: filters(&["a.>", "b"]) });
    run(&nats, source, SinkSpec { sink: SinkKind::CoreNats, guarantee: Guarantee::AtLeastOnce }, 2 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_what_it_refused() {
    // Less than the server's own default.
    let nats = Nats::start_with("max_payload: 64KB").expect("a server");
    conformance::parking(&*connector(access(&nats)), &*connector(access(&nats))).await;
}
