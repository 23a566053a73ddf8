//! AMQP's typed header values as text. Pure.
//!
//! NATS headers are text. A typed value that came from RabbitMQ is written as a person would write it, and only when that text gives
//! exactly the same bytes back; everything else goes as base64.

use longhaul_event::HeaderTag;

/// The value as text that [`parse`] turns into the same bytes; `None` when there is none.
pub(super) fn text(tag: HeaderTag, value: &[u8]) -> Option<String> {
    let text = match (tag.0, value) {
        (b't', [0]) => "false".to_owned(),
        (b't', [1]) => "true".to_owned(),
        (b'b', _) => i8::from_be_bytes(value.try_into().ok()?).to_string(),
        (b'B', _) => u8::from_be_bytes(value.try_into().ok()?).to_string(),
        (b's' | b'U', _) => i16::from_be_bytes(value.try_into().ok()?).to_string(),
        (b'u', _) => u16::from_be_bytes(value.try_into().ok()?).to_string(),
        (b'I', _) => i32::from_be_bytes(value.try_into().ok()?).to_string(),
        (b'i', _) => u32::from_be_bytes(value.try_into().ok()?).to_string(),
        (b'l', _) => i64::from_be_bytes(value.try_into().ok()?).to_string(),
        (b'L' | b'T', _) => u64::from_be_bytes(value.try_into().ok()?).to_string(),
        (b'f', _) => f32::from_be_bytes(value.try_into().ok()?).to_string(),
        (b'd', _) => f64::from_be_bytes(value.try_into().ok()?).to_string(),
        (b'S' | b'x', [_, _, _, _, text @ ..]) => std::str::from_utf8(text).ok()?.to_owned(),
        _ => return None,
    };
    (parse(tag, &text)? == value).then_some(text)
}

/// The bytes of a typed value from its text.
pub(super) fn parse(tag: HeaderTag, text: &str) -> Option<Vec<u8>> {
    Some(match tag.0 {
        b't' => vec![u8::from(text.parse::<bool>().ok()?)],
        b'b' => text.parse::<i8>().ok()?.to_be_bytes().to_vec(),
        b'B' => text.parse::<u8>().ok()?.to_be_bytes().to_vec(),
        b's' | b'U' => text.parse::<i16>().ok()?.to_be_bytes().to_vec(),
        b'u' => text.parse::<u16>().ok()?.to_be_bytes().to_vec(),
        b'I' => text.parse::<i32>().ok()?.to_be_bytes().to_vec(),
        b'i' => text.parse::<u32>().ok()?.to_be_bytes().to_vec(),
        b'l' => text.parse::<i64>().ok()?.to_be_bytes().to_vec(),
        b'L' | b'T' => text.parse::<u64>().ok()?.to_be_bytes().to_vec(),
        b'f' => text.parse::<f32>().ok()?.to_be_bytes().to_vec(),
        b'd' => text.parse::<f64>().ok()?.to_be_bytes().to_vec(),
        b'S' | b'x' => {
            let len = u32::try_from(text.len()).ok()?;
            [&len.to_be_bytes()[..], text.as_bytes()].concat()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn common_types_are_readable() {
        assert_eq!(text(HeaderTag(b't'), &[1]).as_deref(), Some("true"));
        assert_eq!(text(HeaderTag(b'I'), &(-7_i32).to_be_bytes()).as_deref(), Some("-7"));
        assert_eq!(text(HeaderTag(b'S'), b"\0\0\0\x02hi").as_deref(), Some("hi"));
        assert_eq!(text(HeaderTag(b'F'), b"\0\0\0\0"), None);
        assert_eq!(text(HeaderTag(b't'), &[7]), None, "an odd boolean must not become true");
    }

    proptest! {
        #[test]
        fn text_always_gives_the_same_bytes_back(tag in any::<u8>(), value in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Some(text) = text(HeaderTag(tag), &value) {
                prop_assert_eq!(parse(HeaderTag(tag), &text), Some(value));
            }
        }
    }
}
