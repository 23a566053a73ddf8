//! Headers, byte-exact, in order, with repeats, in one allocation for all of them.
//!
//! ```text
//! headers = header*          header = name_len u16 LE | tag u8 | value_len u32 LE | name (UTF-8) | value
//! ```
//! The encoded form is the form in memory and on the wire, so that neither side of a link allocates per header.
//! It refuses more than [`HEADER_COUNT_MAX`] headers or [`HEADER_BYTES_MAX`] bytes of names and values.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// Most headers that one event may have.
pub const HEADER_COUNT_MAX: usize = 64;
/// Most bytes that the names and values of one event's headers may have together. The 16 KiB that the design names, for one
/// value of that size to fit with its name and a few small ones beside it.
pub const HEADER_BYTES_MAX: usize = 20 * 1024;
const FIXED_BYTES: usize = 2 + 1 + 4;

/// The headers of one event. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Headers(Bytes);

/// What a header's value is.
///
/// Bytes and null cover Kafka and NATS. Every other tag is the type octet of an AMQP 0-9-1 field value (`t`, `I`, `l`, `S`, ..),
/// with the value in AMQP's own encoding, so that a typed value lands on RabbitMQ again as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderTag(pub u8);

impl HeaderTag {
    /// Plain bytes, text included.
    pub const BYTES: Self = Self(0);
    /// No value (Kafka's null).
    pub const NULL: Self = Self(1);
}

/// One header, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name, as it was, case kept.
    pub name: &'a str,
    /// What the value is.
    pub tag: HeaderTag,
    /// The value's bytes.
    pub value: &'a [u8],
}

/// Why headers are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// More than [`HEADER_COUNT_MAX`].
    #[error("an event has at most {HEADER_COUNT_MAX} headers")]
    TooMany,
    /// More than [`HEADER_BYTES_MAX`].
    #[error("the headers of an event have at most {HEADER_BYTES_MAX} bytes")]
    TooLarge,
    /// A name that is not UTF-8 or a length that points outside.
    #[error("the headers are malformed")]
    Malformed,
}

impl Headers {
    /// Starts building headers.
    #[must_use]
    pub fn builder() -> HeadersBuilder {
        HeadersBuilder::default()
    }

    /// Takes the encoded form after checking it whole.
    ///
    /// # Errors
    /// [`HeaderError`] when a length, a name or a limit is not kept.
    pub fn from_encoded(bytes: Bytes) -> Result<Self, HeaderError> {
        let (mut rest, mut count, mut size) = (&bytes[..], 0, 0);
        while !rest.is_empty() {
            let (header, tail) = split_first(rest).ok_or(HeaderError::Malformed)?;
            count += 1;
            size += header.name.len() + header.value.len();
            rest = tail;
        }
        match (count > HEADER_COUNT_MAX, size > HEADER_BYTES_MAX) {
            (true, _) => Err(HeaderError::TooMany),
            (_, true) => Err(HeaderError::TooLarge),
            _ => Ok(Self(bytes)),
        }
    }

    /// The encoded form, shared.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.0
    }

    /// Length of the encoded form in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The headers in order, repeats included.
    pub fn iter(&self) -> impl Iterator<Item = Header<'_>> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (header, tail) = split_first(rest)?;
            rest = tail;
            Some(header)
        })
    }

    /// The first header of that name, case kept.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<Header<'_>> {
        self.iter().find(|header| header.name == name)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn split_first(bytes: &[u8]) -> Option<(Header<'_>, &[u8])> {
    let (fixed, rest) = bytes.split_at_checked(FIXED_BYTES)?;
    let name_len = usize::from(u16::from_le_bytes([fixed[0], fixed[1]]));
    let value_len = usize::try_from(u32::from_le_bytes([fixed[3], fixed[4], fixed[5], fixed[6]])).ok()?;
    let (name, rest) = rest.split_at_checked(name_len)?;
    let (value, rest) = rest.split_at_checked(value_len)?;
    Some((Header { name: std::str::from_utf8(name).ok()?, tag: HeaderTag(fixed[2]), value }, rest))
}

/// Collects headers into the one encoded form.
#[derive(Debug, Default)]
pub struct HeadersBuilder {
    bytes: BytesMut,
    count: usize,
    size: usize,
}

impl HeadersBuilder {
    /// Appends a header with plain bytes.
    ///
    /// # Errors
    /// [`HeaderError`] when a limit is reached; what was there stays.
    pub fn push(&mut self, name: &str, value: &[u8]) -> Result<(), HeaderError> {
        self.push_tagged(name, HeaderTag::BYTES, value)
    }

    /// Appends a header.
    ///
    /// # Errors
    /// [`HeaderError`] when a limit is reached; what was there stays.
    pub fn push_tagged(&mut self, name: &str, tag: HeaderTag, value: &[u8]) -> Result<(), HeaderError> {
        let size = self.size + name.len() + value.len();
        if self.count == HEADER_COUNT_MAX {
            return Err(HeaderError::TooMany);
        }
        if size > HEADER_BYTES_MAX {
            return Err(HeaderError::TooLarge);
        }
        self.bytes.reserve(FIXED_BYTES + name.len() + value.len());
        self.bytes.put_u16_le(u16::try_from(name.len()).map_err(|_| HeaderError::TooLarge)?);
        self.bytes.put_u8(tag.0);
        self.bytes.put_u32_le(u32::try_from(value.len()).map_err(|_| HeaderError::TooLarge)?);
        self.bytes.put_slice(name.as_bytes());
        self.bytes.put_slice(value);
        self.count += 1;
        self.size = size;
        Ok(())
    }

    /// The headers.
    #[must_use]
    pub fn finish(self) -> Headers {
        Headers(self.bytes.freeze())
    }
}

#[cfg(test)]
mod tests;
