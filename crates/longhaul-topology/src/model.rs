//! The declared mesh as values: what a mesh document says once it is compiled.
//!
//! Everything here is parsed and named; nothing holds an address of a broker or a secret. `longhaul-config` makes these values
//! from YAML, [`check`](crate::check) judges them, `longhaul-route` builds tables from them.

use longhaul_event::{FlowId, Start};
use longhaul_topic::Filter;

use crate::Template;

/// A whole mesh document.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    /// `metadata.name`.
    pub name: String,
    /// In document order.
    pub regions: Vec<Region>,
    /// In document order.
    pub links: Vec<Link>,
    /// In document order.
    pub routes: Vec<Route>,
    /// Bridges between brokers that are not Longhaul's, declared so that cycles through them are found.
    pub foreign_mirrors: Vec<ForeignMirror>,
}

/// A place with its own brokers and routers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Unique in the mesh.
    pub name: String,
    /// `host:port` of its routers; a host name may resolve to many.
    pub routers: Vec<String>,
    /// Brokers of the region.
    pub brokers: Vec<Broker>,
}

/// A broker of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Unique in its region.
    pub name: String,
    /// Which kind.
    pub kind: BrokerKind,
}

/// The kinds of broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BrokerKind {
    /// Apache Kafka and what speaks like it.
    Kafka,
    /// RabbitMQ over AMQP 0-9-1.
    RabbitMq,
    /// NATS with or without JetStream.
    Nats,
    /// The durable log inside the router.
    Embedded,
}

impl BrokerKind {
    /// The word of the documents, metrics and API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::RabbitMq => "rabbitmq",
            Self::Nats => "nats",
            Self::Embedded => "embedded",
        }
    }
}

/// Two regions that hold links to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Names of two different regions.
    pub between: [String; 2],
    /// Administrative cost; `None` means the measured round-trip time.
    pub cost: Option<u32>,
    /// Bits per second; bounds QUIC windows together with `rtt_ms`.
    pub bandwidth_bits: Option<u64>,
    /// Expected round-trip time in milliseconds.
    pub rtt_ms: Option<u32>,
    /// How senders on it find their rate.
    pub congestion: Congestion,
}

/// A declared rule: from these topics here, to those brokers there.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Unique in the mesh.
    pub name: String,
    /// Where it reads.
    pub from: From,
    /// Which events, beside their topic; `None` takes all.
    pub predicate: Option<Predicate>,
    /// Where it writes; no two entries name the same region and broker.
    pub to: Vec<To>,
    /// What is promised.
    pub guarantee: Guarantee,
    /// Where a flow without a cursor begins.
    pub start: RouteStart,
    /// What happens to an event that the destination refuses for good.
    pub on_poison: OnPoison,
    /// What happens when events are missing at the source.
    pub on_gap: OnGap,
    /// What the scheduler of a link prefers.
    pub class: Class,
}

/// The reading end of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct From {
    /// Name of a region.
    pub region: String,
    /// Name of a broker of that region.
    pub broker: String,
    /// What it reads there.
    pub source: SourceKind,
}

/// What a route reads, by kind of broker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// Every Kafka topic that matches one of the filters.
    Kafka {
        /// At least one.
        topics: Vec<Filter>,
    },
    /// Messages that an exchange would route to a queue bound with these patterns. Longhaul declares that queue, one per
    /// route and destination.
    RabbitExchange {
        /// An existing exchange.
        exchange: String,
        /// Binding patterns, at least one.
        topics: Vec<Filter>,
    },
    /// An existing queue, consumed.
    RabbitQueue {
        /// An existing queue.
        queue: String,
    },
    /// A RabbitMQ stream, read by offset.
    RabbitStream {
        /// An existing stream.
        stream: String,
    },
    /// A JetStream stream; `None` means the stream that holds the subjects.
    JetStream {
        /// An existing stream.
        stream: Option<String>,
        /// Subjects, at least one.
        topics: Vec<Filter>,
    },
    /// Core NATS subjects, at most once.
    CoreNats {
        /// Subjects, at least one.
        topics: Vec<Filter>,
    },
    /// Core NATS subjects, captured into a stream that Longhaul declares.
    NatsCapture {
        /// Subjects, at least one.
        topics: Vec<Filter>,
    },
    /// Topics of the embedded broker.
    Embedded {
        /// At least one.
        topics: Vec<Filter>,
    },
}

/// One writing end of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct To {
    /// Name of a region.
    pub region: String,
    /// Name of a broker of that region.
    pub broker: String,
    /// Maps the topic; `{topic}` when nothing is said.
    pub topic: Template,
    /// What it writes there.
    pub sink: SinkKind,
}

/// What a route writes, by kind of broker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SinkKind {
    /// Kafka topics.
    Kafka {
        /// How the partition is picked.
        partition: Partition,
        /// Whether an empty payload becomes a tombstone (a record without a value).
        tombstone_on_empty: bool,
    },
    /// An exchange; the routing key is the mapped topic.
    RabbitExchange {
        /// An existing exchange.
        exchange: String,
    },
    /// A queue, through the default exchange.
    RabbitQueue {
        /// An existing queue.
        queue: String,
    },
    /// A RabbitMQ stream, through the default exchange.
    RabbitStream {
        /// An existing stream.
        stream: String,
    },
    /// JetStream: the subject is the mapped topic.
    JetStream,
    /// Core NATS, at most once.
    CoreNats,
    /// The embedded broker.
    Embedded,
}

/// How a Kafka sink picks the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Partition {
    /// By murmur2 of the key, as the Java client does it.
    Key,
    /// The number that it had at the source.
    Same,
}

/// What a route promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guarantee {
    /// No loss, no duplicate.
    EffectivelyOnce,
    /// No loss; a duplicate has an identity already seen.
    AtLeastOnce,
    /// No duplicate by us; may lose.
    AtMostOnce,
}

/// Where a flow without a cursor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteStart {
    /// What is published from now on.
    Latest,
    /// All that the source still has.
    Earliest,
    /// From that time, milliseconds since the Unix epoch.
    Time(i64),
}

impl RouteStart {
    /// Where a reader begins for it.
    #[must_use]
    pub fn start(self) -> Start {
        match self {
            Self::Latest => Start::Latest,
            Self::Earliest => Start::Earliest,
            Self::Time(at_ms) => Start::Time(at_ms),
        }
    }
}

/// What happens to an event that the destination refuses for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPoison {
    /// The flow stops before it and says so.
    Halt,
    /// It is kept whole beside the destination, with its reason, and the flow goes on.
    Park,
    /// It is counted and left out.
    Drop,
}

/// How a sender on a link finds the rate that the path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Congestion {
    /// By a model of the path: keeps its rate where packets are lost at random, and queues short.
    #[default]
    Model,
    /// By losses, as most of TCP does: collapses on long paths with random loss.
    Cubic,
    /// By an early model: fast on lossy paths, wastes about a third of all packets.
    Bbr,
    /// By losses, the oldest and simplest.
    NewReno,
}

/// What happens when events that a flow has not read are missing at its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// The flow stops before the gap and says so.
    Halt,
    /// The gap is written down, and the flow goes on behind it.
    Continue,
}

/// What the scheduler of a link prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// First.
    Realtime,
    /// Second.
    Normal,
    /// Last, but never under 5 %.
    CatchUp,
}

/// A condition over attributes and headers, after the CloudEvents Subscriptions dialects.
///
/// A name is looked up among the CloudEvents attributes of the event, then among its headers without regard to case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate {
    /// All pairs: the value of the name equals the text.
    Exact(Vec<(String, String)>),
    /// All pairs: the value begins with the text.
    Prefix(Vec<(String, String)>),
    /// All pairs: the value ends with the text.
    Suffix(Vec<(String, String)>),
    /// All of them hold.
    All(Vec<Predicate>),
    /// At least one of them holds.
    Any(Vec<Predicate>),
    /// It does not hold.
    Not(Box<Predicate>),
}

/// A bridge that is not Longhaul's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignMirror {
    /// `(region, broker)` it reads.
    pub from: (String, String),
    /// `(region, broker)` it writes.
    pub to: (String, String),
    /// The topics that it carries.
    pub topics: Vec<Filter>,
    /// How it renames them.
    pub topic: Template,
}

/// What makes a flow one: the parts of its identity, in words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Name of the mesh.
    pub mesh: String,
    /// Name of the route.
    pub route: String,
    /// Region, broker and shard it comes from.
    pub from: (String, String, String),
    /// Region and broker it goes to.
    pub to: (String, String),
}

impl SourceKind {
    /// The filters that it reads by; none for a queue or a RabbitMQ stream, which give whatever is in them.
    #[must_use]
    pub fn topics(&self) -> &[Filter] {
        match self {
            Self::Kafka { topics }
            | Self::RabbitExchange { topics, .. }
            | Self::JetStream { topics, .. }
            | Self::CoreNats { topics }
            | Self::NatsCapture { topics }
            | Self::Embedded { topics } => topics,
            Self::RabbitQueue { .. } | Self::RabbitStream { .. } => &[],
        }
    }

    /// Whether it gives whatever is in it: it has no filters.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::RabbitQueue { .. } | Self::RabbitStream { .. })
    }

    /// The kind of broker that has such a source.
    #[must_use]
    pub fn broker_kind(&self) -> BrokerKind {
        match self {
            Self::Kafka { .. } => BrokerKind::Kafka,
            Self::RabbitExchange { .. } | Self::RabbitQueue { .. } | Self::RabbitStream { .. } => BrokerKind::RabbitMq,
            Self::JetStream { .. } | Self::CoreNats { .. } | Self::NatsCapture { .. } => BrokerKind::Nats,
            Self::Embedded { .. } => BrokerKind::Embedded,
        }
    }
}

impl SinkKind {
    /// Whether it is addressed by its own name, whatever the topic is.
    #[must_use]
    pub fn is_one_queue(&self) -> bool {
        matches!(self, Self::RabbitQueue { .. } | Self::RabbitStream { .. })
    }

    /// The kind of broker that has such a sink.
    #[must_use]
    pub fn broker_kind(&self) -> BrokerKind {
        match self {
            Self::Kafka { .. } => BrokerKind::Kafka,
            Self::RabbitExchange { .. } | Self::RabbitQueue { .. } | Self::RabbitStream { .. } => BrokerKind::RabbitMq,
            Self::JetStream | Self::CoreNats => BrokerKind::Nats,
            Self::Embedded => BrokerKind::Embedded,
        }
    }
}

impl Guarantee {
    /// The word of the documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EffectivelyOnce => "effectively-once",
            Self::AtLeastOnce => "at-least-once",
            Self::AtMostOnce => "at-most-once",
        }
    }
}

impl FlowKey {
    /// The identity: hash of all parts.
    #[must_use]
    pub fn id(&self) -> FlowId {
        let (region, broker, shard) = &self.from;
        FlowId::of_parts(&[&self.mesh, &self.route, region, broker, shard, &self.to.0, &self.to.1])
    }
}

impl Mesh {
    /// The region of that name.
    #[must_use]
    pub fn region(&self, name: &str) -> Option<&Region> {
        self.regions.iter().find(|region| region.name == name)
    }

    /// The broker of that region and name.
    #[must_use]
    pub fn broker(&self, region: &str, name: &str) -> Option<&Broker> {
        self.region(region)?.brokers.iter().find(|broker| broker.name == name)
    }

    /// The route of that name.
    #[must_use]
    pub fn route(&self, name: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.name == name)
    }
}
