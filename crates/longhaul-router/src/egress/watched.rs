//! What is known of a batch beside the batch, for those who look: spans of its traced events, and its events that somebody taps.

use std::time::SystemTime;

use longhaul_broker::SinkError;
use longhaul_event::Event;
use longhaul_telemetry::Writing;

use super::Driver;
use crate::tap::{Held, Outcome};

/// What of a batch is watched on its way into the sink.
#[derive(Default)]
pub(super) struct Watched {
    pub writing: Vec<Writing>,
    pub held: Held,
}

impl Driver {
    /// A batch is in order, and the destination takes it.
    pub(super) fn watch(&self, events: &[Event], path_epoch: u32, at: SystemTime) -> Watched {
        let tracer = self.flow.tracer.as_ref();
        let writing = tracer.map(|tracer| tracer.received(events, path_epoch, (at, SystemTime::now())));
        Watched { writing: writing.unwrap_or_default(), held: Held::default() }
    }

    /// A write has ended. What the sink still had when it was given up has neither spans nor lines: it is sent again.
    pub(super) fn end_writes(&self, watched: Watched, error: Option<&SinkError>) {
        if watched.writing.is_empty() && watched.held.is_empty() {
            return;
        }
        let text = error.map(ToString::to_string);
        if let Some(tracer) = self.flow.tracer.as_ref().filter(|_| !watched.writing.is_empty()) {
            tracer.written(watched.writing, text.as_deref());
        }
        watched.held.end(|event| match error {
            None => Some((Outcome::Delivered, None)),
            // What stands before a refused event is confirmed; what stands behind it comes again.
            Some(SinkError::Poison { offset, .. }) if event.offset < *offset => Some((Outcome::Delivered, None)),
            Some(SinkError::Poison { offset, reason, .. }) => {
                (event.offset == *offset).then_some((Outcome::Refused, Some(reason.as_str())))
            }
            Some(SinkError::Transient(_) | SinkError::Config(_)) => Some((Outcome::Failed, text.as_deref())),
        });
    }
}
