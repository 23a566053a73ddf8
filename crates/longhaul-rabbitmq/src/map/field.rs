//! AMQP field values to header values and back: the type octet is the tag, the value keeps AMQP's own encoding.
//!
//! Long strings are plain bytes and void is null, in both directions, so that headers of Kafka and NATS look ordinary at RabbitMQ.
//! The spellings are RabbitMQ's: `s` is a 16-bit and `l` a 64-bit integer.

use lapin::types::{AMQPType, AMQPValue, DecimalValue, FieldArray, FieldTable, LongString, ShortString};
use longhaul_event::HeaderTag;

/// Deepest nesting of arrays and tables that is read; RabbitMQ itself sets no limit.
const DEPTH_MAX: u8 = 16;

/// The header value of a field value.
pub(super) fn to_header(value: &AMQPValue) -> (HeaderTag, Vec<u8>) {
    match value {
        AMQPValue::LongString(text) => (HeaderTag::BYTES, text.as_bytes().to_vec()),
        AMQPValue::Void => (HeaderTag::NULL, Vec::new()),
        other => {
            let mut bytes = Vec::new();
            put(&mut bytes, other);
            (HeaderTag(octet(other)), bytes)
        }
    }
}

/// The field value of a header value; `None` when the tag is no AMQP type or the bytes are not of that type.
pub(super) fn from_header(tag: HeaderTag, bytes: &[u8]) -> Option<AMQPValue> {
    match tag {
        HeaderTag::BYTES => Some(AMQPValue::LongString(LongString::from(bytes))),
        HeaderTag::NULL => Some(AMQPValue::Void),
        HeaderTag(octet) => {
            let mut rest = bytes;
            let value = take(&mut rest, octet, 0)?;
            rest.is_empty().then_some(value)
        }
    }
}

fn octet(value: &AMQPValue) -> u8 {
    match value.get_type() {
        // It has no octet of its own, and no client sends it inside a table.
        AMQPType::ShortString => b'S',
        other => u8::try_from(other.get_id()).unwrap_or(b'V'),
    }
}

fn put(out: &mut Vec<u8>, value: &AMQPValue) {
    match value {
        AMQPValue::Boolean(v) => out.push(u8::from(*v)),
        AMQPValue::ShortShortInt(v) => out.extend(v.to_be_bytes()),
        AMQPValue::ShortShortUInt(v) => out.push(*v),
        AMQPValue::ShortInt(v) => out.extend(v.to_be_bytes()),
        AMQPValue::ShortUInt(v) => out.extend(v.to_be_bytes()),
        AMQPValue::LongInt(v) => out.extend(v.to_be_bytes()),
        AMQPValue::LongUInt(v) => out.extend(v.to_be_bytes()),
        AMQPValue::LongLongInt(v) => out.extend(v.to_be_bytes()),
        AMQPValue::Float(v) => out.extend(v.to_be_bytes()),
        AMQPValue::Double(v) => out.extend(v.to_be_bytes()),
        AMQPValue::Timestamp(v) => out.extend(v.to_be_bytes()),
        AMQPValue::DecimalValue(v) => {
            out.push(v.scale);
            out.extend(v.value.to_be_bytes());
        }
        AMQPValue::ShortString(v) => put_block(out, |out| out.extend(v.as_str().as_bytes())),
        AMQPValue::LongString(v) => put_block(out, |out| out.extend(v.as_bytes())),
        AMQPValue::ByteArray(v) => put_block(out, |out| out.extend(v.as_slice())),
        AMQPValue::FieldArray(values) => put_block(out, |out| {
            for value in values.as_slice() {
                out.push(octet(value));
                put(out, value);
            }
        }),
        AMQPValue::FieldTable(table) => put_block(out, |out| {
            for (name, value) in table.inner() {
                out.push(u8::try_from(name.as_str().len()).expect("lapin keeps short strings within 255 bytes"));
                out.extend(name.as_str().as_bytes());
                out.push(octet(value));
                put(out, value);
            }
        }),
        AMQPValue::Void => {}
    }
}

/// Writes a 32-bit length and what `fill` adds.
fn put_block(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 4]);
    fill(out);
    let len = u32::try_from(out.len() - at - 4).expect("a header that came in one AMQP frame is far below 4 GiB");
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

fn take(rest: &mut &[u8], octet: u8, depth: u8) -> Option<AMQPValue> {
    Some(match octet {
        b't' => AMQPValue::Boolean(array::<1>(rest)? != [0]),
        b'b' => AMQPValue::ShortShortInt(i8::from_be_bytes(array(rest)?)),
        b'B' => AMQPValue::ShortShortUInt(u8::from_be_bytes(array(rest)?)),
        b's' | b'U' => AMQPValue::ShortInt(i16::from_be_bytes(array(rest)?)),
        b'u' => AMQPValue::ShortUInt(u16::from_be_bytes(array(rest)?)),
        b'I' => AMQPValue::LongInt(i32::from_be_bytes(array(rest)?)),
        b'i' => AMQPValue::LongUInt(u32::from_be_bytes(array(rest)?)),
        b'l' | b'L' => AMQPValue::LongLongInt(i64::from_be_bytes(array(rest)?)),
        b'f' => AMQPValue::Float(f32::from_be_bytes(array(rest)?)),
        b'd' => AMQPValue::Double(f64::from_be_bytes(array(rest)?)),
        b'T' => AMQPValue::Timestamp(u64::from_be_bytes(array(rest)?)),
        b'D' => {
            let [scale] = array(rest)?;
            AMQPValue::DecimalValue(DecimalValue { scale, value: u32::from_be_bytes(array(rest)?) })
        }
        b'S' => AMQPValue::LongString(block(rest)?.into()),
        b'x' => AMQPValue::ByteArray(block(rest)?.into()),
        b'A' if depth < DEPTH_MAX => AMQPValue::FieldArray(take_array(block(rest)?, depth + 1)?),
        b'F' if depth < DEPTH_MAX => AMQPValue::FieldTable(take_table(block(rest)?, depth + 1)?),
        b'V' => AMQPValue::Void,
        _ => return None,
    })
}

fn take_array(mut rest: &[u8], depth: u8) -> Option<FieldArray> {
    let mut values = FieldArray::default();
    while !rest.is_empty() {
        let [octet] = array(&mut rest)?;
        values.push(take(&mut rest, octet, depth)?);
    }
    Some(values)
}

fn take_table(mut rest: &[u8], depth: u8) -> Option<FieldTable> {
    let mut table = FieldTable::default();
    while !rest.is_empty() {
        let [len] = array(&mut rest)?;
        let (name, tail) = rest.split_at_checked(usize::from(len))?;
        rest = tail;
        let name = ShortString::try_new(std::str::from_utf8(name).ok()?).ok()?;
        let [octet] = array(&mut rest)?;
        table.insert(name, take(&mut rest, octet, depth)?);
    }
    Some(table)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn block<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(u32::from_be_bytes(array(rest)?)).ok()?;
    let (head, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = AMQPValue> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i8>().prop_map(AMQPValue::ShortShortInt),
            any::<u8>().prop_map(AMQPValue::ShortShortUInt),
            any::<i16>().prop_map(AMQPValue::ShortInt),
            any::<u16>().prop_map(AMQPValue::ShortUInt),
            any::<i32>().prop_map(AMQPValue::LongInt),
            any::<u32>().prop_map(AMQPValue::LongUInt),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            // Not NaN: it does not equal itself.
            (-1e30_f32..1e30).prop_map(AMQPValue::Float),
            (-1e300_f64..1e300).prop_map(AMQPValue::Double),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            (any::<u8>(), any::<u32>())
                .prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|v| AMQPValue::LongString(v.into())),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|v| AMQPValue::ByteArray(v.into())),
            Just(AMQPValue::Void),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|v| AMQPValue::FieldArray(v.into())),
                proptest::collection::btree_map("[a-z]{0,9}", inner, 0..4).prop_map(|entries| {
                    let mut table = FieldTable::default();
                    entries.into_iter().for_each(|(name, value)| {
                        table.insert(name.into(), value);
                    });
                    AMQPValue::FieldTable(table)
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in values()) {
            let (tag, bytes) = to_header(&value);
            prop_assert_eq!(from_header(tag, &bytes), Some(value));
        }

        #[test]
        fn any_bytes_are_read_or_refused(tag in any::<u8>(), bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = from_header(HeaderTag(tag), &bytes);
        }
    }

    #[test]
    fn a_long_int_is_four_bytes_in_network_order() {
        assert_eq!(to_header(&AMQPValue::LongInt(42)), (HeaderTag(b'I'), vec![0, 0, 0, 42]));
        assert_eq!(to_header(&AMQPValue::LongString("x".into())), (HeaderTag::BYTES, b"x".to_vec()));
        assert_eq!(from_header(HeaderTag(b'I'), &[0, 0, 42]), None, "too short");
        assert_eq!(from_header(HeaderTag(b'I'), &[0, 0, 0, 0, 42]), None, "too long");
        assert_eq!(from_header(HeaderTag(b'?'), &[]), None, "no type");
    }

    #[test]
    fn nesting_ends_somewhere() {
        let mut bytes = Vec::new();
        for _ in 0..40 {
            let mut outer = vec![b'A'];
            put_block(&mut outer, |out| out.extend(&bytes));
            bytes = outer;
        }
        assert_eq!(from_header(HeaderTag(b'A'), &bytes[1..]), None);
    }
}
