//! `POST /v1/topics/{topic}/events`: answers once the events are durable.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use longhaul_event::{Event, EventId, Identity};
use longhaul_topic::Topic;
use serde::Serialize;
use tokio::time::timeout;

use super::cloudevents::{Mode, Parsed, parse};
use super::problem::Problem;
use super::{PUBLISH_BYTES_MAX, Server};
use crate::clock;

/// Largest body of a batch, unless one event may be larger.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// What a structured event may have beside its data.
const ENVELOPE_BYTES_MAX: usize = 64 << 10;
/// How long a body may take to arrive; the memory that it may fill is held for it meanwhile.
const BODY_MAX: Duration = Duration::from_secs(30);

/// Where one event stands now.
#[derive(Debug, Serialize)]
struct Stored {
    offset: u64,
    id: String,
}

pub(super) async fn publish(
    State(server): State<Server>,
    topic: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Path(topic) = topic.map_err(|error| Problem::bad(error.body_text()))?;
    let topic = checked(&topic)?;
    let mode = Mode::of(&headers)?;
    let event_bytes_max = server.log.event_bytes_max();
    let limit = body_bytes_max(mode, event_bytes_max);
    let _room = room(&server, &headers, limit).await?;
    let body = timeout(BODY_MAX, to_bytes(body, limit)).await;
    let body =
        body.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took longer than 30 s to arrive"))?;
    let body = body.map_err(|error| unread(&error, limit))?;
    let events: Vec<Event> = parse(mode, &headers, body)?.into_iter().map(|parsed| event(&topic, parsed)).collect();
    refuse_large(&events, event_bytes_max)?;
    let count = events.len() as u64;
    if count == 0 {
        return Ok(Json(Vec::<Stored>::new()).into_response());
    }
    let first = server.log.publish(events).await?;
    let stored = |offset| Stored { offset, id: server.log.position_id(offset).to_string() };
    Ok(match mode {
        Mode::Batch => Json((first..first + count).map(stored).collect::<Vec<_>>()).into_response(),
        Mode::Binary | Mode::Structured => Json(stored(first)).into_response(),
    })
}

/// A topic that can be published to: no wildcards, which would read as a filter, and nothing that no terminal shows.
fn checked(text: &str) -> Result<Topic, Problem> {
    let topic = Topic::parse(text).map_err(|error| Problem::bad(error.to_string()))?;
    if text.is_empty() {
        return Err(Problem::bad("a topic must not be empty"));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Problem::bad(format!("the topic {text:?} has white space or control characters")));
    }
    if let Some(wildcard) = topic.tokens().find(|token| ["*", ">", "#"].contains(token)) {
        return Err(Problem::bad(format!("the topic {text:?} has the wildcard {wildcard:?}; publish to one topic")));
    }
    Ok(topic)
}

fn body_bytes_max(mode: Mode, event_bytes_max: usize) -> usize {
    // Base64 takes four bytes for three; text in JSON may be escaped.
    let structured = event_bytes_max.saturating_mul(2).saturating_add(ENVELOPE_BYTES_MAX);
    match mode {
        Mode::Binary => event_bytes_max,
        Mode::Structured => structured,
        Mode::Batch => structured.max(BATCH_BYTES_MAX),
    }
}

/// Room for the body: what it says to be long, or all that it may be. Waits for other bodies to go.
async fn room(
    server: &Server,
    headers: &HeaderMap,
    limit: usize,
) -> Result<tokio::sync::OwnedSemaphorePermit, Problem> {
    let told = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
    if let Some(len) = told.filter(|len| *len > limit) {
        return Err(Problem::too_large(format!("the body has {len} bytes; at most {limit} are taken")));
    }
    let kib = told.unwrap_or(limit).min(PUBLISH_BYTES_MAX).div_ceil(1 << 10);
    let kib = u32::try_from(kib).expect("the room for bodies is a few MiB");
    let room = std::sync::Arc::clone(&server.room_kib).acquire_many_owned(kib).await;
    room.map_err(|_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the embedded broker stops"))
}

fn unread(error: &axum::Error, limit: usize) -> Problem {
    use std::error::Error;
    // The only error of ours that `to_bytes` wraps is the limit; all others are the connection's.
    let mut cause: Option<&dyn Error> = error.source();
    while let Some(error) = cause {
        if error.to_string().contains("length limit") {
            return Problem::too_large(format!("the body is longer than {limit} bytes"));
        }
        cause = error.source();
    }
    Problem::bad(format!("the body did not arrive whole: {error}"))
}

fn event(topic: &Topic, parsed: Parsed) -> Event {
    Event {
        offset: 0,
        topic: topic.clone(),
        key: parsed.key,
        headers: parsed.headers,
        payload: Some(parsed.payload),
        time_ms: clock::now_ms(),
        // The log gives the identity of the position: publishers repeat their own ids, and then nobody could tell two events apart.
        id: EventId::default(),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}

fn refuse_large(events: &[Event], max: usize) -> Result<(), Problem> {
    for (at, event) in events.iter().enumerate() {
        let bytes = event.payload.as_ref().map_or(0, Bytes::len).max(event.key.as_ref().map_or(0, Bytes::len));
        if bytes > max {
            return Err(Problem::too_large(format!("event {at} has {bytes} bytes; an event has at most {max}")));
        }
    }
    Ok(())
}
