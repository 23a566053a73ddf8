//! Percent-encoding of attribute values, after the CloudEvents HTTP binding 1.0.2, section 3.1.3.2.

use std::borrow::Cow;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Encodes space, double quote, percent and everything that is not printable ASCII.
pub(super) fn encode(value: &[u8]) -> Cow<'_, [u8]> {
    let is_plain = |byte: u8| matches!(byte, 0x21..=0x7e) && byte != b'"' && byte != b'%';
    if value.iter().all(|byte| is_plain(*byte)) {
        return Cow::Borrowed(value);
    }
    let mut encoded = Vec::with_capacity(value.len() * 3);
    for byte in value {
        if is_plain(*byte) {
            encoded.push(*byte);
        } else {
            encoded.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    Cow::Owned(encoded)
}

/// Takes off double quotes and their backslashes, which older writers use, then decodes once. A percent sign without two hex digits
/// behind it stays as it is.
pub(super) fn decode(value: &[u8]) -> Cow<'_, [u8]> {
    match value {
        [b'"', quoted @ .., b'"'] => Cow::Owned(decode_percent(&unescape(quoted)).into_owned()),
        _ => decode_percent(value),
    }
}

fn unescape(quoted: &[u8]) -> Vec<u8> {
    let mut bytes = quoted.iter().copied();
    std::iter::from_fn(|| bytes.next().map(|byte| if byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte }))
        .collect()
}

fn decode_percent(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'%') {
        return Cow::Borrowed(value);
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((byte, behind)) = rest.split_first() {
        match (byte, escaped(behind)) {
            (b'%', Some(escaped)) => {
                decoded.push(escaped);
                rest = &behind[2..];
            }
            _ => {
                decoded.push(*byte);
                rest = behind;
            }
        }
    }
    Cow::Owned(decoded)
}

fn escaped(bytes: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_specification() {
        let (plain, encoded) = ("Euro \u{20ac} \u{1f600}", b"Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(encode(plain.as_bytes()), &encoded[..]);
        assert_eq!(decode(encoded), plain.as_bytes());
        assert_eq!(decode(b"euro%20%e2%82%ac"), "euro \u{20ac}".as_bytes());
    }

    #[test]
    fn quotes_are_taken_off_and_broken_escapes_stay() {
        assert_eq!(decode(br#""a \"b\" \\ %20""#), &br#"a "b" \  "#[..]);
        for odd in ["%", "%4", "%zz", "100%", "\"", "a\"b\""] {
            assert_eq!(decode(odd.as_bytes()), odd.as_bytes());
        }
        assert_eq!(decode(b"%41%"), &b"A%"[..]);
    }

    #[test]
    fn plain_values_are_not_copied() {
        assert!(matches!(encode(b"order.made/1"), Cow::Borrowed(_)));
        assert!(matches!(decode(b"order.made/1"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn any_bytes_survive(value in prop::collection::vec(any::<u8>(), 0..40)) {
            let encoded = encode(&value).into_owned();
            prop_assert!(encoded.iter().all(|byte| matches!(byte, 0x21..=0x7e)));
            prop_assert_eq!(&decode(&encoded)[..], &value[..]);
        }

        #[test]
        fn decoding_never_grows(value in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(decode(&value).len() <= value.len());
        }
    }
}
