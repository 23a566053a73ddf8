//! What can go wrong at a port, by what the caller must do about it.

/// Why a source does not serve.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// The broker is away or the session was lost. The caller opens again, with back-off, after its last position.
    #[error("{0}")]
    Transient(String),
    /// Events between the asked position and what the broker has are not there. The caller must not go on by itself.
    #[error("{0}")]
    Gap(Gap),
    /// It will not work without a change of configuration or at the broker. Retried at the slowest pace.
    #[error("{0}")]
    Config(String),
}

impl SourceError {
    /// The metric label.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Transient(_) => "source_transient",
            Self::Gap(_) => "source_gap",
            Self::Config(_) => "source_config",
        }
    }
}

/// A hole between a cursor and what a shard still has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// Retention removed events that were not read yet.
    #[error("retention removed offsets {from}..{to} before they were read")]
    Purged {
        /// First missing offset.
        from: u64,
        /// First offset that is there.
        to: u64,
    },
    /// The shard was deleted and made again: the position belongs to another incarnation.
    #[error("the shard was recreated: the cursor belongs to incarnation {cursor:x}, the shard is {found:x}")]
    Recreated {
        /// Incarnation of the cursor.
        cursor: u64,
        /// Incarnation found.
        found: u64,
    },
    /// The cursor lies beyond the end: the log was cut.
    #[error("the log ends at offset {end}, before the cursor at {cursor}")]
    Truncated {
        /// Offset of the cursor.
        cursor: u64,
        /// End of the log (the next offset to be written).
        end: u64,
    },
}

/// Why a sink does not serve.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SinkError {
    /// The broker is away, or something may or may not have been written. The caller drops the writer, opens the flow again and
    /// goes on after the cursor that it finds.
    #[error("{0}")]
    Transient(String),
    /// The destination refuses this event for good. Every event before it in the batch is confirmed, none after it.
    #[error("event at offset {offset}: {reason}")]
    Poison {
        /// Offset of the refused event.
        offset: u64,
        /// Which kind of refusal; also the metric label.
        kind: Poison,
        /// The reason in words.
        reason: String,
    },
    /// It will not work without a change of configuration or at the broker (a missing topic, a wrong password). Retried at the
    /// slowest pace.
    #[error("{0}")]
    Config(String),
}

impl SinkError {
    /// The metric label.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Transient(_) => "destination_transient",
            Self::Poison { .. } => "destination_poison",
            Self::Config(_) => "destination_config",
        }
    }
}

/// Kinds of refusal of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Poison {
    /// Larger than the destination takes.
    TooLarge,
    /// No queue, no stream for it.
    Unroutable,
    /// The topic has no form that the destination accepts.
    BadTopic,
    /// Refused for any other lasting reason.
    Refused,
}

impl Poison {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Unroutable => "unroutable",
            Self::BadTopic => "bad_topic",
            Self::Refused => "refused",
        }
    }
}
