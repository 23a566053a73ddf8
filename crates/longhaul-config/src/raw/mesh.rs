//! The mesh document as it is written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::field::{Amount, Entries, Field, List, Maybe, MaybeList};

/// What the mesh is: regions, links and routes. The same file in every region; it holds no secret and no address of a broker.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "mesh document", deny_unknown_fields)]
pub(crate) struct RawMesh {
    /// `longhaul/v1`.
    #[serde(rename = "apiVersion")]
    pub(crate) api_version: Field<String>,
    /// `Mesh`.
    pub(crate) kind: Field<String>,
    /// What the mesh is called.
    pub(crate) metadata: Field<RawMetadata>,
    /// The places with brokers and routers of their own.
    pub(crate) regions: List<RawRegion>,
    /// Which regions reach each other.
    pub(crate) links: MaybeList<RawLink>,
    /// Which events go where.
    pub(crate) routes: MaybeList<RawRoute>,
    /// Bridges between brokers that are not Longhaul's, so that loops through them are found.
    pub(crate) foreign_mirrors: MaybeList<RawMirror>,
}

/// What the mesh is called.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "metadata", deny_unknown_fields)]
pub(crate) struct RawMetadata {
    /// Part of the identity of every flow and event: letters, digits, `-` and `_`.
    pub(crate) name: Field<String>,
}

/// A place with brokers and routers of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "region", deny_unknown_fields)]
pub(crate) struct RawRegion {
    /// Unique in the mesh: letters, digits, `-` and `_`.
    pub(crate) name: Field<String>,
    /// `HOST:PORT` of its routers; a host name may resolve to many. Needed where a route leads.
    pub(crate) routers: MaybeList<String>,
    /// The brokers of the region.
    pub(crate) brokers: MaybeList<RawBroker>,
}

/// A broker of a region: a name and exactly one kind.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "broker", deny_unknown_fields)]
pub(crate) struct RawBroker {
    /// Unique in its region: letters, digits, `-` and `_`.
    pub(crate) name: Field<String>,
    /// Apache Kafka and what speaks like it.
    pub(crate) kafka: Maybe<RawNothing>,
    /// RabbitMQ over AMQP 0-9-1.
    pub(crate) rabbitmq: Maybe<RawNothing>,
    /// NATS with or without JetStream.
    pub(crate) nats: Maybe<RawNothing>,
    /// The durable log inside the router.
    pub(crate) embedded: Maybe<RawNothing>,
}

/// `{}`: how to reach the broker stands in the router document.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "broker kind", deny_unknown_fields)]
pub(crate) struct RawNothing {}

/// Two regions that reach each other, both ways.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "link", deny_unknown_fields)]
pub(crate) struct RawLink {
    /// The names of two different regions.
    pub(crate) between: List<String>,
    /// Administrative cost, from 1; the round-trip time in milliseconds when it is left out.
    pub(crate) cost: Maybe<u32>,
    /// What the line carries, such as `1Gbit/s`; sizes windows.
    pub(crate) bandwidth: Maybe<Amount>,
    /// Round-trip time, such as `80ms`; sizes windows.
    pub(crate) rtt: Maybe<Amount>,
    /// How senders find the rate that the path takes; `model` when it is left out.
    pub(crate) congestion: Maybe<RawCongestion>,
}

/// From these topics here to those brokers there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "route", deny_unknown_fields)]
pub(crate) struct RawRoute {
    /// Unique in the mesh, and part of the identity of its flows: letters, digits, `-` and `_`.
    pub(crate) name: Field<String>,
    /// Where it reads.
    pub(crate) from: Field<RawFrom>,
    /// Which events, beside their topic; all when it is left out.
    #[serde(rename = "where")]
    pub(crate) predicate: Maybe<RawPredicate>,
    /// Where it writes.
    pub(crate) to: List<RawTo>,
    /// What is promised; `at-least-once` when it is left out.
    pub(crate) guarantee: Maybe<RawGuarantee>,
    /// Where a flow without a cursor begins: `latest` (when it is left out), `earliest`, or a time such as
    /// `2026-11-23T08:00:00Z`.
    pub(crate) start: Maybe<String>,
    /// What happens to an event that the destination refuses for good; `halt` when it is left out.
    pub(crate) on_poison: Maybe<RawOnPoison>,
    /// What happens when events that were not read are missing at the source; `halt` when it is left out.
    pub(crate) on_gap: Maybe<RawOnGap>,
    /// What a link prefers; `normal` when it is left out.
    pub(crate) class: Maybe<RawClass>,
}

/// Where a route reads. Which keys are allowed depends on the kind of the broker.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "source", deny_unknown_fields)]
pub(crate) struct RawFrom {
    /// Name of a region.
    pub(crate) region: Field<String>,
    /// Name of a broker of that region.
    pub(crate) broker: Field<String>,
    /// Filters over topics: `*` is one token, `>` the rest, `#` zero tokens or more. Not with `queue` or a RabbitMQ `stream`.
    pub(crate) topics: MaybeList<String>,
    /// RabbitMQ: an exchange, read through a queue that Longhaul declares.
    pub(crate) exchange: Maybe<String>,
    /// RabbitMQ: an existing queue, consumed.
    pub(crate) queue: Maybe<String>,
    /// NATS: an existing stream; the stream that holds the subjects when it is left out. RabbitMQ: an existing stream, read by offset.
    pub(crate) stream: Maybe<String>,
    /// NATS: read core subjects, at most once.
    pub(crate) core: Maybe<bool>,
    /// NATS: have core subjects captured into a stream that Longhaul declares.
    pub(crate) capture: Maybe<bool>,
}

/// Where a route writes. Which keys are allowed depends on the kind of the broker.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "destination", deny_unknown_fields)]
pub(crate) struct RawTo {
    /// Name of a region.
    pub(crate) region: Field<String>,
    /// Name of a broker of that region.
    pub(crate) broker: Field<String>,
    /// Template of the topic there, of `{topic}`, `{topic[1]}`, `{topic[2..]}`, `{region}`, `{broker}`, `{key}` and
    /// `{header.NAME}`; `{topic}` when it is left out.
    pub(crate) topic: Maybe<String>,
    /// Kafka: how the partition is picked; `key` when it is left out.
    pub(crate) partition: Maybe<RawPartition>,
    /// Kafka: whether an empty payload becomes a tombstone; `false` when it is left out.
    pub(crate) tombstone_on_empty: Maybe<bool>,
    /// RabbitMQ: an existing exchange; the topic is the routing key.
    pub(crate) exchange: Maybe<String>,
    /// RabbitMQ: an existing queue.
    pub(crate) queue: Maybe<String>,
    /// RabbitMQ: an existing stream.
    pub(crate) stream: Maybe<String>,
    /// NATS: publish without a stream, at most once.
    pub(crate) core: Maybe<bool>,
}

/// Exactly one of its keys. A name is looked up among the CloudEvents attributes, then among the headers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "predicate", deny_unknown_fields)]
pub(crate) struct RawPredicate {
    /// Every named value equals its text.
    pub(crate) exact: Maybe<Entries<String>>,
    /// Every named value begins with its text.
    pub(crate) prefix: Maybe<Entries<String>>,
    /// Every named value ends with its text.
    pub(crate) suffix: Maybe<Entries<String>>,
    /// All of them hold.
    pub(crate) all: MaybeList<RawPredicate>,
    /// At least one of them holds.
    pub(crate) any: MaybeList<RawPredicate>,
    /// It does not hold.
    pub(crate) not: Option<Box<Field<RawPredicate>>>,
}

/// A bridge that is not Longhaul's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "foreign mirror", deny_unknown_fields)]
pub(crate) struct RawMirror {
    /// What it reads.
    pub(crate) from: Field<RawEnd>,
    /// What it writes.
    pub(crate) to: Field<RawEnd>,
    /// The topics that it carries, as filters; all when it is left out.
    pub(crate) topics: MaybeList<String>,
    /// How it renames them; `{topic}` when it is left out.
    pub(crate) topic: Maybe<String>,
}

/// A broker of a region.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "end of a mirror", deny_unknown_fields)]
pub(crate) struct RawEnd {
    /// Name of a region.
    pub(crate) region: Field<String>,
    /// Name of a broker of that region.
    pub(crate) broker: Field<String>,
}

/// What a route promises.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "guarantee", rename_all = "kebab-case")]
#[expect(clippy::enum_variant_names, reason = "these are the words of the document")]
pub(crate) enum RawGuarantee {
    /// No loss and no duplicate, whoever crashes; refused where the brokers cannot keep it.
    EffectivelyOnce,
    /// No loss; a duplicate has an identity already seen.
    AtLeastOnce,
    /// May lose; for core NATS.
    AtMostOnce,
}

/// What happens to an event that the destination refuses for good.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "poison policy", rename_all = "kebab-case")]
pub(crate) enum RawOnPoison {
    /// The flow stops before it and says so; the data stays in its source.
    Halt,
    /// It is kept whole beside the destination, with its reason, until it is redriven or discarded; the flow goes on.
    Park,
    /// It is counted and left out.
    Drop,
}

/// How senders on a link find their rate.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "congestion control", rename_all = "lowercase")]
pub(crate) enum RawCongestion {
    /// By a model of the path: for long paths, with or without random loss.
    Model,
    /// By losses, as most of TCP does.
    Cubic,
    /// QUIC's early BBR: fast on lossy paths, wastes about a third of all packets.
    Bbr,
    /// By losses, the oldest and simplest.
    NewReno,
}

/// What happens when events that were not read are missing at the source: retention overran the flow, or the topic was cut or made again.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "gap policy", rename_all = "kebab-case")]
pub(crate) enum RawOnGap {
    /// The flow stops before the gap and says so.
    Halt,
    /// The gap is written down, and the flow goes on behind it.
    Continue,
}

/// What a link prefers.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "class", rename_all = "kebab-case")]
pub(crate) enum RawClass {
    /// First.
    Realtime,
    /// Second.
    Normal,
    /// Last.
    CatchUp,
}

/// How a partition is picked.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename = "partition rule", rename_all = "kebab-case")]
pub(crate) enum RawPartition {
    /// By murmur2 of the key, as the Java client does it.
    Key,
    /// The number that it had at the source.
    Same,
}
