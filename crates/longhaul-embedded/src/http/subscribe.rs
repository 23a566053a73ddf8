//! `GET /v1/topics/{filter}/events`: server-sent events.
//!
//! `id` is the offset, so that a client that comes back with `Last-Event-ID` goes on behind it. A subscriber holds one batch in
//! memory, and the next one is read when the socket has taken it: a slow client slows itself alone.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use longhaul_broker::{Gap, SourceError};
use longhaul_event::{Event, Position, Start};
use longhaul_topic::Filter;
use serde::Deserialize;
use tokio::sync::watch;

use super::problem::Problem;
use super::{Server, json};
use crate::source::{LogReader, LogSource};

/// Between two comments that keep an idle connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// `earliest`, `latest` (the default), or the offset to begin with. `Last-Event-ID` goes before it.
    from: Option<String>,
    /// Ends after so many events.
    limit: Option<u64>,
}

pub(super) async fn subscribe(
    State(server): State<Server>,
    filter: Result<Path<String>, PathRejection>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path(filter) = filter.map_err(|error| Problem::bad(error.body_text()))?;
    let Query(asked) = asked.map_err(|error| Problem::bad(error.body_text()))?;
    let filter = Filter::parse(&filter).map_err(|error| Problem::bad(format!("{filter:?} is no filter: {error}")))?;
    let start = start(&headers, asked.from.as_deref(), server.log.extent().incarnation)?;
    let source = LogSource::new(Arc::clone(&server.log), vec![filter]);
    let reader = source.reader(start).await.map_err(refused)?;
    let events =
        Subscriber { reader, waiting: VecDeque::new(), left: asked.limit, ended: false, closed: server.closed };
    let events = stream::unfold(events, |mut subscriber| async move {
        let event = subscriber.next().await?;
        Some((Ok::<_, Infallible>(event), subscriber))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive")).into_response())
}

fn start(headers: &HeaderMap, from: Option<&str>, incarnation: u64) -> Result<Start, Problem> {
    let after = |offset| Start::After(Position { incarnation, offset });
    if let Some(last) = headers.get("last-event-id").filter(|last| !last.is_empty()) {
        let offset = last.to_str().ok().and_then(|last| last.parse().ok());
        return offset.map(after).ok_or_else(|| Problem::bad("Last-Event-ID is not the offset of an event"));
    }
    match from {
        None | Some("latest") => Ok(Start::Latest),
        Some("earliest") => Ok(Start::Earliest),
        Some(offset) => {
            let offset = offset.parse::<u64>();
            let offset =
                offset.map_err(|_| Problem::bad("from is `earliest`, `latest` or the offset to begin with"))?;
            Ok(after(offset.wrapping_sub(1)))
        }
    }
}

fn refused(error: SourceError) -> Problem {
    match error {
        SourceError::Gap(gap) => Problem::new(StatusCode::GONE, gone(&gap)),
        SourceError::Transient(reason) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason),
        SourceError::Config(reason) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, reason),
    }
}

fn gone(gap: &Gap) -> String {
    format!("{gap}; begin again with ?from=earliest, without Last-Event-ID")
}

struct Subscriber {
    reader: LogReader,
    waiting: VecDeque<Event>,
    left: Option<u64>,
    ended: bool,
    closed: watch::Receiver<bool>,
}

impl Subscriber {
    async fn next(&mut self) -> Option<SseEvent> {
        if self.ended || self.left == Some(0) {
            return None;
        }
        while self.waiting.is_empty() {
            let batch = tokio::select! {
                batch = self.reader.next_batch() => batch,
                _ = self.closed.wait_for(|closed| *closed) => return None,
            };
            match batch {
                Ok(batch) => self.waiting = batch.events.into(),
                Err(error) => return Some(self.end(&error)),
            }
        }
        let event = self.waiting.pop_front()?;
        self.left = self.left.map(|left| left - 1);
        let rendered = SseEvent::default().id(event.offset.to_string()).event("message");
        Some(rendered.data(json::render(&event)))
    }

    /// The last event of a subscription that cannot go on; the client must not take it for the end of the log.
    fn end(&mut self, error: &SourceError) -> SseEvent {
        self.ended = true;
        let (status, detail) = match error {
            SourceError::Gap(gap) => (410, gone(gap)),
            other => (503, other.to_string()),
        };
        SseEvent::default().event("error").data(serde_json::json!({ "status": status, "detail": detail }).to_string())
    }
}
