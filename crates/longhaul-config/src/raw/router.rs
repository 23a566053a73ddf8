//! The router document as it is written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::field::{Amount, Entries, Field, List, Maybe};

/// What is local to one deployment: region, listeners, certificates, how to reach the brokers. `${env:NAME}` and `${file:PATH}`
/// are filled in inside any text. Paths are relative to the document.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "router document", deny_unknown_fields)]
pub(crate) struct RawRouter {
    /// `longhaul/v1`.
    #[serde(rename = "apiVersion")]
    pub(crate) api_version: Field<String>,
    /// `Router`.
    pub(crate) kind: Field<String>,
    /// The region of the mesh document that this router serves.
    pub(crate) region: Field<String>,
    /// Unique among the routers of the region; the host name when it is left out.
    pub(crate) name: Maybe<String>,
    /// Path of the mesh document.
    pub(crate) mesh: Field<String>,
    /// Where routers of other regions come in.
    pub(crate) link: Field<RawListen>,
    /// The admin API and metrics.
    pub(crate) admin: Maybe<RawAdmin>,
    /// Memory budget, such as `512MiB` (when it is left out), from 32MiB.
    pub(crate) memory: Maybe<Amount>,
    /// Spans of sampled events, for OpenTelemetry; none when it is left out.
    pub(crate) traces: Maybe<RawTraces>,
    /// How to reach the brokers of the region, by their names in the mesh document.
    pub(crate) brokers: Maybe<Entries<RawAccess>>,
    /// Other addresses for router addresses of the mesh document, `HOST:PORT` each: for tests and split DNS.
    pub(crate) resolve: Maybe<Entries<String>>,
}

/// Where routers of other regions come in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "link listener", deny_unknown_fields)]
pub(crate) struct RawListen {
    /// UDP address to bind; `0.0.0.0:7443` when it is left out.
    pub(crate) listen: Maybe<String>,
    /// Certificates, without which no link stands.
    pub(crate) tls: Field<RawLinkTls>,
    /// Largest event over a link: `1MiB` when it is left out, `64MiB` at most.
    pub(crate) max_event: Maybe<Amount>,
}

/// Certificates of the router: paths of PEM files.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "link TLS", deny_unknown_fields)]
pub(crate) struct RawLinkTls {
    /// Certificate chain of this router.
    pub(crate) cert: Field<String>,
    /// Its private key.
    pub(crate) key: Field<String>,
    /// Authorities that certificates of other routers must come from.
    pub(crate) ca: Field<String>,
    /// What those authorities have revoked: their lists, one after the other.
    pub(crate) crl: Maybe<String>,
}

/// The admin API and metrics.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "admin listener", deny_unknown_fields)]
pub(crate) struct RawAdmin {
    /// TCP address to bind; `127.0.0.1:9600` when it is left out.
    pub(crate) listen: Maybe<String>,
    /// Bearer token for requests that change something; without one they are refused.
    pub(crate) token: Maybe<String>,
}

/// Spans of sampled events, sent to an OpenTelemetry collector.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "traces", deny_unknown_fields)]
pub(crate) struct RawTraces {
    /// `https://HOST:4318`, or `http://` without encryption, where OTLP over HTTP is received; with a path where that is another than
    /// `/v1/traces`.
    pub(crate) endpoint: Field<String>,
    /// TLS files for `https`.
    pub(crate) tls: Maybe<RawTls>,
    /// Headers of every request, such as `authorization`, by their names.
    pub(crate) headers: Maybe<Entries<String>>,
    /// Part of all events that is traced, above 0 and at most 1; `0.001` when it is left out. The same events in every router that
    /// says the same.
    pub(crate) ratio: Maybe<Amount>,
    /// Trace the events too whose creator's `traceparent` says that it traced them; `false` when it is left out.
    pub(crate) follow: Maybe<bool>,
}

/// How to reach one broker: exactly one kind, the one that the mesh document says.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "broker access", deny_unknown_fields)]
pub(crate) struct RawAccess {
    /// Apache Kafka and what speaks like it.
    pub(crate) kafka: Maybe<RawKafka>,
    /// RabbitMQ over AMQP 0-9-1.
    pub(crate) rabbitmq: Maybe<RawRabbitMq>,
    /// NATS with or without JetStream.
    pub(crate) nats: Maybe<RawNats>,
    /// The durable log inside the router.
    pub(crate) embedded: Maybe<RawEmbedded>,
}

/// Access to a Kafka cluster.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "Kafka access", deny_unknown_fields)]
pub(crate) struct RawKafka {
    /// `HOST:PORT` of some of its brokers.
    pub(crate) bootstrap: List<String>,
    /// TLS; plain text when it is left out.
    pub(crate) tls: Maybe<RawTls>,
    /// SASL; none when it is left out.
    pub(crate) sasl: Maybe<RawSasl>,
    /// Make missing destination topics; when it is left out, a missing topic is an error that says so.
    pub(crate) create_topics: Maybe<RawCreateTopics>,
    /// Options of librdkafka, for what has no key here.
    pub(crate) options: Maybe<Entries<Amount>>,
}

/// How missing topics are made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "create_topics", deny_unknown_fields)]
pub(crate) struct RawCreateTopics {
    /// Partitions of each, from 1.
    pub(crate) partitions: Field<u32>,
    /// Replicas of each, from 1.
    pub(crate) replication: Field<u32>,
}

/// SASL credentials.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "SASL", deny_unknown_fields)]
pub(crate) struct RawSasl {
    /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`.
    pub(crate) mechanism: Field<String>,
    /// User name.
    pub(crate) username: Field<String>,
    /// Password, best as `${env:NAME}` or `${file:PATH}`.
    pub(crate) password: Field<String>,
}

/// TLS towards a broker: paths of PEM files. `{}` is TLS with the system's authorities.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "TLS", deny_unknown_fields)]
pub(crate) struct RawTls {
    /// Authorities; the system's when it is left out.
    pub(crate) ca: Maybe<String>,
    /// Client certificate, together with `key`.
    pub(crate) cert: Maybe<String>,
    /// Client key, together with `cert`.
    pub(crate) key: Maybe<String>,
}

/// Access to RabbitMQ.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "RabbitMQ access", deny_unknown_fields)]
pub(crate) struct RawRabbitMq {
    /// `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://` for TLS.
    pub(crate) uri: Field<String>,
    /// TLS files for `amqps`.
    pub(crate) tls: Maybe<RawTls>,
    /// Unacknowledged deliveries per reader, from 1; 1000 when it is left out.
    pub(crate) prefetch: Maybe<u16>,
    /// Kind of the queues that Longhaul declares; `quorum` when it is left out.
    pub(crate) queue_type: Maybe<RawQueueType>,
}

/// Kind of a queue.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "queue type", rename_all = "kebab-case")]
pub(crate) enum RawQueueType {
    /// Replicated.
    Quorum,
    /// On one node.
    Classic,
}

/// Access to NATS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "NATS access", deny_unknown_fields)]
pub(crate) struct RawNats {
    /// `nats://HOST:PORT` or `tls://HOST:PORT`.
    pub(crate) servers: List<String>,
    /// TLS files.
    pub(crate) tls: Maybe<RawTls>,
    /// Path of a credentials file; not together with `user`.
    pub(crate) credentials: Maybe<String>,
    /// User, together with `password`.
    pub(crate) user: Maybe<String>,
    /// Password, together with `user`.
    pub(crate) password: Maybe<String>,
    /// JetStream domain.
    pub(crate) domain: Maybe<String>,
    /// Make a stream for a destination subject that no stream holds; `false` when it is left out.
    pub(crate) create_streams: Maybe<bool>,
}

/// The durable log inside the router.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "embedded broker", deny_unknown_fields)]
pub(crate) struct RawEmbedded {
    /// Folder of the store.
    pub(crate) data: Field<String>,
    /// HTTP in and out; `127.0.0.1:9700` when it is left out.
    pub(crate) listen: Maybe<String>,
    /// What may be forgotten; nothing when it is left out.
    pub(crate) retain: Maybe<RawRetain>,
}

/// What an embedded broker may forget.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "retain", deny_unknown_fields)]
pub(crate) struct RawRetain {
    /// Events older than that, such as `7d`.
    pub(crate) age: Maybe<Amount>,
    /// The oldest events beyond that size, such as `10GiB`.
    pub(crate) bytes: Maybe<Amount>,
}
