//! AMQP field values as text (pure): Kafka has no types for header values.
//!
//! Numbers, booleans and times become decimal text, strings and byte arrays their bytes, void no value; arrays and tables become
//! JSON text. Refuses values that are not well-formed and nesting deeper than [`DEPTH_MAX`].

use std::borrow::Cow;
use std::fmt::Write;

/// Deepest nesting of arrays and tables.
const DEPTH_MAX: usize = 8;

/// The text of a value with that AMQP type octet; `Ok(None)` is void. `None` when the bytes are no such value.
pub(crate) fn text(tag: u8, value: &[u8]) -> Option<Option<Cow<'_, [u8]>>> {
    if tag == b'V' {
        return value.is_empty().then_some(None);
    }
    if tag == b'S' || tag == b'x' {
        let (string, rest) = long_string(value)?;
        return rest.is_empty().then_some(Some(Cow::Borrowed(string)));
    }
    let mut out = String::new();
    let rest = json(tag, value, 0, &mut out)?;
    rest.is_empty().then(|| Some(Cow::Owned(out.into_bytes())))
}

/// Writes one value as JSON; returns what stands behind it.
fn json<'a>(tag: u8, bytes: &'a [u8], depth: usize, out: &mut String) -> Option<&'a [u8]> {
    match tag {
        b'A' | b'F' => return nested(tag, bytes, depth, out),
        b'S' | b'x' => {
            let (string, rest) = long_string(bytes)?;
            quote(&String::from_utf8_lossy(string), out);
            return Some(rest);
        }
        b'V' => {
            out.push_str("null");
            return Some(bytes);
        }
        b'D' => {
            let (parts, rest) = bytes.split_first_chunk::<5>()?;
            decimal(parts[0], i32::from_be_bytes([parts[1], parts[2], parts[3], parts[4]]), out);
            return Some(rest);
        }
        _ => {}
    }
    macro_rules! number {
        ($type:ty) => {{
            let (head, rest) = bytes.split_first_chunk::<{ size_of::<$type>() }>()?;
            let _ = write!(out, "{}", <$type>::from_be_bytes(*head));
            Some(rest)
        }};
    }
    match tag {
        b't' => {
            let (head, rest) = bytes.split_first()?;
            out.push_str(if *head == 0 { "false" } else { "true" });
            Some(rest)
        }
        b'b' => number!(i8),
        b'B' => number!(u8),
        b's' | b'U' => number!(i16),
        b'u' => number!(u16),
        b'I' => number!(i32),
        b'i' => number!(u32),
        b'l' | b'L' => number!(i64),
        b'T' => number!(u64),
        b'f' => number!(f32),
        b'd' => number!(f64),
        _ => None,
    }
}

fn nested<'a>(tag: u8, bytes: &'a [u8], depth: usize, out: &mut String) -> Option<&'a [u8]> {
    if depth == DEPTH_MAX {
        return None;
    }
    let (mut inside, rest) = long_string(bytes)?;
    let table = tag == b'F';
    out.push(if table { '{' } else { '[' });
    let mut first = true;
    while !inside.is_empty() {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        if table {
            let (len, tail) = inside.split_first()?;
            let (name, tail) = tail.split_at_checked(usize::from(*len))?;
            quote(&String::from_utf8_lossy(name), out);
            out.push(':');
            inside = tail;
        }
        let (tag, tail) = inside.split_first()?;
        inside = json(*tag, tail, depth + 1, out)?;
    }
    out.push(if table { '}' } else { ']' });
    Some(rest)
}

fn long_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
}

fn quote(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn decimal(scale: u8, value: i32, out: &mut String) {
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = usize::from(scale) + 1);
    let (whole, part) = digits.split_at(digits.len() - usize::from(scale));
    let sign = if value < 0 { "-" } else { "" };
    let dot = if part.is_empty() { "" } else { "." };
    let _ = write!(out, "{sign}{whole}{dot}{part}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(tag: u8, value: &[u8]) -> Option<String> {
        text(tag, value).map(|text| text.map_or("void".to_owned(), |text| String::from_utf8_lossy(&text).into_owned()))
    }

    #[test]
    fn scalars_become_their_text() {
        for (tag, value, expected) in [
            (b't', &[1][..], "true"),
            (b'b', &[0xff], "-1"),
            (b'I', &42_i32.to_be_bytes(), "42"),
            (b'l', &(-7_i64).to_be_bytes(), "-7"),
            (b'T', &1_700_000_000_u64.to_be_bytes(), "1700000000"),
            (b'd', &1.5_f64.to_be_bytes(), "1.5"),
            (b'D', &[2, 0, 0, 0, 5], "0.05"),
            (b'D', &[0, 0xff, 0xff, 0xff, 0xff], "-1"),
            (b'S', b"\0\0\0\x02hi", "hi"),
            (b'V', b"", "void"),
        ] {
            assert_eq!(shown(tag, value).as_deref(), Some(expected), "{}", char::from(tag));
        }
    }

    #[test]
    fn tables_and_arrays_become_json() {
        // {"a": [true, "q\""], "b": null}
        let array = b"t\x01S\0\0\0\x02q\"";
        let mut table = b"\x01aA".to_vec();
        table.extend(u32::try_from(array.len()).expect("small").to_be_bytes());
        table.extend(array);
        table.extend(b"\x01bV");
        let mut value = u32::try_from(table.len()).expect("small").to_be_bytes().to_vec();
        value.extend(table);
        assert_eq!(shown(b'F', &value).as_deref(), Some(r#"{"a":[true,"q\""],"b":null}"#));
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for (tag, value) in [
            (b'I', &b"\0\0"[..]),
            (b'I', b"\0\0\0\0\0"),
            (b'S', b"\0\0\0\x09hi"),
            (b'?', b""),
            (b'A', b"\0\0\0\x01A"),
            (b'V', b"x"),
        ] {
            assert_eq!(shown(tag, value), None, "{} {value:?}", char::from(tag));
        }
        let mut deep = Vec::new();
        for _ in 0..20 {
            deep = [&u32::try_from(deep.len() + 1).expect("small").to_be_bytes()[..], b"A", &deep].concat();
        }
        assert_eq!(shown(b'A', &deep), None, "nesting has a bound");
    }
}
