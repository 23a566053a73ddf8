//! What an event and a batch may have at most. Two routers agree on the lower of their limits in the Hello.

use longhaul_event::HEADER_COUNT_MAX;

use crate::{Hello, WireError};

/// Largest event when nothing else is configured, in bytes of topic, key, headers, payload and provenance.
pub const EVENT_BYTES_DEFAULT: u32 = 1024 * 1024;
/// Largest event that can be configured.
pub const EVENT_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Largest key.
pub const KEY_BYTES_MAX: usize = 64 * 1024;
/// Largest provenance; eight hops need 170 bytes.
pub const PROVENANCE_BYTES_MAX: usize = 1024;
/// Largest batch of several events before compression. One event alone may be larger, up to the limit for events.
pub const BATCH_RAW_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most events in one batch: bounds what a batch of tiny events costs in memory once it is decoded.
pub const BATCH_EVENTS_MAX: u32 = 16 * 1024;
/// Most bytes that an event has on the wire beside its topic, key, headers, payload and provenance: flags, offset, time,
/// identity and five lengths.
pub(crate) const EVENT_FRAME_BYTES_MAX: usize = 1 + 10 + 10 + 16 + 5 * 5;

/// What both ends of a link accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest event in bytes of topic, key, headers, payload and provenance.
    pub event_bytes_max: usize,
    /// Most headers of one event.
    pub headers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(EVENT_BYTES_DEFAULT, u16::MAX)
    }
}

impl Limits {
    /// Limits, held to what the protocol allows at most.
    #[must_use]
    pub fn new(event_bytes_max: u32, headers_max: u16) -> Self {
        Self {
            event_bytes_max: usize::try_from(event_bytes_max.min(EVENT_BYTES_MAX)).unwrap_or(usize::MAX),
            headers_max: usize::from(headers_max).min(HEADER_COUNT_MAX),
        }
    }

    /// The lower of what two routers say of themselves.
    #[must_use]
    pub fn negotiated(here: &Hello, there: &Hello) -> Self {
        Self::new(here.event_bytes_max.min(there.event_bytes_max), here.headers_max.min(there.headers_max))
    }

    /// Most bytes that the events of one batch have before compression.
    #[must_use]
    pub fn batch_raw_bytes_max(&self) -> usize {
        BATCH_RAW_BYTES_MAX.max(self.event_bytes_max + EVENT_FRAME_BYTES_MAX)
    }

    /// Whether an event with these lengths may travel.
    pub(crate) fn check_event(&self, bytes: usize, key: usize, provenance: usize) -> Result<(), WireError> {
        if bytes > self.event_bytes_max {
            return Err(WireError::EventTooLarge { bytes, limit: self.event_bytes_max });
        }
        if key > KEY_BYTES_MAX {
            return Err(WireError::KeyTooLarge(key));
        }
        if provenance > PROVENANCE_BYTES_MAX {
            return Err(WireError::ProvenanceTooLarge(provenance));
        }
        Ok(())
    }
}
