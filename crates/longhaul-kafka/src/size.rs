//! How large an event becomes on its way into a partition (pure): Kafka's limits count bytes of the encoded batch.
//!
//! ```text
//! batch of one = header 61 | record
//! record = varint length | attributes 1 | varint time delta 1 | varint offset delta 1 | varint key length, key
//!          | varint value length, value | varint header count | (varint length, name, varint length, value)*
//! ```

/// Bytes of a batch before its records.
const BATCH_HEADER_BYTES: usize = 61;
/// Attributes, time delta 0 and offset delta 0.
const FIXED_BYTES: usize = 3;
/// Varint of -1: no key, no value.
const NONE_BYTES: usize = 1;

/// Adds up the size of one record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordSize {
    headers: usize,
    bytes: usize,
}

impl RecordSize {
    /// A record with that key and value, and no headers yet.
    pub(crate) fn new(key: Option<usize>, value: Option<usize>) -> Self {
        Self { headers: 0, bytes: FIXED_BYTES + field(key) + field(value) }
    }

    /// Adds a header.
    pub(crate) fn header(&mut self, name: usize, value: Option<usize>) {
        self.headers += 1;
        self.bytes += field(Some(name)) + field(value);
    }

    /// Bytes of a batch that holds this record alone, uncompressed.
    pub(crate) fn batch_bytes(self) -> usize {
        let record = self.bytes + varint(self.headers);
        BATCH_HEADER_BYTES + varint(record) + record
    }
}

fn field(len: Option<usize>) -> usize {
    len.map_or(NONE_BYTES, |len| varint(len) + len)
}

/// Bytes of a number as zig-zag varint.
fn varint(value: usize) -> usize {
    let bits = usize::BITS - (value << 1).leading_zeros();
    usize::try_from(bits.max(1).div_ceil(7)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_grows_where_zig_zag_does() {
        for (value, bytes) in [(0, 1), (63, 1), (64, 2), (8_191, 2), (8_192, 3), (1_048_575, 3), (1_048_576, 4)] {
            assert_eq!(varint(value), bytes, "{value}");
        }
    }

    #[test]
    fn the_smallest_record_is_68_bytes() {
        // 61 + length 1 + attributes 1 + deltas 2 + no key 1 + no value 1 + no headers 1.
        assert_eq!(RecordSize::new(None, None).batch_bytes(), 68);
        let mut size = RecordSize::new(Some(0), Some(100));
        size.header(3, Some(2));
        size.header(1, None);
        // 3 fixed + key 1 + value 2+100 + count 1 + (1+3+1+2) + (1+1+1) = 117, whose length takes 2.
        assert_eq!(size.batch_bytes(), 61 + 2 + 117);
    }
}
