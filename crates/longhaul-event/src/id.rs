//! Stable identities: of an event, of a flow.
//!
//! All are XXH3 hashes: stable over versions and machines, made for telling things apart, no protection against forgery.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3;

/// The 128-bit identity of an event, stable over retries, owners and paths. Text form: 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct EventId(pub u128);

/// The 128-bit identity of a flow; the key of its cursor. Text form: 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FlowId(pub u128);

/// 64-bit hash of a name, as provenance and flows use it.
#[must_use]
pub fn hash64(bytes: &[u8]) -> u64 {
    xxh3::xxh3_64(bytes)
}

impl FlowId {
    /// How many buckets there are. To change it is to let two routers of different versions write a flow under two names.
    pub const BUCKETS: usize = 4;

    /// The bucket that the flow belongs to, under [`BUCKETS`](Self::BUCKETS): flows that share what a destination locks for writing, and that
    /// must therefore be applied by one and the same router of the destination's region.
    #[must_use]
    pub fn bucket(self) -> usize {
        usize::try_from(self.0 % Self::BUCKETS as u128).expect("a remainder is small")
    }
}

impl EventId {
    /// Identity of what stands at a position of a log: hash of the origin's cluster hash, incarnation, shard hash and offset.
    #[must_use]
    pub fn of_position(cluster: u64, incarnation: u64, shard: u64, offset: u64) -> Self {
        let mut bytes = [0; 32];
        for (slot, part) in bytes.chunks_exact_mut(8).zip([cluster, incarnation, shard, offset]) {
            slot.copy_from_slice(&part.to_le_bytes());
        }
        Self(xxh3::xxh3_128(&bytes))
    }

    /// Identity of something that has no position: hash of its origin's cluster hash and of parts that make it what it is.
    #[must_use]
    pub fn of_parts(cluster: u64, parts: &[&[u8]]) -> Self {
        Self(hash_parts(cluster, parts))
    }

    /// Reads the text form.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        parse_hex(text).map(Self)
    }
}

impl FlowId {
    /// Identity of a flow from the parts of its key, in order.
    #[must_use]
    pub fn of_parts(parts: &[&str]) -> Self {
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        Self(hash_parts(0, &parts))
    }

    /// Reads the text form.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        parse_hex(text).map(Self)
    }
}

/// Each part goes in with its length, so that no two lists of parts meet.
fn hash_parts(seed: u64, parts: &[&[u8]]) -> u128 {
    let mut hasher = xxh3::Xxh3::with_seed(seed);
    for part in parts {
        hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(part);
    }
    hasher.digest128()
}

fn parse_hex(text: &[u8]) -> Option<u128> {
    let text = std::str::from_utf8(text).ok()?;
    (text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

macro_rules! hex_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }
    )*};
}
hex_text!(EventId, FlowId);

#[cfg(test)]
mod tests;
