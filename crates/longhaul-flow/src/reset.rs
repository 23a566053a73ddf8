//! Why an applier gives a path of a flow up, and when the owner may try again.

use std::time::Duration;

/// The reason of a [`Reset`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResetCode {
    /// The destination broker is away, or lost the writer.
    SinkLost,
    /// The destination refuses an event for good, and the route says halt.
    Poison,
    /// A batch does not follow the one before it, or contradicts the chain.
    BadChain,
    /// The applier does not know the route, or knows another version of it.
    UnknownRoute,
    /// A later owner, or a later path of the same owner, was here already.
    StaleEpoch,
    /// The applier's router is going away.
    Draining,
    /// More was sent than the credit allows.
    Limits,
    /// A router on the way has no link to go on over.
    NoPath,
}

impl ResetCode {
    /// Every code, for tables and for metrics.
    pub const ALL: [Self; 8] = [
        Self::SinkLost,
        Self::Poison,
        Self::BadChain,
        Self::UnknownRoute,
        Self::StaleEpoch,
        Self::Draining,
        Self::Limits,
        Self::NoPath,
    ];

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SinkLost => "sink_lost",
            Self::Poison => "poison",
            Self::BadChain => "bad_chain",
            Self::UnknownRoute => "unknown_route",
            Self::StaleEpoch => "stale_epoch",
            Self::Draining => "draining",
            Self::Limits => "limits",
            Self::NoPath => "no_path",
        }
    }
}

/// The applier gives the path up. The owner opens the flow again, not before `retry` has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Why.
    pub code: ResetCode,
    /// The least time to wait.
    pub retry: Duration,
}
