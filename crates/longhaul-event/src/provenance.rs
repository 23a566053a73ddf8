//! Provenance: where an event has been, bound to a hash of its content.
//!
//! ```text
//! version u8 = 1 | mesh u32 | origin: cluster u64, shard u64, incarnation u64, offset u64 | content u64 | depth u8 | hops u8 | hop*
//! hop = region u32 | cluster u64 | topic u32           (all little-endian)
//! ```
//! It stands in brokers among other people's headers, so nothing in it is trusted beyond this: if its content hash is that of the
//! event, the event has been where it says. Every hash in it is frozen: a change would make routers of two versions forward in
//! circles. [`Provenance`] is the owned form; [`View`] reads the encoded one where it lies, for the path of every event.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Event, Position, hash64};

/// Most brokers that one event may be written to on its way.
pub const HOPS_MAX: usize = 8;
/// Most times that content may be transformed with copied headers before it is taken for a loop.
pub const DEPTH_MAX: u8 = 16;
/// Longest encoded form.
pub const PROVENANCE_BYTES_MAX: usize = FIXED_BYTES + HOPS_MAX * HOP_BYTES;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 1 + 4 + 4 * 8 + 8 + 1 + 1;
const HOP_BYTES: usize = 4 + 8 + 4;

/// A broker of the mesh as provenance names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    // Hashing two hashes keeps key and payload apart without copying them into one piece.
    let mut bytes = [0; 17];
    bytes[0] = u8::from(event.key.is_some()) | u8::from(event.payload.is_some()) << 1;
    bytes[1..9].copy_from_slice(&hash64(event.key.as_deref().unwrap_or_default()).to_le_bytes());
    bytes[9..].copy_from_slice(&hash64(event.payload.as_deref().unwrap_or_default()).to_le_bytes());
    hash64(&bytes)
}

/// Hash of a mesh's name as provenance has it.
#[must_use]
pub fn mesh_hash(name: &str) -> u32 {
    lower_half(hash64(name.as_bytes()))
}

/// Hash of a topic as provenance has it.
#[must_use]
pub fn topic_hash(topic: &str) -> u32 {
    lower_half(hash64(topic.as_bytes()))
}

fn lower_half(hash: u64) -> u32 {
    hash as u32
}

impl Place {
    /// The place of a broker. Brokers of the same name in other regions or meshes are other places.
    #[must_use]
    pub fn of(mesh: &str, region: &str, broker: &str) -> Self {
        let mut bytes = Vec::with_capacity(mesh.len() + region.len() + broker.len() + 24);
        for part in [mesh, region, broker] {
            // With its length, so that no two lists of names meet.
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        Self { region: lower_half(hash64(region.as_bytes())), cluster: hash64(&bytes) }
    }
}

impl Provenance {
    /// The provenance of an event that was first read there and has been nowhere else. `shard` is the hash of the shard's name.
    #[must_use]
    pub fn new(mesh: u32, origin: Place, shard: u64, position: Position, content: u64) -> Self {
        Self {
            mesh,
            origin_cluster: origin.cluster,
            origin_shard: shard,
            origin_incarnation: position.incarnation,
            origin_offset: position.offset,
            content,
            depth: 0,
            hops: Vec::new(),
        }
    }

    /// Reads the encoded form; `None` when it is not one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        View::new(bytes).map(|view| view.to_owned())
    }

    /// The encoded form.
    ///
    /// # Panics
    /// With more than [`HOPS_MAX`] hops, which neither [`decode`](Self::decode) nor [`extended`](Self::extended) make.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.encoded_len());
        self.encode_into(&mut bytes);
        bytes.freeze()
    }

    /// Appends the encoded form, so that a batch of events needs one allocation.
    ///
    /// # Panics
    /// As [`encode`](Self::encode).
    pub fn encode_into(&self, bytes: &mut BytesMut) {
        assert!(self.hops.len() <= HOPS_MAX, "a provenance has at most {HOPS_MAX} hops");
        bytes.reserve(self.encoded_len());
        bytes.put_u8(VERSION);
        bytes.put_u32_le(self.mesh);
        for part in [self.origin_cluster, self.origin_shard, self.origin_incarnation, self.origin_offset, self.content]
        {
            bytes.put_u64_le(part);
        }
        bytes.put_u8(self.depth);
        bytes.put_u8(self.hops.len() as u8);
        for hop in &self.hops {
            put_hop(hop, bytes);
        }
    }

    /// Whether the event was first read there or has been written there.
    #[must_use]
    pub fn visited(&self, place: Place) -> bool {
        self.origin_cluster == place.cluster || self.hops.iter().any(|hop| hop.place.cluster == place.cluster)
    }

    /// The provenance of the same event written to one more broker; `None` when it has [`HOPS_MAX`] already.
    #[must_use]
    pub fn extended(&self, hop: Hop) -> Option<Self> {
        (self.hops.len() < HOPS_MAX).then(|| {
            let mut longer = self.clone();
            longer.hops.push(hop);
            longer
        })
    }

    fn encoded_len(&self) -> usize {
        FIXED_BYTES + self.hops.len() * HOP_BYTES
    }
}

fn put_hop(hop: &Hop, bytes: &mut BytesMut) {
    bytes.put_u32_le(hop.place.region);
    bytes.put_u64_le(hop.place.cluster);
    bytes.put_u32_le(hop.topic);
}

/// An encoded provenance, checked and read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View<'a>(&'a [u8]);

impl<'a> View<'a> {
    /// Checks version and lengths; `None` when the bytes are no provenance of this version.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let hops = usize::from(*bytes.get(FIXED_BYTES - 1)?);
        (bytes[0] == VERSION && hops <= HOPS_MAX && bytes.len() == FIXED_BYTES + hops * HOP_BYTES)
            .then_some(Self(bytes))
    }

    /// Hash of the mesh's name.
    #[must_use]
    pub fn mesh(&self) -> u32 {
        u32_at(self.0, 1)
    }

    /// The broker where the event was first read.
    #[must_use]
    pub fn origin_cluster(&self) -> u64 {
        u64_at(self.0, 5)
    }

    /// The content hash that it is bound to.
    #[must_use]
    pub fn content(&self) -> u64 {
        u64_at(self.0, 37)
    }

    /// How many ancestors had their headers copied.
    #[must_use]
    pub fn depth(&self) -> u8 {
        self.0[45]
    }

    /// The brokers it was written to, in order.
    pub fn hops(&self) -> impl ExactSizeIterator<Item = Hop> + 'a {
        self.0[FIXED_BYTES..]
            .chunks_exact(HOP_BYTES)
            .map(|hop| Hop { place: Place { region: u32_at(hop, 0), cluster: u64_at(hop, 4) }, topic: u32_at(hop, 12) })
    }

    /// Whether the event was first read there or has been written there.
    #[must_use]
    pub fn visited(&self, place: Place) -> bool {
        self.origin_cluster() == place.cluster || self.hops().any(|hop| hop.place.cluster == place.cluster)
    }

    /// Appends the encoded form with more hops; `false`, and nothing appended, when they would be more than [`HOPS_MAX`].
    pub fn extend_into(&self, hops: &[Hop], bytes: &mut BytesMut) -> bool {
        let count = self.hops().len() + hops.len();
        if count > HOPS_MAX {
            return false;
        }
        bytes.reserve(FIXED_BYTES + count * HOP_BYTES);
        bytes.put_slice(&self.0[..FIXED_BYTES - 1]);
        bytes.put_u8(count as u8);
        bytes.put_slice(&self.0[FIXED_BYTES..]);
        for hop in hops {
            put_hop(hop, bytes);
        }
        true
    }

    /// The owned form.
    #[must_use]
    pub fn to_owned(&self) -> Provenance {
        Provenance {
            mesh: self.mesh(),
            origin_cluster: self.origin_cluster(),
            origin_shard: u64_at(self.0, 13),
            origin_incarnation: u64_at(self.0, 21),
            origin_offset: u64_at(self.0, 29),
            content: self.content(),
            depth: self.depth(),
            hops: self.hops().collect(),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
}

#[cfg(test)]
mod tests;
