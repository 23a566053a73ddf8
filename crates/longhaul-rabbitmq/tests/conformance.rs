//! The suite of all connectors, against a real RabbitMQ node: through an exchange, through a queue, quorum and classic, and through a stream.

mod common;

use std::sync::Arc;

use common::{
    Raw, access, connector, context, exchange_spec, queue_spec, stream_spec, to_exchange, to_queue, to_stream,
};
use lapin::ExchangeKind;
use longhaul_broker::conformance::{Subject, run};
use longhaul_broker::{Connector, SinkSpec, SourceSpec};
use longhaul_config::QueueType;
use longhaul_rabbitmq::RabbitMqConnector;
use longhaul_test_brokers::rabbitmq::RabbitMq;
use longhaul_topic::Topic;
use longhaul_topology::BrokerKind;

/// One byte more than RabbitMQ 3.x takes.
const TOO_LARGE_BYTES: usize = 134_217_729;

fn subject(connector: Arc<dyn Connector>, source: SourceSpec, sink: SinkSpec) -> Subject {
    let context = context();
    Subject {
        connector,
        kind: BrokerKind::RabbitMq,
        source,
        sink,
        topics: ["orders.new", "orders.eu.paid", "x"].map(|topic| Topic::parse(topic).expect("a topic")).to_vec(),
        mesh: context.mesh,
        region: context.region,
        broker: context.broker,
        too_large_bytes: TOO_LARGE_BYTES,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_conforms() {
    let node = RabbitMq::start().expect("RabbitMQ starts");
    let raw = Raw::connect(node.uri()).await;

    raw.exchange("events", ExchangeKind::Topic).await;
    let through_exchange = subject(
        connector(node.uri()),
        exchange_spec("events", &["orders.>", "x"], "longhaul.spool.shop.conformance"),
        to_exchange("events"),
    );
    run(&through_exchange).await;

    raw.queue("work", "quorum").await;
    let mut through_queue = subject(connector(node.uri()), queue_spec("work"), to_queue("work"));
    // Another flow identity: the cursors of the first run are at the same node.
    through_queue.mesh = "queues".to_owned();
    run(&through_queue).await;

    raw.stream("log", None).await;
    let mut through_stream = subject(connector(node.uri()), stream_spec("log"), to_stream("log"));
    through_stream.mesh = "streams".to_owned();
    run(&through_stream).await;

    raw.queue("classic", "classic").await;
    let mut cfg = access(node.uri());
    cfg.queue_type = QueueType::Classic;
    let classic = RabbitMqConnector::new(cfg, context()).expect("a good configuration");
    let mut through_classic = subject(classic, queue_spec("classic"), to_queue("classic"));
    through_classic.mesh = "classic".to_owned();
    run(&through_classic).await;
}
