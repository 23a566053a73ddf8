//! Attributes rewritten into the binding of another kind of broker.

use std::borrow::Cow;

use super::{Binding, percent};
use crate::{Header, HeaderError, HeaderTag, Headers, header_text};

/// Rewrites the attributes of one binding into another; all other headers (`traceparent` among them) stay as they are, and so does
/// the order.
///
/// Headers without a `specversion` in the binding `from` are no CloudEvent in binary mode: they come back shared, as they do when both
/// bindings are written alike. Going there and back restores what uses the prefix of [`Binding::prefix`], bytes that are no text included.
///
/// # Errors
/// [`HeaderError`] when the longer form is beyond the limits.
pub fn rebind(headers: &Headers, from: Binding, to: Binding) -> Result<Headers, HeaderError> {
    let is_version = |header: Header<'_>| {
        from.attribute_name(header.name).is_some_and(|name| name.eq_ignore_ascii_case("specversion"))
    };
    if from.prefix() == to.prefix() || !headers.iter().any(is_version) {
        return Ok(headers.clone());
    }
    let mut builder = Headers::builder();
    for header in headers.iter() {
        match from.attribute_name(header.name) {
            Some(name) => {
                let (tag, value) = value(&header, from, to);
                builder.push_tagged(&[to.prefix(), name].concat(), tag, &value)?;
            }
            None => builder.push_tagged(header.name, header.tag, header.value)?,
        }
    }
    Ok(builder.finish())
}

fn value<'a>(header: &Header<'a>, from: Binding, to: Binding) -> (HeaderTag, Cow<'a, [u8]>) {
    match (header.tag, from.is_encoded(), to.is_encoded()) {
        (HeaderTag::BYTES, true, false) => (HeaderTag::BYTES, percent::decode(header.value)),
        (HeaderTag::BYTES, false, true) => (HeaderTag::BYTES, percent::encode(header.value)),
        (HeaderTag::BYTES | HeaderTag::NULL, _, _) | (_, _, false) => (header.tag, Cow::Borrowed(header.value)),
        // A typed value becomes text where only text can stand.
        (_, _, true) => {
            let text = header_text(header).into_owned();
            (HeaderTag::BYTES, Cow::Owned(percent::encode(text.as_bytes()).into_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cloudevents::attribute;
    use crate::testing::{any_header, headers};
    use crate::{HEADER_BYTES_MAX, HEADER_COUNT_MAX};

    const KINDS: [Binding; 4] = [Binding::Kafka, Binding::Amqp, Binding::Nats, Binding::Http];

    #[test]
    fn attributes_change_their_names_and_nothing_else_does() {
        let kafka = headers(&[
            ("a", b"1"),
            ("ce_specversion", b"1.0"),
            ("traceparent", b"00-1-2-01"),
            ("CE_Subject", "grün %".as_bytes()),
            ("content-type", b"text/plain"),
            ("ce_subject", b"again"),
        ]);
        let nats = headers(&[
            ("a", b"1"),
            ("ce-specversion", b"1.0"),
            ("traceparent", b"00-1-2-01"),
            ("ce-Subject", b"gr%C3%BCn%20%25"),
            ("content-type", b"text/plain"),
            ("ce-subject", b"again"),
        ]);
        assert_eq!(rebind(&kafka, Binding::Kafka, Binding::Nats), Ok(nats));
        let amqp = rebind(&kafka, Binding::Kafka, Binding::Amqp).unwrap();
        assert_eq!(amqp.iter().map(|header| header.name).nth(3), Some("cloudEvents_Subject"));
    }

    #[test]
    fn what_is_no_cloud_event_is_shared() {
        let plain = headers(&[("ce_type", b"x")]);
        let same = rebind(&plain, Binding::Kafka, Binding::Nats).unwrap();
        assert_eq!(same.encoded().as_ptr(), plain.encoded().as_ptr(), "not copied");
        let event = headers(&[("ce-specversion", b"1.0")]);
        let same = rebind(&event, Binding::Nats, Binding::Http).unwrap();
        assert_eq!(same.encoded().as_ptr(), event.encoded().as_ptr(), "not copied");
        assert_eq!(
            rebind(&event, Binding::Kafka, Binding::Amqp),
            Ok(event.clone()),
            "not in the binding of its broker"
        );
    }

    #[test]
    fn a_typed_value_becomes_text_where_only_text_can_stand() {
        let mut builder = Headers::builder();
        builder.push("cloudEvents:specversion", b"1.0").unwrap();
        builder.push_tagged("cloudEvents:time", HeaderTag(b'T'), &0_u64.to_be_bytes()).unwrap();
        let nats = rebind(&builder.finish(), Binding::Amqp, Binding::Nats).unwrap();
        assert_eq!(nats, headers(&[("ce-specversion", b"1.0"), ("ce-time", b"1970-01-01T00:00:00Z")]));
    }

    #[test]
    fn what_grows_beyond_the_limits_is_refused() {
        let spaces = vec![b' '; HEADER_BYTES_MAX / 2];
        let large = headers(&[("ce_specversion", b"1.0"), ("ce_subject", &spaces)]);
        assert_eq!(rebind(&large, Binding::Kafka, Binding::Nats), Err(HeaderError::TooLarge));
        assert!(rebind(&large, Binding::Kafka, Binding::Amqp).is_ok());
    }

    proptest! {
        #[test]
        fn there_and_back_restores_every_header(
            others in prop::collection::vec(any_header(), 0..8),
            attributes in prop::collection::vec(("[a-z]{1,6}", prop::collection::vec(any::<u8>(), 0..16)), 0..8),
            from in prop::sample::select(&KINDS[..]),
            to in prop::sample::select(&KINDS[..]),
        ) {
            let mut builder = Headers::builder();
            builder.push(&format!("{}specversion", from.prefix()), b"1.0").unwrap();
            for (name, tag, value) in &others {
                // Another binding's attributes are not this event's, and would come back as such.
                if KINDS.iter().all(|kind| kind.attribute_name(name).is_none()) {
                    builder.push_tagged(name, *tag, value).unwrap();
                }
            }
            for (name, value) in &attributes {
                let value = if from.is_encoded() { percent::encode(value).into_owned() } else { value.clone() };
                builder.push(&format!("{}{name}", from.prefix()), &value).unwrap();
            }
            let headers = builder.finish();
            let there = rebind(&headers, from, to).unwrap();
            prop_assert!(there.iter().count() <= HEADER_COUNT_MAX);
            prop_assert_eq!(&rebind(&there, to, from).unwrap(), &headers);
            for (name, _) in &attributes {
                prop_assert_eq!(attribute(&there, name), attribute(&headers, name));
            }
        }
    }
}
