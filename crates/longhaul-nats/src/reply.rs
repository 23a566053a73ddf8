//! What the server writes beside a message: where it stands, and why there is none. Pure.
//!
//! ```text
//! $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time ns>.<pending>
//! $JS.ACK.<domain>.<account hash>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time ns>.<pending>[.<token>..]
//! ```

use async_nats::HeaderMap;

/// Where a delivered message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Sequence in the stream.
    pub(crate) stream_seq: u64,
    /// Number of this delivery of the consumer, from 1 and without holes.
    pub(crate) consumer_seq: u64,
    /// When the server stored it.
    pub(crate) time_ms: i64,
    /// Messages behind it that the consumer would still deliver.
    pub(crate) pending: u64,
}

impl Meta {
    /// Reads the reply subject of a delivered message.
    pub(crate) fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix("$JS.ACK.")?;
        let skip = match rest.split('.').count() {
            7 => 2,
            9.. => 4,
            _ => return None,
        };
        // The number of deliveries stands first; without acknowledgements it is always 1.
        let mut tokens = rest.split('.').skip(skip + 1);
        let stream_seq = tokens.next()?.parse().ok()?;
        let consumer_seq = tokens.next()?.parse().ok()?;
        let nanos: i64 = tokens.next()?.parse().ok()?;
        let pending = tokens.next()?.parse().ok()?;
        Some(Self { stream_seq, consumer_seq, time_ms: nanos / 1_000_000, pending })
    }
}

/// What a message without content says about a pull request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The consumer is alive and has looked at everything up to that sequence, in that many deliveries.
    Heartbeat {
        /// Last sequence that it passed; `None` when the server did not say.
        passed: Option<(u64, u64)>,
    },
    /// A request ended with that many messages not delivered.
    Ended {
        /// Messages that it could still have brought.
        left: u64,
        /// It ended because the next message is larger than it asked for.
        too_large: bool,
    },
    /// The consumer is gone or elsewhere: make a new one.
    Gone(String),
}

impl Notice {
    /// Reads a status message.
    pub(crate) fn parse(status: u16, description: &str, headers: Option<&HeaderMap>) -> Self {
        let number = |name: &str| headers.and_then(|map| map.get(name)).and_then(|value| value.as_str().parse().ok());
        match (status, number("Nats-Pending-Messages")) {
            (100, _) => {
                let passed = number("Nats-Last-Consumer").zip(number("Nats-Last-Stream"));
                Self::Heartbeat { passed: passed.map(|(consumer, stream)| (stream, consumer)) }
            }
            (408 | 409, Some(left)) => Self::Ended { left, too_large: description.contains("Size Exceeds") },
            _ => Self::Gone(format!("{status} {description}")),
        }
    }
}

/// Milliseconds since the Unix epoch as RFC 3339; times before 1970 are 1970.
pub(crate) fn rfc3339(time_ms: i64) -> String {
    longhaul_event::rfc3339(u64::try_from(time_ms.clamp(0, 253_402_300_799_999)).expect("not negative") * 1000)
}

/// What [`rfc3339`] writes and servers do, with more digits or fewer: milliseconds since the Unix epoch. UTC only.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Day number from a civil date, counted in eras of 400 years that begin on 1 March of year 0.
    let (year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_reply_are_read() {
        let meta = Meta { stream_seq: 22, consumer_seq: 3, time_ms: 1_700_000_000_123, pending: 4 };
        let old = "$JS.ACK.S.c.1.22.3.1700000000123456789.4";
        let new = "$JS.ACK.hub.acc.S.c.1.22.3.1700000000123456789.4.token";
        assert_eq!((Meta::parse(old), Meta::parse(new)), (Some(meta), Some(meta)));
        for bad in ["", "$JS.ACK", "$JS.ACK.S.c.1.22.3.x.4", "_INBOX.a.b", "$JS.ACK.S.c.1.22.3.1"] {
            assert_eq!(Meta::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn notices_are_told_apart() {
        let mut map = HeaderMap::new();
        map.insert("Nats-Last-Consumer", "3");
        map.insert("Nats-Last-Stream", "9");
        assert_eq!(Notice::parse(100, "Idle Heartbeat", Some(&map)), Notice::Heartbeat { passed: Some((9, 3)) });
        map.insert("Nats-Pending-Messages", "12");
        let ended = |too_large| Notice::Ended { left: 12, too_large };
        assert_eq!(Notice::parse(408, "Request Timeout", Some(&map)), ended(false));
        assert_eq!(Notice::parse(409, "Message Size Exceeds MaxBytes", Some(&map)), ended(true));
        assert!(matches!(Notice::parse(409, "Consumer Deleted", None), Notice::Gone(_)));
        assert!(matches!(Notice::parse(503, "", None), Notice::Gone(_)));
    }

    #[test]
    fn times_are_written_as_the_server_reads_them() {
        for (ms, text) in [
            (-5, "1970-01-01T00:00:00.000000Z"),
            (1, "1970-01-01T00:00:00.001000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123000Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999000Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
            assert_eq!(parse_rfc3339(text), Some(ms.max(0)));
        }
        assert_eq!(parse_rfc3339("2023-11-14T22:13:20.123456789Z"), Some(1_700_000_000_123));
        assert_eq!(parse_rfc3339("2023-11-14T22:13:20Z"), Some(1_700_000_000_000));
        assert_eq!(parse_rfc3339("2023-11-14T22:13:20+01:00"), None);
    }
}
