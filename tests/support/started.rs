//! Several brokers at once: they take seconds to start, and wait on each other for nothing.

use longhaul_test_brokers::{kafka, nats, rabbitmq};

/// Room for payloads of 1 MiB with their headers; NATS and Kafka have a limit of just that.
const EVENT_BYTES_MAX: usize = 4_000_000;

/// A Kafka that takes payloads of 1 MiB and more.
///
/// # Panics
/// When it does not start; says what is missing.
pub async fn kafka() -> kafka::Kafka {
    let limit = EVENT_BYTES_MAX.to_string();
    let start = move || kafka::Kafka::start_with(&[("message.max.bytes", &limit)]);
    tokio::task::spawn_blocking(start).await.expect("starting works").expect("Kafka starts")
}

/// A RabbitMQ.
///
/// # Panics
/// When it does not start; says what is missing.
pub async fn rabbitmq() -> rabbitmq::RabbitMq {
    let start = || rabbitmq::RabbitMq::start_with("# a node of its own");
    tokio::task::spawn_blocking(start).await.expect("starting works").expect("RabbitMQ starts")
}

/// A NATS server that takes payloads of 1 MiB and more.
///
/// # Panics
/// When it does not start; says what is missing.
pub async fn nats() -> nats::Nats {
    let start = || nats::Nats::start_with(&format!("max_payload: {EVENT_BYTES_MAX}"));
    tokio::task::spawn_blocking(start).await.expect("starting works").expect("NATS starts")
}
