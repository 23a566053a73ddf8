//! What the creator of an event says about what it belongs to: its trace, and its correlation id. Read where it stands, never changed.

use std::borrow::Cow;

use crate::cloudevents::attribute;
use crate::{Headers, header_text};

/// Most bytes of a correlation id that are shown; what follows is cut.
pub const CORRELATION_BYTES_MAX: usize = 256;

/// Headers that carry a correlation id where there is no CloudEvents attribute `correlationid`, compared without regard to case. The
/// last one is the AMQP property `correlation_id`.
const CORRELATION_HEADERS: [&str; 4] = ["correlation_id", "correlation-id", "x-correlation-id", "amqp.correlation_id"];

/// The span that an event was created in, by its header or CloudEvents attribute `traceparent`
/// (<https://www.w3.org/TR/trace-context/>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace; never 0.
    pub trace: u128,
    /// The span in it; never 0.
    pub span: u64,
    /// Whether its creator recorded it.
    pub sampled: bool,
}

impl TraceParent {
    /// What the headers say; `None` when they say nothing, or something malformed.
    #[must_use]
    pub fn of(headers: &Headers) -> Option<Self> {
        Self::parse(&Self::text_of(headers)?)
    }

    /// What the headers say, as it stands there, well formed or not.
    #[must_use]
    pub fn text_of(headers: &Headers) -> Option<Cow<'_, str>> {
        let plain = headers.iter().find(|header| header.name.eq_ignore_ascii_case("traceparent"));
        plain.as_ref().map(header_text).or_else(|| attribute(headers, "traceparent"))
    }

    /// Reads `version-trace-span-flags`. Later versions may say more behind a further dash; version `ff` is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let fine = part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            fine.then(|| u128::from_str_radix(part, 16).ok()).flatten()
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let ends = parts.next().is_none();
        let span = u64::try_from(span).ok()?;
        (version != 0xff && (ends || version > 0) && trace != 0 && span != 0).then_some(Self {
            trace,
            span,
            sampled: flags & 1 == 1,
        })
    }
}

/// The correlation id of an event: the CloudEvents attribute `correlationid` in any binding, else a header `correlation_id`, `correlation-id`
/// or `x-correlation-id`, else the AMQP property. At most [`CORRELATION_BYTES_MAX`] of it.
#[must_use]
pub fn correlation(headers: &Headers) -> Option<Cow<'_, str>> {
    let named = || {
        let find = |name: &&str| headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        CORRELATION_HEADERS.iter().find_map(find).map(|header| header_text(&header))
    };
    let id = attribute(headers, "correlationid").or_else(named).filter(|id| !id.is_empty())?;
    if id.len() <= CORRELATION_BYTES_MAX {
        return Some(id);
    }
    Some(Cow::Owned(id[..id.floor_char_boundary(CORRELATION_BYTES_MAX)].to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::headers;
    use crate::{HeaderTag, cloudevents};

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_parent_is_read_from_its_header_or_attribute() {
        let expected = TraceParent {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span: 0x00f0_67aa_0ba9_02b7,
            sampled: true,
        };
        for name in ["traceparent", "Traceparent", "ce_traceparent", "ce-traceparent", "cloudEvents:traceparent"] {
            let headers = headers(&[("other", b"x"), (name, PARENT.as_bytes())]);
            assert_eq!(TraceParent::of(&headers), Some(expected), "{name}");
        }
        let unsampled = PARENT.replace("-01", "-02");
        assert_eq!(
            TraceParent::parse(&unsampled),
            Some(TraceParent { sampled: false, ..expected }),
            "other flags are not ours"
        );
        let later = PARENT.replacen("00", "cc", 1) + "-what-will-be-is-in-the-future";
        assert_eq!(TraceParent::parse(&later), Some(expected));
        assert_eq!(TraceParent::of(&headers(&[])), None);
    }

    #[test]
    fn what_is_malformed_is_no_trace_parent() {
        for wrong in [
            "",
            "00-1-2-01",
            &PARENT.to_uppercase(),
            &PARENT[..54],
            &format!("{PARENT}-more"),
            &PARENT.replacen("00", "ff", 1),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_correlation_id_is_found_wherever_it_stands() {
        for name in [
            "ce_correlationid",
            "ce-correlationid",
            "cloudEvents_correlationid",
            "cloudEvents:correlationid",
            "correlation_id",
            "Correlation-Id",
            "X-Correlation-ID",
            "amqp.correlation_id",
        ] {
            let headers = headers(&[("other", b"x"), (name, b"c-1")]);
            assert_eq!(correlation(&headers).as_deref(), Some("c-1"), "{name}");
        }
        for name in ["correlation", "correlationid", "amqp.correlation", "ce_correlation_id"] {
            assert_eq!(correlation(&headers(&[(name, b"c-1")])), None, "{name}");
        }
        let both = headers(&[("amqp.correlation_id", b"property"), ("ce_correlationid", b"attribute")]);
        assert_eq!(correlation(&both).as_deref(), Some("attribute"));
        assert_eq!(correlation(&headers(&[("correlation_id", b"")])), None);
        let mut typed = Headers::builder();
        typed.push_tagged("correlation_id", HeaderTag(b'l'), &7_i64.to_be_bytes()).unwrap();
        assert_eq!(correlation(&typed.finish()).as_deref(), Some("7"));
    }

    #[test]
    fn a_correlation_id_is_cut_between_characters() {
        let fits = "x".repeat(CORRELATION_BYTES_MAX);
        assert_eq!(correlation(&headers(&[("correlation_id", fits.as_bytes())])).as_deref(), Some(&*fits));
        let long = format!("{}ü", &fits[1..]);
        assert_eq!(correlation(&headers(&[("correlation_id", long.as_bytes())])).as_deref(), Some(&fits[1..]));
    }

    #[test]
    fn a_correlation_id_survives_every_change_of_binding() {
        use cloudevents::Binding::{Amqp, Kafka, Nats};
        for (from, to) in [(Kafka, Amqp), (Amqp, Nats), (Nats, Kafka), (Kafka, Nats), (Nats, Amqp), (Amqp, Kafka)] {
            let version = format!("{}specversion", from.prefix());
            let attribute = format!("{}correlationid", from.prefix());
            let before = headers(&[(&version, b"1.0"), (&attribute, b"c-1"), ("traceparent", PARENT.as_bytes())]);
            let after = cloudevents::rebind(&before, from, to).unwrap();
            assert_eq!(correlation(&after).as_deref(), Some("c-1"), "{from:?} to {to:?}");
            assert_eq!(TraceParent::of(&after), TraceParent::parse(PARENT), "{from:?} to {to:?}");
        }
    }
}
