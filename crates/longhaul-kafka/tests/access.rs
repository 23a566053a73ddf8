//! Login with SASL PLAIN: the right password serves, a wrong one is a sentence in health and in every error.

mod common;

use common::*;
use longhaul_broker::{Connector, Health, Shard, SinkError, SourceError};
use longhaul_config::{Sasl, Secret};
use longhaul_event::Start;
use longhaul_kafka::KafkaConnector;
use longhaul_test_brokers::kafka::{Kafka, SaslUser};
use longhaul_topology::Partition;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_and_never_shown() {
    let kafka = Kafka::start_sasl(SaslUser { name: "router", password: "right-one" }).expect("Kafka starts");
    let name = unique("login");
    kafka.create_topic(&name, 1).expect("the topic can be made");
    let with = |password: &str| {
        let mut access = access(kafka.sasl_bootstrap());
        let password = Secret::new(password.to_owned());
        access.sasl = Some(Sasl { mechanism: "PLAIN".to_owned(), username: "router".to_owned(), password });
        KafkaConnector::new(access, context()).expect("the configuration is fine")
    };
    let right = with("right-one");
    fill(&right, keyed(&topic(&name), 10, 10)).await;
    assert_eq!(*right.health().borrow(), Health::Up);

    let wrong = with("wrong-one");
    let mut health = wrong.health();
    let down = timeout(PATIENCE, health.wait_for(|health| matches!(health, Health::Down(_)))).await;
    let Health::Down(text) = down.expect("in time").expect("health is told").clone() else { unreachable!() };
    assert!(text.to_lowercase().contains("authentication"), "{text}");
    let shard = Shard { name: format!("{name}/0"), topic: Some(topic(&name)), partition: Some(0), replayable: true };
    let refused = source(&wrong, &name).open(&shard, Start::Earliest).await;
    let Err(SourceError::Config(reading)) = refused.map(|_| ()) else { panic!("reading is not refused") };
    let refused = sink(&wrong, Partition::Key).open(&flow("f"), None).await;
    let Err(SinkError::Config(writing)) = refused.map(|_| ()) else { panic!("writing is not refused") };
    for text in [&text, &reading, &writing] {
        assert!(text.to_lowercase().contains("authentication") && !text.contains("wrong-one"), "{text}");
    }
}
