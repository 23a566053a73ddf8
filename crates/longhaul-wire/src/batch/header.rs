//! The fixed header of a batch, and the rules that it must keep before anything is allocated for the rest.
//!
//! ```text
//!  0 magic "LH"  2 version u8 = 1  3 flags u8 (bit 0: START)  4 handle u32   8 path_epoch u32  12 codec u8  13 zero x3
//! 16 incarnation u64              24 prev u64                32 last u64
//! 40 count u32  44 raw_len u32    48 body_len u32            52 crc32c u32 (of bytes 0..52 and the body)
//! 56 body                                                                                  (all little-endian)
//! ```

use bytes::{Bytes, BytesMut};

use crate::{Limits, WireError, limits::BATCH_EVENTS_MAX};

use super::EVENT_BYTES_MIN;

/// Length of the header.
pub const BATCH_HEADER_BYTES: usize = 56;
const MAGIC: [u8; 2] = *b"LH";
const VERSION: u8 = 1;
const START: u8 = 1;
const CRC_AT: usize = 52;

/// How the events of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// LZ4 block.
    Lz4,
    /// zstd frame.
    Zstd,
}

/// Where a batch stands in its flow: what the one who finishes it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Which flow.
    pub handle: u32,
    /// Of which path epoch.
    pub path_epoch: u32,
    /// A new chain begins here and `prev` is its base.
    pub start: bool,
    /// Incarnation of the shard.
    pub incarnation: u64,
    /// The offset before the first that the batch covers, in wrapping arithmetic.
    pub prev: u64,
    /// The last offset that the batch covers; `prev` for a batch that covers none.
    pub last: u64,
}

/// The header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Which flow.
    pub handle: u32,
    /// Of which path epoch.
    pub path_epoch: u32,
    /// A new chain begins here and `prev` is its base.
    pub start: bool,
    /// How the body is compressed.
    pub codec: Codec,
    /// Number of events.
    pub count: u32,
    /// Incarnation of the shard.
    pub incarnation: u64,
    /// The offset before the first that the batch covers, in wrapping arithmetic.
    pub prev: u64,
    /// The last offset that the batch covers; `prev` for a batch that covers none.
    pub last: u64,
    /// Bytes of the events before compression.
    pub raw_len: u32,
    /// Bytes that follow the header.
    pub body_len: u32,
}

impl Codec {
    fn byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }
}

impl BatchHeader {
    /// Writes the header in front of its body; `whole` is both, with room for the header.
    pub(super) fn write(&self, whole: &mut [u8]) {
        whole[0..2].copy_from_slice(&MAGIC);
        whole[2] = VERSION;
        whole[3] = u8::from(self.start) * START;
        whole[4..8].copy_from_slice(&self.handle.to_le_bytes());
        whole[8..12].copy_from_slice(&self.path_epoch.to_le_bytes());
        whole[12..16].copy_from_slice(&[self.codec.byte(), 0, 0, 0]);
        whole[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        whole[24..32].copy_from_slice(&self.prev.to_le_bytes());
        whole[32..40].copy_from_slice(&self.last.to_le_bytes());
        whole[40..44].copy_from_slice(&self.count.to_le_bytes());
        whole[44..48].copy_from_slice(&self.raw_len.to_le_bytes());
        whole[48..52].copy_from_slice(&self.body_len.to_le_bytes());
        let crc = checksum(whole);
        whole[CRC_AT..BATCH_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    }

    /// Whether an offset lies in `(prev, last]`, in wrapping arithmetic.
    pub(super) fn covers(&self, offset: u64) -> bool {
        offset.wrapping_sub(self.prev).wrapping_sub(1) < self.last.wrapping_sub(self.prev)
    }
}

/// The same batch under another flow handle, for a router that passes it on: nothing of it is read or decompressed, but its checksum must
/// fit, so that damage is found where it happened.
///
/// # Errors
/// [`WireError::Truncated`] when it is shorter than a header, [`WireError::Checksum`].
pub fn readdress(batch: Bytes, handle: u32) -> Result<Bytes, WireError> {
    if batch.len() < BATCH_HEADER_BYTES {
        return Err(WireError::Truncated("header of a batch"));
    }
    if !checksum_fits(&batch) {
        return Err(WireError::Checksum);
    }
    let mut whole = BytesMut::from(batch);
    whole[4..8].copy_from_slice(&handle.to_le_bytes());
    let crc = checksum(&whole);
    whole[CRC_AT..BATCH_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(whole.freeze())
}

/// Reads the header of a batch. Says nothing about its checksum, which covers the body as well, and nothing about limits.
///
/// # Errors
/// [`WireError`] when it is too short or breaks the layout.
pub fn decode_header(bytes: &[u8]) -> Result<BatchHeader, WireError> {
    let head = bytes.first_chunk::<BATCH_HEADER_BYTES>().ok_or(WireError::Truncated("header of a batch"))?;
    if head[0..2] != MAGIC {
        return Err(WireError::Magic);
    }
    if head[2] != VERSION {
        return Err(WireError::Version(head[2]));
    }
    if head[3] & !START != 0 || head[13..16] != [0; 3] {
        return Err(WireError::Flags("header of a batch"));
    }
    let codec = match head[12] {
        0 => Codec::None,
        1 => Codec::Lz4,
        2 => Codec::Zstd,
        other => return Err(WireError::Codec(other)),
    };
    Ok(BatchHeader {
        handle: u32_at(head, 4),
        path_epoch: u32_at(head, 8),
        start: head[3] & START != 0,
        codec,
        count: u32_at(head, 40),
        incarnation: u64_at(head, 16),
        prev: u64_at(head, 24),
        last: u64_at(head, 32),
        raw_len: u32_at(head, 44),
        body_len: u32_at(head, 48),
    })
}

/// Bytes of the whole batch, header included, once its declared lengths are found to be within the limits. Whoever reads a batch
/// from a stream asks this before it allocates.
///
/// # Errors
/// [`WireError`] when a declared length is over its limit or contradicts another.
pub fn frame_len(header: &BatchHeader, limits: &Limits) -> Result<usize, WireError> {
    let (raw, body) = (to_usize(header.raw_len), to_usize(header.body_len));
    let limit = limits.batch_raw_bytes_max();
    if raw > limit {
        return Err(WireError::BatchTooLarge { bytes: raw, limit });
    }
    if body > raw || (header.codec == Codec::None && body != raw) {
        return Err(WireError::Lengths);
    }
    let covered = header.last.wrapping_sub(header.prev);
    let fits = to_usize(header.count) <= raw / EVENT_BYTES_MIN && u64::from(header.count) <= covered;
    if header.count > BATCH_EVENTS_MAX || !fits {
        return Err(WireError::TooManyEvents(header.count));
    }
    Ok(BATCH_HEADER_BYTES + body)
}

/// Whether the checksum in the header fits header and body.
pub(super) fn checksum_fits(whole: &[u8]) -> bool {
    whole.len() >= BATCH_HEADER_BYTES && checksum(whole) == u32_at(whole, CRC_AT)
}

fn checksum(whole: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&whole[..CRC_AT]), &whole[BATCH_HEADER_BYTES..])
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes make a u32"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes make a u64"))
}
