//! Ordinary clients of every broker, as an application would use them: nothing of Longhaul's own code is in them.

mod embedded;
mod kafka;
mod nats;
mod rabbitmq;

use std::collections::HashSet;
use std::time::{Duration, Instant};

pub use embedded::Embedded;
pub use kafka::Kafka;
pub use nats::{Listener, Nats};
pub use rabbitmq::{EXCHANGE, RabbitMq, TYPED};

use crate::sample::{Arrived, Sample};

/// After the last expected event: for how long repeats of earlier ones are waited for.
const QUIET: Duration = Duration::from_millis(1_500);

/// A client of one broker.
pub enum Client {
    /// Of Kafka.
    Kafka(Kafka),
    /// Of RabbitMQ.
    RabbitMq(RabbitMq),
    /// Of NATS JetStream.
    Nats(Nats),
    /// Of the embedded broker.
    Embedded(Embedded),
}

impl Client {
    /// The kind, as the mesh document names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::RabbitMq(_) => "rabbitmq",
            Self::Nats(_) => "nats",
            Self::Embedded(_) => "embedded",
        }
    }

    /// What a router document says to reach the broker; the mesh writes that of an embedded one itself.
    ///
    /// # Panics
    /// For an embedded broker.
    #[must_use]
    pub fn access(&self) -> String {
        match self {
            Self::Kafka(client) => format!("kafka: {{bootstrap: [\"{}\"]}}", client.bootstrap()),
            Self::RabbitMq(client) => format!("rabbitmq: {{uri: \"{}\"}}", client.uri()),
            Self::Nats(client) => format!("nats: {{servers: [\"{}\"]}}", client.url()),
            Self::Embedded(_) => panic!("an embedded broker is part of its router"),
        }
    }

    /// What a route says behind `region` and `broker` to write to this broker.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::RabbitMq(_) => format!(", exchange: {EXCHANGE}"),
            _ => String::new(),
        }
    }

    /// Makes what the topics need: Kafka topics with 4 partitions, an exchange with a queue for each, streams.
    pub async fn prepare(&self, topics: &[&str]) {
        match self {
            Self::Kafka(client) => client.prepare(topics).await,
            Self::RabbitMq(client) => client.prepare(topics).await,
            Self::Nats(client) => client.prepare(topics).await,
            Self::Embedded(_) => {}
        }
    }

    /// Produces in order of the keys, as fast as the broker confirms; returns when all is confirmed.
    pub async fn produce(&self, samples: &[Sample]) {
        match self {
            Self::Kafka(client) => client.produce(samples),
            Self::RabbitMq(client) => client.produce(samples).await,
            Self::Nats(client) => client.produce(samples).await,
            Self::Embedded(client) => client.produce(samples).await,
        }
    }

    /// How many events a topic holds now.
    pub async fn count(&self, topic: &str) -> usize {
        match self {
            Self::Kafka(client) => client.count(topic),
            Self::RabbitMq(client) => client.count(topic).await,
            Self::Nats(client) => client.count(topic).await,
            Self::Embedded(client) => client.count().await,
        }
    }

    /// Reads a topic from its start until `distinct` different events are there, and what still comes shortly behind them; or until
    /// nothing came for as long as patience lasts. Kafka's partitions come one after the other.
    pub async fn consume(&self, topic: &str, distinct: usize, patience: Duration) -> Vec<Arrived> {
        let tally = Tally::new(distinct, patience);
        match self {
            Self::Kafka(client) => client.consume(topic, tally).await,
            Self::RabbitMq(client) => client.consume(topic, tally).await,
            Self::Nats(client) => client.consume(topic, tally).await,
            Self::Embedded(client) => client.consume(topic, tally).await,
        }
    }
}

/// What a reader of events has so far, and for how long it goes on.
pub(crate) struct Tally {
    distinct: usize,
    patience: Duration,
    seen: HashSet<usize>,
    all: Vec<Arrived>,
    last: Instant,
}

impl Tally {
    fn new(distinct: usize, patience: Duration) -> Self {
        Self { distinct, patience, seen: HashSet::new(), all: Vec::new(), last: Instant::now() }
    }

    fn push(&mut self, arrived: Arrived) {
        self.last = Instant::now();
        self.seen.extend(arrived.event.number());
        self.all.push(arrived);
    }

    /// How long to wait for the next event; zero is the end.
    fn left(&self) -> Duration {
        let limit = if self.seen.len() >= self.distinct { QUIET } else { self.patience };
        limit.saturating_sub(self.last.elapsed())
    }

    fn finish(self) -> Vec<Arrived> {
        self.all
    }
}

/// Takes Longhaul's headers out of a list of headers: key and identity.
fn lift(headers: &mut Vec<(String, Vec<u8>)>) -> (Option<Vec<u8>>, Option<String>) {
    let (mut key, mut id) = (None, None);
    headers.retain(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let Some(ours) = name.strip_prefix("x-longhaul-").or_else(|| name.strip_prefix("longhaul-")) else {
            return true;
        };
        match ours {
            "key" => key = Some(value.clone()),
            "id" => id = Some(String::from_utf8_lossy(value).into_owned()),
            _ => {}
        }
        false
    });
    (key, id)
}
