//! The shared suite against a real Kafka.

mod common;

use longhaul_broker::conformance::{Subject, parking, run};
use longhaul_broker::{Connector, SinkSpec, SourceSpec};
use longhaul_topology::{BrokerKind, Guarantee, Partition, SinkKind, SourceKind};

#[tokio::test(flavor = "multi_thread")]
async fn kafka_conforms() {
    let kafka = common::kafka();
    let names = [common::unique("first"), common::unique("second")];
    for name in &names {
        kafka.create_topic(name, 3).expect("the topic can be made");
    }
    let connector: std::sync::Arc<dyn Connector> = common::connector(kafka.bootstrap());
    let filters = names.iter().map(|name| common::filter(name)).collect();
    let subject = Subject {
        connector,
        kind: BrokerKind::Kafka,
        source: SourceSpec { source: SourceKind::Kafka { topics: filters }, spool: None },
        sink: SinkSpec {
            sink: SinkKind::Kafka { partition: Partition::Key, tombstone_on_empty: false },
            guarantee: Guarantee::AtLeastOnce,
        },
        topics: names.iter().map(|name| common::topic(name)).collect(),
        mesh: common::MESH.to_owned(),
        region: common::REGION.to_owned(),
        broker: common::BROKER.to_owned(),
        // Kafka's own default limit is 1 MiB and 12 bytes.
        too_large_bytes: 1_048_589,
    };
    run(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_what_it_refused() {
    let kafka = common::kafka();
    parking(&*common::connector(kafka.bootstrap()), &*common::connector(kafka.bootstrap())).await;
}
