//! CloudEvents attributes in the bindings of Kafka, AMQP, NATS and HTTP.
//!
//! | binding | attribute `type` is the header | values |
//! | --- | --- | --- |
//! | Kafka | `ce_type` | as they are |
//! | AMQP | `cloudEvents_type` or `cloudEvents:type` | as they are, or typed |
//! | NATS, HTTP | `ce-type` | percent-encoded |
//!
//! In all of them `datacontenttype` is the header `content-type`. In structured mode, told by that header, the attributes stand in
//! the JSON payload; [`Structured`] reads them and is asked for only when somebody wants one. Names are compared without regard
//! to case. Nothing here validates that an event is a good CloudEvent: what has an attribute has it.

mod percent;
mod rebind;
mod structured;

use std::borrow::Cow;

pub use rebind::rebind;
pub use structured::{Structured, is_structured};

use crate::{Header, HeaderTag, Headers, header_text};

/// How attributes are written in headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Binding {
    /// `ce_`.
    Kafka,
    /// `cloudEvents_`, and `cloudEvents:` when reading.
    Amqp,
    /// `ce-`, values percent-encoded.
    Nats,
    /// `ce-`, values percent-encoded.
    Http,
}

impl Binding {
    /// What stands before an attribute's name in a header that is written.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Kafka => "ce_",
            Self::Amqp => "cloudEvents_",
            Self::Nats | Self::Http => "ce-",
        }
    }

    /// Whether values are percent-encoded.
    fn is_encoded(self) -> bool {
        matches!(self, Self::Nats | Self::Http)
    }

    /// The name of the attribute that this header is, in this binding.
    fn attribute_name(self, header: &str) -> Option<&str> {
        let prefixes = match self {
            Self::Kafka => &["ce_"][..],
            Self::Amqp => &["cloudEvents_", "cloudEvents:"],
            Self::Nats | Self::Http => &["ce-"],
        };
        prefixes.iter().find_map(|prefix| behind(header, prefix)).filter(|name| !name.is_empty())
    }
}

/// One binding for each way of writing.
const ALL: [Binding; 3] = [Binding::Kafka, Binding::Amqp, Binding::Nats];

/// The value of an attribute in binary mode, in whichever binding it stands; the first one when there are several.
///
/// Allocates only for a value that has to be decoded. `None` also for a value that is not UTF-8.
#[must_use]
pub fn attribute<'a>(headers: &'a Headers, name: &str) -> Option<Cow<'a, str>> {
    if name.eq_ignore_ascii_case("datacontenttype") {
        return content_type(headers);
    }
    headers.iter().find_map(|header| {
        let binding = ALL.into_iter().find(|binding| {
            binding.attribute_name(header.name).is_some_and(|found| found.eq_ignore_ascii_case(name))
        })?;
        value(binding, &header)
    })
}

/// The media type of the payload.
fn content_type(headers: &Headers) -> Option<Cow<'_, str>> {
    let is_it = |name: &str| name.eq_ignore_ascii_case("content-type") || name.eq_ignore_ascii_case("content_type");
    headers.iter().find(|header| is_it(header.name)).and_then(|header| plain_text(&header))
}

fn value<'a>(binding: Binding, header: &Header<'a>) -> Option<Cow<'a, str>> {
    if binding.is_encoded() && header.tag == HeaderTag::BYTES {
        match percent::decode(header.value) {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
        }
    } else {
        plain_text(header)
    }
}

fn plain_text<'a>(header: &Header<'a>) -> Option<Cow<'a, str>> {
    match header.tag {
        HeaderTag::BYTES => std::str::from_utf8(header.value).ok().map(Cow::Borrowed),
        HeaderTag::NULL => None,
        _ => Some(header_text(header)),
    }
}

/// What stands behind a prefix, compared without regard to case.
fn behind<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::headers;

    #[test]
    fn an_attribute_is_found_in_every_binding_without_regard_to_case() {
        for name in
            ["ce_type", "CE_Type", "ce-type", "Ce-Type", "cloudEvents_type", "cloudEvents:type", "CLOUDEVENTS:TYPE"]
        {
            let headers = headers(&[("other", b"x"), (name, b"order.made")]);
            assert!(matches!(attribute(&headers, "type"), Some(Cow::Borrowed("order.made"))), "{name}");
            assert_eq!(attribute(&headers, "Type").as_deref(), Some("order.made"));
            assert_eq!(attribute(&headers, "typ"), None);
        }
        for name in ["type", "ce.type", "cetype", "xce_type", "ce_", "ce"] {
            assert_eq!(attribute(&headers(&[(name, b"v")]), "type"), None, "{name}");
            assert_eq!(attribute(&headers(&[(name, b"v")]), ""), None, "{name}");
        }
    }

    #[test]
    fn only_the_bindings_that_encode_are_decoded() {
        let value = b"Euro%20%E2%82%AC".as_slice();
        assert_eq!(attribute(&headers(&[("ce-subject", value)]), "subject").as_deref(), Some("Euro \u{20ac}"));
        assert_eq!(attribute(&headers(&[("ce_subject", value)]), "subject").as_deref(), Some("Euro%20%E2%82%AC"));
        assert_eq!(attribute(&headers(&[("ce-subject", b"%C0%A0")]), "subject"), None, "an overlong space is refused");
        assert_eq!(attribute(&headers(&[("ce_subject", b"\xff")]), "subject"), None);
    }

    #[test]
    fn the_content_type_is_an_attribute() {
        for name in ["content-type", "Content-Type", "content_type"] {
            let headers = headers(&[(name, b"text/plain")]);
            assert_eq!(attribute(&headers, "datacontenttype").as_deref(), Some("text/plain"), "{name}");
        }
    }

    #[test]
    fn typed_values_are_read_as_text() {
        let mut builder = Headers::builder();
        builder.push_tagged("cloudEvents:sequence", HeaderTag(b'l'), &7_i64.to_be_bytes()).unwrap();
        builder.push_tagged("cloudEvents:type", HeaderTag::NULL, b"").unwrap();
        let headers = builder.finish();
        assert_eq!(attribute(&headers, "sequence").as_deref(), Some("7"));
        assert_eq!(attribute(&headers, "type"), None, "null is no value");
    }
}
