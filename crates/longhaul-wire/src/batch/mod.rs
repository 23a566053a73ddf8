//! Batches: how events travel. One batch covers the offsets `(prev, last]` of one shard incarnation and holds the events of that
//! range that its flow takes, possibly none. The header needs no decompression.
//!
//! [`BatchEncoder`] writes, [`decode_header`] and [`decode_batch`] read.

mod decode;
mod encode;
mod header;
#[cfg(test)]
mod tests;

pub use decode::decode_batch;
pub use encode::{BatchEncoder, Compression};
pub use header::{BATCH_HEADER_BYTES, BatchHeader, Chain, Codec, decode_header, frame_len, readdress};

/// What stands before an event: which parts it has.
///
/// ```text
/// event = flags u8 | offset varint, minus the one before (wrapping; 0 before the first)
///       | time zigzag varint, minus the one before (wrapping; 0 before the first) | identity 16 bytes LE
///       | topic (absent if SAME_TOPIC) | key (if KEY) | headers, encoded (if HEADERS) | provenance (if PROVENANCE)
///       | payload (absent if TOMBSTONE)                      each of the five: length varint, bytes
/// varint = 7 bits per byte, lowest first, the high bit says that more follow
/// ```
mod flag {
    pub(super) const KEY: u8 = 1;
    pub(super) const TOMBSTONE: u8 = 2;
    pub(super) const CONTENT_IDENTITY: u8 = 4;
    pub(super) const SAME_TOPIC: u8 = 8;
    pub(super) const HEADERS: u8 = 16;
    pub(super) const PROVENANCE: u8 = 32;
    pub(super) const ALL: u8 = 63;
}

/// Fewest bytes of one event: flags, offset, time and identity, with the topic of the one before and no payload.
const EVENT_BYTES_MIN: usize = 1 + 1 + 1 + 16;
