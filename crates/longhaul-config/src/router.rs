//! The router document, compiled: what is local to one deployment.
//!
//! Secrets stand here in clear, inside [`Secret`], which never prints them. Connectors take their part of this as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A whole router document.
#[derive(Debug, Clone, PartialEq)]
pub struct Router {
    /// Name of the region of the mesh document that this router serves.
    pub region: String,
    /// Name of this router, unique in its region; the host name when nothing is said.
    pub name: String,
    /// Path of the mesh document, resolved against the router document's folder.
    pub mesh: PathBuf,
    /// The QUIC listener and its certificates.
    pub link: LinkListen,
    /// The admin listener.
    pub admin: Admin,
    /// Memory budget in bytes.
    pub memory_bytes: u64,
    /// Where spans of sampled events go; nowhere when nothing is said.
    pub traces: Option<Traces>,
    /// How to reach the brokers of this region, by name.
    pub brokers: BTreeMap<String, BrokerAccess>,
    /// Resolves router addresses of the mesh document to others, for tests and split DNS.
    pub resolve: BTreeMap<String, String>,
}

/// The QUIC listener of a router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkListen {
    /// Address to bind.
    pub listen: SocketAddr,
    /// PEM files: the certificate chain.
    pub cert: PathBuf,
    /// PEM file: the private key.
    pub key: PathBuf,
    /// PEM file: the authorities that peers' certificates must come from.
    pub ca: PathBuf,
    /// PEM file: what those authorities have revoked.
    pub crl: Option<PathBuf>,
    /// Largest event accepted over a link, in bytes: 1 MiB by default, 64 MiB at most.
    pub event_bytes_max: u32,
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Address to bind; loopback by default.
    pub listen: SocketAddr,
    /// Bearer token that writes need; without one they are off.
    pub token: Option<Secret>,
}

/// Spans of sampled events.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// URL that OTLP over HTTP is posted to, path included: `http` or `https`.
    pub endpoint: String,
    /// TLS files for `https`.
    pub tls: Tls,
    /// Headers of every request, by their names.
    pub headers: BTreeMap<String, Secret>,
    /// Part of all events, above 0 and at most 1.
    pub ratio: f64,
    /// Whether events are traced too that their creator traced.
    pub follow: bool,
}

/// How to reach one broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerAccess {
    /// Apache Kafka.
    Kafka(Kafka),
    /// RabbitMQ.
    RabbitMq(RabbitMq),
    /// NATS.
    Nats(Nats),
    /// The embedded broker.
    Embedded(Embedded),
}

/// Access to a Kafka cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// `host:port` of bootstrap brokers, at least one.
    pub bootstrap: Vec<String>,
    /// TLS, when asked for.
    pub tls: Option<Tls>,
    /// SASL, when asked for.
    pub sasl: Option<Sasl>,
    /// Make missing destination topics; `None` leaves them an error.
    pub create_topics: Option<CreateTopics>,
    /// librdkafka's own options, for what has no key here.
    pub options: BTreeMap<String, String>,
}

/// How missing Kafka topics are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateTopics {
    /// Partitions of each.
    pub partitions: u32,
    /// Replicas of each.
    pub replication: u32,
}

/// SASL credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`.
    pub mechanism: String,
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// TLS towards a broker or a receiver of traces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// PEM file of the authorities; `None` means the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of the client certificate.
    pub cert: Option<PathBuf>,
    /// PEM file of the client key.
    pub key: Option<PathBuf>,
}

/// Access to RabbitMQ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RabbitMq {
    /// `amqp://user:password@host:port/vhost` or `amqps://..`.
    pub uri: Secret,
    /// TLS files for `amqps`.
    pub tls: Option<Tls>,
    /// Unacknowledged deliveries per reader; the only bound of a source. Default 1,000.
    pub prefetch: u16,
    /// Kind of the queues that Longhaul declares.
    pub queue_type: QueueType,
}

/// Kind of a RabbitMQ queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    /// Replicated.
    Quorum,
    /// On one node.
    Classic,
}

/// Access to NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nats {
    /// `nats://host:port` or `tls://host:port`.
    pub servers: Vec<String>,
    /// TLS files.
    pub tls: Option<Tls>,
    /// Path of a credentials file.
    pub credentials: Option<PathBuf>,
    /// User and password.
    pub user: Option<(String, Secret)>,
    /// JetStream domain.
    pub domain: Option<String>,
    /// Make a stream for a destination subject that no stream holds.
    pub create_streams: bool,
}

/// The embedded broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedded {
    /// Folder of the store.
    pub data: PathBuf,
    /// HTTP in and out.
    pub listen: SocketAddr,
    /// Events older than that may go.
    pub retain_age: Option<Duration>,
    /// The oldest events beyond that many bytes may go.
    pub retain_bytes: Option<u64>,
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Hides the text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for handing it to a client and for nothing else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
