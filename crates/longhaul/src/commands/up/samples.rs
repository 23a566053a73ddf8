//! A trickle of sample events, published the way anybody would: over HTTP, into each region's embedded broker.

use std::time::Duration;

use bytes::Bytes;

use crate::http::{Call, text};

const EVERY: Duration = Duration::from_secs(1);

/// Publishes one order a second into each broker, until it is aborted. A broker that does not take one is tried again with the next.
pub(crate) async fn publish_for_ever(brokers: Vec<String>) {
    let mut tick = tokio::time::interval(EVERY);
    for number in 1_u64.. {
        tick.tick().await;
        for broker in &brokers {
            let headers = vec![
                ("content-type".to_owned(), "application/json".to_owned()),
                ("longhaul-key".to_owned(), format!("customer-{}", number % 10)),
            ];
            let body = Bytes::from(format!("{{\"order\": {number}, \"total\": {}}}", number * 7 % 100));
            let url = format!("{broker}/v1/topics/orders.sample/events");
            if text(Call { method: "POST", url: &url, headers, body }).await.is_err() {
                tracing::debug!(broker, "a sample event was not taken");
            }
        }
    }
}
