//! Writing batches: events go into one buffer, and out comes one piece of bytes per batch, compressed where that pays.

use bytes::{BufMut, Bytes, BytesMut};
use longhaul_event::{Event, Identity};
use longhaul_topic::TOPIC_BYTES_MAX;
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use super::{BATCH_HEADER_BYTES, BatchHeader, Chain, Codec, flag};
use crate::{
    Limits, WireError,
    limits::{BATCH_EVENTS_MAX, BATCH_RAW_BYTES_MAX, EVENT_FRAME_BYTES_MAX},
};

/// Batches smaller than this are never compressed: there is nothing to win.
const COMPRESS_FROM_BYTES: usize = 256;
/// After a batch that did not gain, so many go as they are before the next one is tried.
const RESAMPLE_EVERY_BATCHES: u32 = 64;
/// A gain of less than one part in so many does not pay.
const GAIN_AT_LEAST_ONE_IN: usize = 10;
const ZSTD_LEVEL: i32 = 1;

/// How a sender wants its batches compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// With LZ4, where a sample says that it gains a tenth or more.
    #[default]
    Lz4,
    /// With zstd at level 1, by the same rule: smaller, at about twice the cost.
    Zstd,
}

/// Writes batches, one after the other. One encoder serves one flow: the sampled gain is that of its events.
pub struct BatchEncoder {
    limits: Limits,
    /// Room for the header, then the events.
    raw: BytesMut,
    count: u32,
    offset: u64,
    time_ms: i64,
    topic: Vec<u8>,
    uncompressed_left: u32,
    lz4: Option<CompressTable>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
    /// Room that the last batch took: the next one gets as much at once, or its events are copied again and again while it grows.
    room: usize,
}

impl BatchEncoder {
    /// An encoder for what both ends of a link accept.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            raw: BytesMut::new(),
            count: 0,
            offset: 0,
            time_ms: 0,
            topic: Vec::new(),
            uncompressed_left: 0,
            lz4: None,
            zstd: None,
            scratch: Vec::new(),
            room: 0,
        }
    }

    /// Appends an event, with the topic that it has at its destination and the provenance that is written there. Offsets must
    /// rise within a batch.
    ///
    /// # Errors
    /// [`WireError::BatchFull`]: finish the batch and push again. Any other [`WireError`]: this event cannot travel. Nothing is
    /// appended then.
    pub fn push(&mut self, event: &Event, topic: &str, provenance: &[u8]) -> Result<(), WireError> {
        let key = event.key.as_ref().map_or(0, Bytes::len);
        let payload = event.payload.as_ref().map_or(0, Bytes::len);
        let bytes = topic.len() + key + event.headers.encoded_len() + payload + provenance.len();
        self.limits.check_event(bytes, key, provenance.len())?;
        if topic.len() > TOPIC_BYTES_MAX {
            return Err(WireError::Topic);
        }
        if self.limits.headers_max < longhaul_event::HEADER_COUNT_MAX
            && event.headers.iter().count() > self.limits.headers_max
        {
            return Err(longhaul_event::HeaderError::TooMany.into());
        }
        if self.count > 0 {
            if self.count == BATCH_EVENTS_MAX || self.len() + bytes + EVENT_FRAME_BYTES_MAX > BATCH_RAW_BYTES_MAX {
                return Err(WireError::BatchFull);
            }
            if event.offset <= self.offset {
                return Err(WireError::Order);
            }
        }
        self.write(event, topic, provenance, bytes);
        Ok(())
    }

    /// Bytes of the events so far, before compression.
    #[must_use]
    pub fn len(&self) -> usize {
        self.raw.len().saturating_sub(BATCH_HEADER_BYTES)
    }

    /// Number of events so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether there is no event so far. An empty batch is still worth sending: it moves the chain on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Ends the batch, and makes ready for the next one. The offsets of all its events must lie in `(prev, last]`.
    pub fn finish(&mut self, chain: Chain, compression: Compression) -> Bytes {
        if self.raw.is_empty() {
            self.raw.put_bytes(0, BATCH_HEADER_BYTES);
        }
        let mut header = self.header(chain);
        debug_assert!(self.count == 0 || header.covers(self.offset), "a batch covers the events that it holds");
        if let Some(codec) = self.compress(compression) {
            header.codec = codec;
            header.body_len = to_u32(self.scratch.len() - BATCH_HEADER_BYTES);
            header.write(&mut self.scratch);
            self.raw.clear();
            self.restart();
            return Bytes::copy_from_slice(&self.scratch);
        }
        header.write(&mut self.raw);
        self.restart();
        // Full batches differ a little in size, and the last event was given more room than it needed.
        self.room = self.raw.len() + self.raw.len() / 16;
        self.raw.split().freeze()
    }

    /// Drops the events so far, and makes ready for the next batch.
    pub fn clear(&mut self) {
        self.raw.clear();
        self.restart();
    }

    fn header(&self, chain: Chain) -> BatchHeader {
        let len = to_u32(self.len());
        let Chain { handle, path_epoch, start, incarnation, prev, last } = chain;
        let (codec, count) = (Codec::None, self.count);
        BatchHeader { handle, path_epoch, start, codec, count, incarnation, prev, last, raw_len: len, body_len: len }
    }

    fn restart(&mut self) {
        self.count = 0;
        self.offset = 0;
        self.time_ms = 0;
        self.topic.clear();
    }

    fn write(&mut self, event: &Event, topic: &str, provenance: &[u8], bytes: usize) {
        let needed = bytes + EVENT_FRAME_BYTES_MAX;
        if self.raw.is_empty() {
            self.raw.reserve(self.room.max(BATCH_HEADER_BYTES + needed));
            self.raw.put_bytes(0, BATCH_HEADER_BYTES);
        }
        self.raw.reserve(needed);
        let same_topic = self.count > 0 && self.topic == topic.as_bytes();
        self.raw.put_u8(flags(event, same_topic, provenance));
        put_varint(&mut self.raw, event.offset.wrapping_sub(self.offset));
        put_varint(&mut self.raw, zigzag(event.time_ms.wrapping_sub(self.time_ms)));
        self.raw.put_u128_le(event.id.0);
        if !same_topic {
            put_slice(&mut self.raw, topic.as_bytes());
            self.topic.clear();
            self.topic.extend_from_slice(topic.as_bytes());
        }
        if let Some(key) = &event.key {
            put_slice(&mut self.raw, key);
        }
        if !event.headers.is_empty() {
            put_slice(&mut self.raw, event.headers.encoded());
        }
        if !provenance.is_empty() {
            put_slice(&mut self.raw, provenance);
        }
        if let Some(payload) = &event.payload {
            put_slice(&mut self.raw, payload);
        }
        self.count += 1;
        self.offset = event.offset;
        self.time_ms = event.time_ms;
    }

    /// Compresses into the scratch buffer, behind room for the header; `None` when the batch shall go as it is.
    fn compress(&mut self, compression: Compression) -> Option<Codec> {
        if compression == Compression::None || self.len() < COMPRESS_FROM_BYTES {
            return None;
        }
        if self.uncompressed_left > 0 {
            self.uncompressed_left -= 1;
            return None;
        }
        let codec = if compression == Compression::Zstd { self.compress_zstd() } else { self.compress_lz4() };
        let gained = self.len().saturating_sub(self.scratch.len().saturating_sub(BATCH_HEADER_BYTES));
        if codec.is_none() || gained < self.len() / GAIN_AT_LEAST_ONE_IN {
            self.uncompressed_left = RESAMPLE_EVERY_BATCHES - 1;
            return None;
        }
        codec
    }

    fn compress_lz4(&mut self) -> Option<Codec> {
        let events = &self.raw[BATCH_HEADER_BYTES..];
        self.scratch.resize(BATCH_HEADER_BYTES + get_maximum_output_size(events.len()), 0);
        let table = self.lz4.get_or_insert_with(CompressTable::default);
        let len = compress_into_with_table(events, &mut self.scratch[BATCH_HEADER_BYTES..], table).ok()?;
        self.scratch.truncate(BATCH_HEADER_BYTES + len);
        Some(Codec::Lz4)
    }

    fn compress_zstd(&mut self) -> Option<Codec> {
        let events = &self.raw[BATCH_HEADER_BYTES..];
        if self.zstd.is_none() {
            self.zstd = Some(zstd::bulk::Compressor::new(ZSTD_LEVEL).ok()?);
        }
        // Room for the events as they are: what does not fit did not gain.
        self.scratch.resize(BATCH_HEADER_BYTES + events.len(), 0);
        let len = self.zstd.as_mut()?.compress_to_buffer(events, &mut self.scratch[BATCH_HEADER_BYTES..]).ok()?;
        self.scratch.truncate(BATCH_HEADER_BYTES + len);
        Some(Codec::Zstd)
    }
}

fn flags(event: &Event, same_topic: bool, provenance: &[u8]) -> u8 {
    let set = |on: bool, bit: u8| if on { bit } else { 0 };
    set(event.key.is_some(), flag::KEY)
        | set(event.payload.is_none(), flag::TOMBSTONE)
        | set(event.identity == Identity::Content, flag::CONTENT_IDENTITY)
        | set(same_topic, flag::SAME_TOPIC)
        | set(!event.headers.is_empty(), flag::HEADERS)
        | set(!provenance.is_empty(), flag::PROVENANCE)
}

fn put_slice(out: &mut BytesMut, bytes: &[u8]) {
    put_varint(out, u64::try_from(bytes.len()).expect("a length fits 64 bits"));
    out.put_slice(bytes);
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn to_u32(len: usize) -> u32 {
    u32::try_from(len).expect("a batch is far below 4 GiB, which its limits ensure")
}
