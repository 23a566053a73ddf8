//! Reading batches. Order of the checks: header, declared lengths, checksum, decompression to exactly the declared length, events.

use bytes::{Buf, Bytes};
use longhaul_event::{Event, EventId, HeaderError, Headers, Identity};
use longhaul_topic::Topic;

use super::{
    BATCH_HEADER_BYTES, BatchHeader, Codec, flag,
    header::{checksum_fits, decode_header, frame_len},
};
use crate::{Limits, WireError};

/// Reads a whole batch. Its events are slices of one buffer: of `bytes` itself, or of what they were decompressed into.
///
/// # Errors
/// [`WireError`] for whatever is not as it must be; nothing was allocated beyond the limits then.
pub fn decode_batch(bytes: Bytes, limits: &Limits) -> Result<(BatchHeader, Vec<Event>), WireError> {
    let header = decode_header(&bytes)?;
    let len = frame_len(&header, limits)?;
    if bytes.len() < len {
        return Err(WireError::Truncated("batch"));
    }
    if bytes.len() > len {
        return Err(WireError::Lengths);
    }
    if !checksum_fits(&bytes) {
        return Err(WireError::Checksum);
    }
    let mut body = bytes;
    body.advance(BATCH_HEADER_BYTES);
    let raw = decompress(&header, body)?;
    let events = Reader::new(raw, &header, limits).events()?;
    Ok((header, events))
}

fn decompress(header: &BatchHeader, body: Bytes) -> Result<Bytes, WireError> {
    let raw_len = usize::try_from(header.raw_len).map_err(|_| WireError::Lengths)?;
    let mut raw = match header.codec {
        Codec::None => return Ok(body),
        Codec::Lz4 | Codec::Zstd => vec![0; raw_len],
    };
    let written = match header.codec {
        Codec::Zstd => zstd::bulk::decompress_to_buffer(&body, &mut raw[..]).map_err(|_| WireError::Decompress)?,
        _ => lz4_flex::block::decompress_into(&body, &mut raw).map_err(|_| WireError::Decompress)?,
    };
    if written == raw_len { Ok(raw.into()) } else { Err(WireError::Decompress) }
}

/// Reads the events of one batch, front to back.
struct Reader<'a> {
    raw: Bytes,
    at: usize,
    header: &'a BatchHeader,
    limits: &'a Limits,
    offset: u64,
    time_ms: i64,
    topic: Option<Topic>,
}

impl<'a> Reader<'a> {
    fn new(raw: Bytes, header: &'a BatchHeader, limits: &'a Limits) -> Self {
        Self { raw, at: 0, header, limits, offset: 0, time_ms: 0, topic: None }
    }

    fn events(mut self) -> Result<Vec<Event>, WireError> {
        let count = usize::try_from(self.header.count).map_err(|_| WireError::Lengths)?;
        let mut events = Vec::with_capacity(count);
        for nth in 0..count {
            events.push(self.event(nth == 0)?);
        }
        if self.at == self.raw.len() { Ok(events) } else { Err(WireError::Lengths) }
    }

    fn event(&mut self, first: bool) -> Result<Event, WireError> {
        let flags = self.bytes(1)?[0];
        if flags & !flag::ALL != 0 {
            return Err(WireError::Flags("event"));
        }
        let has = |bit: u8| flags & bit != 0;
        let offset = self.offset(first)?;
        self.time_ms = self.time_ms.wrapping_add(unzigzag(self.varint()?));
        let id = u128::from_le_bytes(self.bytes(16)?.try_into().expect("sixteen bytes make a u128"));
        if !has(flag::SAME_TOPIC) {
            self.topic = Some(Topic::from_bytes(self.slice()?).map_err(|_| WireError::Topic)?);
        }
        let topic = self.topic.clone().ok_or(WireError::Topic)?;
        let key = if has(flag::KEY) { Some(self.slice()?) } else { None };
        let headers = if has(flag::HEADERS) { self.headers()? } else { Headers::default() };
        let provenance = if has(flag::PROVENANCE) { self.slice()? } else { Bytes::new() };
        let payload = if has(flag::TOMBSTONE) { None } else { Some(self.slice()?) };
        let identity = if has(flag::CONTENT_IDENTITY) { Identity::Content } else { Identity::Unique };
        let event = Event {
            offset,
            topic,
            key,
            headers,
            payload,
            time_ms: self.time_ms,
            id: EventId(id),
            identity,
            provenance,
        };
        self.check(&event)?;
        Ok(event)
    }

    fn check(&self, event: &Event) -> Result<(), WireError> {
        let key = event.key.as_ref().map_or(0, Bytes::len);
        let payload = event.payload.as_ref().map_or(0, Bytes::len);
        let provenance = event.provenance.len();
        let bytes = event.topic.bytes().len() + key + event.headers.encoded_len() + payload + provenance;
        self.limits.check_event(bytes, key, provenance)
    }

    /// The next offset; it is above the one before and inside of what the batch covers.
    fn offset(&mut self, first: bool) -> Result<u64, WireError> {
        let offset = self.offset.wrapping_add(self.varint()?);
        if (!first && offset <= self.offset) || !self.header.covers(offset) {
            return Err(WireError::Order);
        }
        self.offset = offset;
        Ok(offset)
    }

    fn headers(&mut self) -> Result<Headers, WireError> {
        let headers = Headers::from_encoded(self.slice()?)?;
        if headers.iter().count() > self.limits.headers_max {
            return Err(HeaderError::TooMany.into());
        }
        Ok(headers)
    }

    fn slice(&mut self) -> Result<Bytes, WireError> {
        let len = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated("event"))?;
        self.take(len)
    }

    fn take(&mut self, len: usize) -> Result<Bytes, WireError> {
        let start = self.at;
        self.bytes(len)?;
        Ok(self.raw.slice(start..self.at))
    }

    /// The next bytes, borrowed: sharing them would cost more than reading them.
    fn bytes(&mut self, len: usize) -> Result<&[u8], WireError> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.raw.len()).ok_or(WireError::Truncated("event"))?;
        let bytes = &self.raw[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.raw.get(self.at).ok_or(WireError::Truncated("event"))?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Malformed("number"))
    }
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}
