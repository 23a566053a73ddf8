//! What passes between the machines and their driver: what they are made with, what they ask for, what they answer.

use std::time::Duration;

use longhaul_event::Position;

use crate::credit::{BYTES_CAP_MAX, Credit};
use crate::reset::{Reset, ResetCode};

/// What an owner is made with.
#[derive(Debug, Clone, Copy)]
pub struct OwnerConfig {
    /// Which life of the owner: grows whenever another router, or this one again, begins to own the shard.
    pub owner_epoch: u64,
    /// Whether the shard can be read again from any position. If not, the driver begins a new chain with every new reader.
    pub replayable: bool,
    /// Shortest wait after a fault.
    pub back_off_min: Duration,
    /// Longest wait after a fault, unless the applier asks for more.
    pub back_off_max: Duration,
}

/// What the driver must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerOutput {
    /// Drop what is queued at the link for that path epoch.
    Cancel {
        /// The path epoch that is over.
        path_epoch: u32,
    },
    /// Everything up to and including that offset is durable at the destination.
    Release {
        /// An offset of the incarnation that is being read.
        floor: u64,
    },
    /// Send an Open.
    Open {
        /// Its path epoch.
        path_epoch: u32,
    },
    /// Stand a reader after that position.
    Seek {
        /// `None`: where the route says.
        resume: Option<Position>,
    },
    /// Send an empty START batch.
    SendStart {
        /// Incarnation of the chain that begins.
        incarnation: u64,
        /// Its base: `prev` and `last` of the batch.
        after: u64,
    },
    /// Send an empty batch, without START.
    SendTouch {
        /// Incarnation of the chain that goes on.
        incarnation: u64,
        /// `prev` and `last` of the batch.
        after: u64,
    },
}

/// How much may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Number of events, at least 1.
    pub events: u64,
    /// Number of bytes, at least 1.
    pub bytes: u64,
    /// Nothing is in flight: a single event may be larger than `bytes`, in a batch of its own.
    pub overdraft: bool,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It counted.
    Taken,
    /// It belongs to a path that is over, or repeats what is known.
    Stale,
    /// No honest applier sends that. The flow opens again.
    Violation,
}

/// Why the flow last stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The applier gave the path up.
    Reset(ResetCode),
    /// The source cannot be read from where it must be.
    Source,
    /// An Open stayed without an answer.
    OpenTimeout,
    /// Something was under way for too long without progress.
    Stalled,
    /// The applier acknowledged what was never sent.
    AckBeyondSent,
    /// The driver sent a batch that does not follow the one before it.
    BadSpan,
}

impl Fault {
    /// The word for status pages and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset(code) => code.as_str(),
            Self::Source => "source",
            Self::OpenTimeout => "open_timeout",
            Self::Stalled => "stalled",
            Self::AckBeyondSent => "ack_beyond_sent",
            Self::BadSpan => "bad_span",
        }
    }
}

/// What an applier is made with.
#[derive(Debug, Clone, Copy)]
pub struct ApplierConfig {
    /// Most bytes that the flow may hold, beside one event of the largest size. Divide the budget of the router among its flows.
    pub bytes_cap: u64,
}

impl Default for ApplierConfig {
    fn default() -> Self {
        Self { bytes_cap: BYTES_CAP_MAX }
    }
}

/// What the driver must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplierOutput {
    /// Open the sink.
    OpenSink,
    /// Send an Accept.
    Accept {
        /// The path epoch that it answers.
        path_epoch: u32,
        /// Where the owner goes on: the last accepted position, or the cursor of the destination.
        resume: Option<Position>,
        /// The first credit of the path epoch.
        credit: Credit,
    },
    /// Commit that cursor.
    Commit(Position),
    /// Send an Ack.
    Ack {
        /// The path epoch.
        path_epoch: u32,
        /// Everything up to and including that offset is durable.
        durable: u64,
        /// The credit as it stands now.
        credit: Credit,
    },
    /// Send a Reset.
    Reset {
        /// The path epoch that is given up.
        path_epoch: u32,
        /// Why, and when to try again.
        reset: Reset,
    },
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It follows the last accepted one, and is accepted.
    Accepted,
    /// It came early and is held.
    Held,
    /// It was accepted before. Dropped, and not confirmed on account of this.
    Duplicate,
    /// It belongs to a path that is over, or the applier takes nothing more. Dropped.
    Stale,
    /// No honest owner sends that. Dropped; a Reset follows.
    Refused(ResetCode),
}

/// An Open of an owner, or a path, that a later one has replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("owner epoch {owner_epoch} with path epoch {path_epoch} was here already")]
pub struct StaleEpoch {
    /// The owner epoch that holds the flow.
    pub owner_epoch: u64,
    /// Its latest path epoch.
    pub path_epoch: u32,
}
