//! Effectively once where a stream takes no atomic batches: message ids inside its duplicate window, and beyond it what the stream holds.
//!
//! The server drops a message whose id it got within the stream's `duplicate_window`. That makes a retry exact as long as it comes in time,
//! so a stream whose window is shorter than [`WINDOW_MIN`] is refused, and so is a write that waited for longer than half of that: whoever
//! was asleep that long is not the only writer any more. A flow that is opened again later than half a window since its last cursor looks
//! into the stream first, see [`tail`](crate::tail). What remains: bytes that a network or a frozen server hands over later than a window
//! are stored twice, which only the fence of an atomic batch prevents (see [`batch`](crate::batch)); and an event that is refused in the
//! middle makes the flow repeat a tail, which is said in the log.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use longhaul_broker::SinkError;
use longhaul_event::{Event, Identity};
use tokio::time::Instant;
use tracing::info;

use crate::api::StreamConfig;
use crate::catalog::Catalog;
use crate::client::Session;
use crate::cursor::IN_STREAM;
use crate::map;
use crate::tail::Stored;

/// Shortest duplicate window that makes a promise worth giving; also the server's default.
pub(crate) const WINDOW_MIN: Duration = Duration::from_secs(120);

/// What one writer knows about the streams that it writes.
#[derive(Debug)]
pub(crate) struct Once {
    window_min: Duration,
    /// When the flow's cursor was written, in milliseconds.
    since_ms: Option<i64>,
    /// Streams that take atomic batches.
    atomic: HashSet<String>,
    admitted: HashSet<usize>,
    stored: Stored,
}

impl Once {
    /// For a flow whose cursor was written then; `None` when it has none and never had.
    pub(crate) fn new(window_min: Duration, since_ms: Option<i64>, atomic: impl Iterator<Item = String>) -> Self {
        Self { window_min, since_ms, atomic: atomic.collect(), admitted: HashSet::new(), stored: Stored::default() }
    }

    /// Whether the stream has the event from before.
    ///
    /// # Errors
    /// No stream, or one that cannot keep the promise.
    pub(crate) async fn leaves_out(
        &mut self,
        session: &Session,
        catalog: &mut Catalog,
        event: &Event,
        handed_over: Instant,
    ) -> Result<bool, SinkError> {
        if handed_over.elapsed() > self.window_min / 2 {
            return Err(SinkError::Transient("a write waited too long to be written once only".to_owned()));
        }
        let Some(stream) = catalog.place(&event.topic) else {
            // A topic without a stream is found out by trying.
            return match session.stream_names(event.topic.as_str()).await?.first() {
                None => Ok(false),
                Some(name) => Err(SinkError::Transient(format!("stream {name} is new here"))),
            };
        };
        if !self.admitted.contains(&stream) {
            self.admit(session, &catalog.streams()[stream]).await?;
            self.admitted.insert(stream);
        }
        let has = !self.stored.is_empty() && event.identity == Identity::Unique;
        Ok(has && self.stored.has(&map::msg_id(event, 0)))
    }

    async fn admit(&mut self, session: &Session, stream: &StreamConfig) -> Result<(), SinkError> {
        let window = Duration::from_nanos(stream.duplicate_window);
        let name = &stream.name;
        if self.atomic.contains(name) {
            return Err(SinkError::Config(format!(
                "stream {name} takes atomic batches with cursors while another stream of the same route does not: a route is written in \
                 one way"
            )));
        }
        if window < self.window_min {
            let (has, least) = (window.as_secs_f64(), self.window_min.as_secs_f64());
            return Err(SinkError::Config(format!(
                "stream {name} remembers message ids for {has} s, effectively-once needs {least} s: lengthen its duplicate_window, or give \
                 it allow_atomic and the subject {IN_STREAM}{name}.>"
            )));
        }
        info!(
            stream = name,
            "written with message ids; allow_atomic and the subject {IN_STREAM}{name}.> would make it exact for ever"
        );
        match self.since_ms {
            Some(since)
                if now_ms().saturating_sub(since) > i64::try_from(window.as_millis() / 2).unwrap_or(i64::MAX) =>
            {
                self.stored.add(session, stream, since).await
            }
            _ => Ok(()),
        }
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
