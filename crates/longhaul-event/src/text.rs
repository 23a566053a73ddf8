//! Header values as text: for predicates, templates, and brokers that know only text.

use std::borrow::Cow;
use std::fmt::Write;

use crate::{Header, HeaderTag};

/// The value of a header as text, without an allocation where it is text already.
///
/// Bytes that are UTF-8 stand as they are; null is the empty text. AMQP booleans, integers, floats, strings and void are written
/// as one would, timestamps in RFC 3339 and UTC. Everything else, and what is shorter or longer than its type says, is lower-case hex.
#[must_use]
pub fn header_text<'a>(header: &Header<'a>) -> Cow<'a, str> {
    let text = match header.tag {
        HeaderTag::BYTES => std::str::from_utf8(header.value).ok().map(Cow::Borrowed),
        HeaderTag::NULL => Some(Cow::Borrowed("")),
        HeaderTag(octet) => typed(octet, header.value),
    };
    text.unwrap_or_else(|| Cow::Owned(hex(header.value)))
}

fn typed(octet: u8, value: &[u8]) -> Option<Cow<'_, str>> {
    let text = match octet {
        b't' => if *number(value).as_ref().map(|[byte]: &[u8; 1]| byte)? == 0 { "false" } else { "true" }.to_owned(),
        b'b' => i8::from_be_bytes(number(value)?).to_string(),
        b'B' => u8::from_be_bytes(number(value)?).to_string(),
        b's' => i16::from_be_bytes(number(value)?).to_string(),
        b'u' => u16::from_be_bytes(number(value)?).to_string(),
        b'I' => i32::from_be_bytes(number(value)?).to_string(),
        b'i' => u32::from_be_bytes(number(value)?).to_string(),
        // Both signed, as RabbitMQ reads them, whatever the specification says of `L`.
        b'l' | b'L' => i64::from_be_bytes(number(value)?).to_string(),
        b'f' => f32::from_be_bytes(number(value)?).to_string(),
        b'd' => f64::from_be_bytes(number(value)?).to_string(),
        b'T' => timestamp(u64::from_be_bytes(number(value)?)),
        b'V' if value.is_empty() => String::new(),
        b'S' => return long_string(value).map(Cow::Borrowed),
        _ => return None,
    };
    Some(Cow::Owned(text))
}

fn number<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
}

fn long_string(value: &[u8]) -> Option<&str> {
    let (length, text) = value.split_at_checked(4)?;
    let whole = usize::try_from(u32::from_be_bytes(number(length)?)).ok() == Some(text.len());
    whole.then(|| std::str::from_utf8(text).ok()).flatten()
}

/// A time, in microseconds since the Unix epoch, in RFC 3339 and UTC: as log lines have it.
#[must_use]
pub fn rfc3339(micros: u64) -> String {
    format!("{}.{:06}Z", timestamp(micros / 1_000_000).trim_end_matches('Z'), micros % 1_000_000)
}

/// RFC 3339 up to the year 9999, else the seconds.
fn timestamp(seconds: u64) -> String {
    const END_OF_9999: u64 = 253_402_300_800;
    if seconds >= END_OF_9999 {
        return seconds.to_string();
    }
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Days since 1970-01-01 to the date: years are counted from March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(tag: HeaderTag, value: &[u8]) -> String {
        header_text(&Header { name: "n", tag, value }).into_owned()
    }

    #[test]
    fn every_type_has_its_text() {
        for (octet, value, expected) in [
            (b't', &[1_u8][..], "true"),
            (b't', &[0], "false"),
            (b'b', &[0xff], "-1"),
            (b'B', &[0xff], "255"),
            (b's', &[0xff, 0xfe], "-2"),
            (b'u', &[1, 0], "256"),
            (b'I', &[0xff; 4], "-1"),
            (b'i', &[0xff; 4], "4294967295"),
            (b'l', &[0xff; 8], "-1"),
            (b'L', &[0, 0, 0, 0, 0, 0, 0, 7], "7"),
            (b'f', &1.5_f32.to_be_bytes(), "1.5"),
            (b'd', &(-0.25_f64).to_be_bytes(), "-0.25"),
            (b'S', b"\0\0\0\x02hi", "hi"),
            (b'V', b"", ""),
            (b'T', &0_u64.to_be_bytes(), "1970-01-01T00:00:00Z"),
            (b'T', &951_782_399_u64.to_be_bytes(), "2000-02-28T23:59:59Z"),
            (b'T', &951_782_400_u64.to_be_bytes(), "2000-02-29T00:00:00Z"),
            (b'T', &4_107_542_399_u64.to_be_bytes(), "2100-02-28T23:59:59Z"),
            (b'T', &4_107_542_400_u64.to_be_bytes(), "2100-03-01T00:00:00Z"),
            (b'T', &253_402_300_799_u64.to_be_bytes(), "9999-12-31T23:59:59Z"),
            (b'T', &253_402_300_800_u64.to_be_bytes(), "253402300800"),
            (b'x', &[0xab, 0x0c], "ab0c"),
        ] {
            assert_eq!(text(HeaderTag(octet), value), expected, "{}", octet as char);
        }
        assert_eq!(text(HeaderTag::BYTES, "grün".as_bytes()), "grün");
        assert_eq!(text(HeaderTag::BYTES, &[0xff, 0x00]), "ff00");
        assert_eq!(text(HeaderTag::NULL, b""), "");
    }

    #[test]
    fn a_time_has_its_microseconds() {
        assert_eq!(rfc3339(951_782_400_000_042), "2000-02-29T00:00:00.000042Z");
        assert_eq!(rfc3339(951_782_399_999_999), "2000-02-28T23:59:59.999999Z");
    }

    #[test]
    fn a_value_that_its_type_does_not_fit_is_hex() {
        for (octet, value) in
            [(b'I', &[1, 2, 3][..]), (b'S', &[0, 0, 0, 9, b'x']), (b'S', b"hi"), (b't', b""), (b'V', &[1])]
        {
            assert_eq!(text(HeaderTag(octet), value), hex(value));
        }
    }

    proptest! {
        #[test]
        fn any_value_has_a_text(tag in any::<u8>(), value in prop::collection::vec(any::<u8>(), 0..12)) {
            let _ = text(HeaderTag(tag), &value);
        }

        #[test]
        fn the_days_of_four_centuries_follow_each_other(day in 0_u64..1_460_970) {
            let (year, month, of_month) = civil(day);
            let next = civil(day + 1);
            let same_month = next == (year, month, of_month + 1);
            let next_month = next == (year, month + 1, 1) || (month == 12 && next == (year + 1, 1, 1));
            prop_assert!(same_month || (next_month && of_month >= 28), "{:?} {:?}", (year, month, of_month), next);
        }
    }
}
