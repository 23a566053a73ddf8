//! Positions in a shard, and where a reader starts.

use serde::{Deserialize, Serialize};

/// Where in a shard. Offsets are compared only within one incarnation, hence no `Ord`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Which life of the shard: changes when a topic or stream is deleted and made again.
    pub incarnation: u64,
    /// The offset of an event; as a cursor, the last one that is done.
    pub offset: u64,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first event that is published from now on.
    Latest,
    /// With the oldest event that the broker still has.
    Earliest,
    /// With the first event at or after that time, in milliseconds since the Unix epoch.
    Time(i64),
    /// With the event after that position.
    After(Position),
}
