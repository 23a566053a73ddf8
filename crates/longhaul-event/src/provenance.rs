//! Provenance: where an event has been, bound to a hash of its content.
//!
//! ```text
//! version u8 = 1 | mesh u32 | origin: cluster u64, shard u64, incarnation u64, offset u64 | content u64 | depth u8 | hops u8 | hop*
//! hop = region u32 | cluster u64 | topic u32           (all little-endian)
//! ```

use bytes::Bytes;

use crate::Event;

/// Most brokers that one event may be written to on its way.
pub const HOPS_MAX: usize = 8;
/// Most times that content may be transformed with copied headers before it is taken for a loop.
pub const DEPTH_MAX: u8 = 16;

/// A broker of the mesh as provenance names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Hash of the region's name.
    pub region: u32,
    /// Hash of mesh, region and broker names.
    pub cluster: u64,
}

/// One broker that an event was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Which broker.
    pub place: Place,
    /// Hash of the topic it was written to there.
    pub topic: u32,
}

/// Where an event has been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// Hash of the mesh's name.
    pub mesh: u32,
    /// The broker where the event was first read.
    pub origin_cluster: u64,
    /// Hash of the shard's name there.
    pub origin_shard: u64,
    /// Incarnation of that shard.
    pub origin_incarnation: u64,
    /// Offset in that shard.
    pub origin_offset: u64,
    /// [`content_hash`] of the event.
    pub content: u64,
    /// How many ancestors had their headers copied.
    pub depth: u8,
    /// The brokers it was written to, in order; at most [`HOPS_MAX`].
    pub hops: Vec<Hop>,
}

/// Hash over key and payload; a missing key or payload differs from an empty one.
#[must_use]
pub fn content_hash(event: &Event) -> u64 {
    let _ = event;
    0
}

impl Provenance {
    /// Reads the encoded form; `None` when it is not one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let _ = bytes;
        None
    }

    /// The encoded form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        Bytes::new()
    }
}
