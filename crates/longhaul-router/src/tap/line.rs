//! A line of a tap: one event, what it says of itself, and what has become of it here. No payload.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use longhaul_event::{Event, TraceParent, correlation, rfc3339};
use longhaul_topology::FlowKey;
use serde::{Deserialize, Serialize};

use crate::appliers::place;
use crate::flow_status::End;

/// Most bytes of a key, a `traceparent` or a reason that a line shows; what follows is cut.
const TEXT_BYTES_MAX: usize = 256;

/// What has become of an event, as far as this router knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Out: it is on its way to the destination's region. Again after a link was cut.
    Sent,
    /// Out: no topic filter of the route asks for it. Shown on request only.
    Skipped,
    /// Out: the route does not carry it. In: its destination refuses it for good; what comes next is what the route says of that.
    Refused,
    /// Out: it cannot be sent, and its flow has halted before it.
    Halted,
    /// In: the destination broker has confirmed it.
    Delivered,
    /// In: a write of it failed; it is written again.
    Failed,
    /// In: it was set aside whole.
    Parked,
    /// It was left out, as the route says of what is refused.
    Dropped,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Sent,
        Self::Skipped,
        Self::Refused,
        Self::Halted,
        Self::Delivered,
        Self::Failed,
        Self::Parked,
        Self::Dropped,
    ];

    /// As it is written and asked for.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Skipped => "skipped",
            Self::Refused => "refused",
            Self::Halted => "halted",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Parked => "parked",
            Self::Dropped => "dropped",
        }
    }
}

/// A line of a tap, in its order of time.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TapLine {
    /// An event.
    Event(Box<TapEvent>),
    /// Since the line before, as many that were asked for could not be shown: they came faster than a tap gives lines, or than it was read.
    Missed {
        /// When, as in [`TapEvent`].
        timestamp: String,
        /// How many.
        missed: u64,
    },
}

/// An event as it passed. The names are those of `docs/logs.md` and of the other views.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapEvent {
    /// When this router knew what had become of it: RFC 3339 in UTC with microseconds.
    pub timestamp: String,
    /// Which end of the flow this router has.
    pub end: End,
    /// What has become of it.
    pub outcome: Outcome,
    /// Why, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Name of the route.
    pub route: String,
    /// `region/broker` that it comes from.
    pub from: String,
    /// Name of the shard there.
    pub shard: String,
    /// Its offset in its shard.
    pub offset: u64,
    /// `region/broker` that it goes to.
    pub to: String,
    /// Topic at the source (out) or at the destination (in).
    pub topic: String,
    /// Its key; bytes that are not text are replaced. At most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its identity, 32 hex digits: the id of its trace.
    pub event: String,
    /// Its correlation id, as its creator gave it. At most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Its creator's `traceparent`, as it came. At most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Bytes of its payload.
    pub payload_bytes: u64,
}

/// What the lines of one flow have in common.
#[derive(Debug)]
pub(super) struct About {
    pub key: FlowKey,
    end: End,
    from: String,
    to: String,
}

impl About {
    pub(super) fn new(key: &FlowKey, end: End) -> Self {
        let (from, to) = (place(&key.from.0, &key.from.1), place(&key.to.0, &key.to.1));
        Self { key: key.clone(), end, from, to }
    }

    pub(super) fn line(&self, event: &Event, outcome: Outcome, reason: Option<&str>) -> TapEvent {
        TapEvent {
            timestamp: timestamp(),
            end: self.end,
            outcome,
            reason: reason.map(|text| cut(text.into())),
            route: self.key.route.clone(),
            from: self.from.clone(),
            shard: self.key.from.2.clone(),
            offset: event.offset,
            to: self.to.clone(),
            topic: event.topic.as_str().to_owned(),
            key: event.key.as_deref().map(|key| cut(String::from_utf8_lossy(key))),
            event: event.id.to_string(),
            correlation_id: correlation(&event.headers).map(Cow::into_owned),
            traceparent: TraceParent::text_of(&event.headers).map(cut),
            payload_bytes: event.payload.as_ref().map_or(0, Bytes::len) as u64,
        }
    }
}

/// Now, as log lines have it.
pub(super) fn timestamp() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

fn cut(text: Cow<'_, str>) -> String {
    match text.len() {
        0..=TEXT_BYTES_MAX => text.into_owned(),
        _ => text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned(),
    }
}
