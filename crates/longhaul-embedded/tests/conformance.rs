//! The ports, as every connector keeps them.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::sync::Arc;

use longhaul_broker::conformance::{Subject, parking, run};
use longhaul_broker::{Connector, Context, SinkSpec};
use longhaul_embedded::Embedded;
use longhaul_topic::Topic;
use longhaul_topology::{BrokerKind, Guarantee};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_keeps_the_ports() {
    keeps_the_ports(Guarantee::AtLeastOnce).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effectively_once_it_keeps_them_too() {
    keeps_the_ports(Guarantee::EffectivelyOnce).await;
}

async fn keeps_the_ports(guarantee: Guarantee) {
    let folder = tempfile::tempdir().unwrap();
    let broker = support::start(folder.path()).await;
    let Context { mesh, region, broker: name, .. } = support::context();
    let subject = Subject {
        connector: Arc::clone(&broker) as Arc<dyn Connector>,
        kind: BrokerKind::Embedded,
        source: support::source(&["orders.>", "audit"]),
        sink: SinkSpec { guarantee, ..support::sink() },
        topics: vec![Topic::parse("orders.eu").unwrap(), Topic::parse("audit").unwrap()],
        mesh,
        region,
        broker: name,
        too_large_bytes: support::EVENT_BYTES_MAX + 1,
    };
    run(&subject).await;
    Embedded::stop(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_it_refused_also_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let broker = support::start(folder.path()).await;
    parking(&*broker, &*broker).await;
    let place = broker.parking().unwrap();
    place.put("c".repeat(32), 0, "head".into()).await.unwrap();
    Embedded::stop(&broker).await;
    drop((place, broker));
    let broker = support::start(folder.path()).await;
    let heads = broker.parking().unwrap().heads(10).await.unwrap();
    assert_eq!(heads, [("c".repeat(32), "head".into())]);
    Embedded::stop(&broker).await;
}
