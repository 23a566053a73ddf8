//! The one table of what may differ between kinds of broker.

use longhaul_topology::{BrokerKind, SinkKind, SourceKind};

/// What a kind of broker can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expect {
    /// How much of the order of headers survives.
    pub header_order: HeaderOrder,
    /// What becomes of a header without a value.
    pub null_header: NullHeader,
    /// What becomes of a header with an AMQP type.
    pub typed_header: TypedHeader,
    /// What becomes of an event without a payload.
    pub tombstone: Tombstone,
    /// Whether a cursor can be written and found again.
    pub cursor: bool,
    /// Whether what a reader of a shard that is not replayable did not release comes again.
    pub redelivers: bool,
    /// Whether events behind a refused one are certainly not written. Kafka's client has sent them before the broker refuses.
    pub stops_at_poison: bool,
}

/// How much of the order of headers survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderOrder {
    /// All of it.
    Exact,
    /// Only among headers of one name: the client or the broker keeps a map.
    PerName,
}

/// What becomes of a header without a value (Kafka's null).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NullHeader {
    /// It is restored.
    Kept,
    /// It becomes an empty value.
    Empty,
}

/// What becomes of a header with an AMQP type, here a long-int.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypedHeader {
    /// It is restored.
    Kept,
    /// It becomes its text: `42`.
    Text,
}

/// What becomes of an event without a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tombstone {
    /// It is restored.
    Kept,
    /// It becomes an empty payload: the broker knows no other.
    Empty,
}

impl Expect {
    /// The row for a kind, and for what is at most once within it.
    #[must_use]
    pub fn of(kind: BrokerKind, source: &SourceKind, sink: &SinkKind) -> Self {
        let (header_order, null_header, typed_header, tombstone) = match kind {
            BrokerKind::Embedded => (HeaderOrder::Exact, NullHeader::Kept, TypedHeader::Kept, Tombstone::Kept),
            BrokerKind::Kafka => (HeaderOrder::Exact, NullHeader::Kept, TypedHeader::Text, Tombstone::Kept),
            BrokerKind::RabbitMq => (HeaderOrder::Exact, NullHeader::Kept, TypedHeader::Kept, Tombstone::Kept),
            BrokerKind::Nats => (HeaderOrder::Exact, NullHeader::Kept, TypedHeader::Kept, Tombstone::Kept),
        };
        Self {
            header_order,
            null_header,
            typed_header,
            tombstone,
            cursor: !matches!(sink, SinkKind::CoreNats),
            redelivers: !matches!(source, SourceKind::CoreNats { .. }),
            stops_at_poison: kind != BrokerKind::Kafka,
        }
    }
}
