//! Which events are traced, and the ids of their spans: functions of what both ends of a flow know (pure).

use longhaul_event::{Event, EventId, FlowId, TraceParent, hash64};
use opentelemetry::trace::SpanKind;

/// What happens to an event on its way, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its batch came from the source's client, was admitted and put into the ring.
    Read,
    /// The route was asked about its batch.
    Decide,
    /// Its batch was encoded and given to the link; what it waits for there and on the way shows before the next.
    Send,
    /// Its batch came in, and waited until it was in order and the destination was ready.
    Receive,
    /// The destination's client had it, up to the broker's confirmation.
    Write,
}

impl Stage {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Decide => "decide",
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Write => "write",
        }
    }

    /// The stage before it.
    pub(super) fn parent(self) -> Option<Self> {
        match self {
            Self::Read => None,
            Self::Decide => Some(Self::Read),
            Self::Send => Some(Self::Decide),
            Self::Receive => Some(Self::Send),
            Self::Write => Some(Self::Receive),
        }
    }

    pub(super) fn kind(self) -> SpanKind {
        match self {
            Self::Read | Self::Receive => SpanKind::Consumer,
            Self::Decide => SpanKind::Internal,
            Self::Send | Self::Write => SpanKind::Producer,
        }
    }
}

/// Says which events are traced. Two routers with the same one agree on every event; with another ratio, on those that the smaller one
/// takes.
#[derive(Debug, Clone, Copy)]
pub struct Sampler {
    /// Identities up to here, by their lower half: a hash, so any part of the range is that part of the events.
    up_to: u64,
    follow: bool,
}

impl Sampler {
    /// Takes that part of all events, and with `follow` those too whose creator says that it traced them.
    #[must_use]
    pub fn new(ratio: f64, follow: bool) -> Self {
        // The cast saturates at both ends.
        Self { up_to: (ratio * 2_f64.powi(64)) as u64, follow }
    }

    /// Whether the event is traced.
    #[must_use]
    pub fn takes(&self, event: &Event) -> bool {
        // No identity, no trace: 0 is not a valid trace id.
        event.id != EventId::default()
            && (event.id.0 as u64 <= self.up_to
                || (self.follow && TraceParent::of(&event.headers).is_some_and(|parent| parent.sampled)))
    }
}

/// The id of a span; never 0, which is none.
pub(super) fn span(event: EventId, flow: FlowId, attempt: u32, stage: Stage) -> u64 {
    let mut bytes = [0; 16 + 16 + 4 + 1];
    bytes[..16].copy_from_slice(&event.0.to_le_bytes());
    bytes[16..32].copy_from_slice(&flow.0.to_le_bytes());
    bytes[32..36].copy_from_slice(&attempt.to_le_bytes());
    bytes[36] = stage as u8;
    hash64(&bytes).max(1)
}
