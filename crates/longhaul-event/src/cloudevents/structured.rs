//! Structured mode: the attributes stand in a JSON payload.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{behind, content_type};
use crate::Headers;

/// Whether the content type says that the payload is one CloudEvent in JSON.
#[must_use]
pub fn is_structured(headers: &Headers) -> bool {
    content_type(headers).is_some_and(|text| {
        behind(&text, "application/cloudevents+json")
            .is_some_and(|rest| matches!(rest.bytes().next(), None | Some(b';' | b' ')))
    })
}

/// The attributes of a JSON payload, as text. Its data is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Structured<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Structured<'a> {
    /// Reads a payload; `None` when it is no JSON object.
    #[must_use]
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    /// The value of an attribute: text as it is, numbers and booleans as JSON writes them.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Structured<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Structured<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a CloudEvent in JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut attributes = Vec::new();
        while let Some(Text(Some(name))) = map.next_key()? {
            if matches!(&*name, "data" | "data_base64") {
                map.next_value::<IgnoredAny>()?;
            } else if let Text(Some(value)) = map.next_value()? {
                attributes.push((name, value));
            }
        }
        Ok(Structured(attributes))
    }
}

/// A JSON value as text; `None` for null, arrays and objects, which no attribute is.
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar)
    }
}

struct Scalar;

impl Scalar {
    fn owned<'a, E>(text: &(impl ToString + ?Sized)) -> Result<Text<'a>, E> {
        Ok(Text(Some(Cow::Owned(text.to_string()))))
    }
}

impl<'de> Visitor<'de> for Scalar {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Some(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Self::owned(text)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Text<'de>, E> {
        Self::owned(&value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Text<'de>, E> {
        Self::owned(&value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Text<'de>, E> {
        Self::owned(&value)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Text<'de>, E> {
        Self::owned(&value)
    }

    fn visit_unit<E>(self) -> Result<Text<'de>, E> {
        Ok(Text(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::headers;

    #[test]
    fn the_content_type_decides() {
        for (text, expected) in [
            ("application/cloudevents+json", true),
            ("Application/CloudEvents+JSON; charset=utf-8", true),
            ("application/cloudevents-batch+json", false),
            ("application/cloudevents+jsonl", false),
            ("application/json", false),
        ] {
            assert_eq!(is_structured(&headers(&[("Content-Type", text.as_bytes())])), expected, "{text}");
        }
        assert!(!is_structured(&Headers::default()));
    }

    #[test]
    fn attributes_are_read_and_data_is_not() {
        let json = br#"{"specversion":"1.0","type":"a\u0062c","n":-3,"on":true,"none":null,"list":[1,{"x":2}],
                        "data":{"type":"wrong"},"Subject":"s"}"#;
        let event = Structured::parse(json).unwrap();
        assert_eq!(event.attribute("specversion"), Some("1.0"));
        assert_eq!(event.attribute("type"), Some("abc"));
        assert_eq!((event.attribute("n"), event.attribute("on")), (Some("-3"), Some("true")));
        assert_eq!(event.attribute("subject"), Some("s"));
        for missing in ["none", "list", "data", "x"] {
            assert_eq!(event.attribute(missing), None, "{missing}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        for (name, depth) in [("a", 1_000_000), ("data", 1_000_000)] {
            let deep = format!("{{\"{name}\":{}1{},\"type\":\"t\"}}", "[".repeat(depth), "]".repeat(depth));
            let event = Structured::parse(deep.as_bytes()).unwrap();
            assert_eq!((event.attribute(name), event.attribute("type")), (None, Some("t")));
        }
    }

    #[test]
    fn what_is_no_json_object_has_no_attributes() {
        for bytes in [&b""[..], b"[]", b"1", b"{\"a\":", b"{} x", b"\xff", b"{\"a\":\"\xff\"}"] {
            assert_eq!(Structured::parse(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in "[\\{\\}\\[\\]\":,a-c0-9\\\\ .-]{0,40}") {
            let _ = Structured::parse(bytes.as_bytes());
        }
    }
}
