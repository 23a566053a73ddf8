//! `GET /v1/topics`: what the log holds, and the topics of its newest events.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Server;
use super::problem::Problem;
use crate::store::TopicSeen;

/// How many of the newest events are looked at.
const LOOKED_AT: u64 = 1_000;

#[derive(Serialize)]
pub(super) struct Listing {
    /// Which life of the log, in hexadecimal.
    incarnation: String,
    /// The oldest offset that is there, or `next` when there is none.
    first: u64,
    /// The next offset to be written.
    next: u64,
    /// Bytes of all events.
    bytes: u64,
    /// How many of the newest events `topics` counts.
    newest: u64,
    /// By name.
    topics: Vec<TopicSeen>,
}

pub(super) async fn list(State(server): State<Server>) -> Result<Json<Listing>, Problem> {
    let extent = server.log.extent();
    let from = extent.next.saturating_sub(LOOKED_AT).max(extent.first);
    let topics = server.log.topics_from(from).await?;
    Ok(Json(Listing {
        incarnation: format!("{:016x}", extent.incarnation),
        first: extent.first,
        next: extent.next,
        bytes: extent.bytes,
        newest: topics.iter().map(|topic| topic.events).sum(),
        topics,
    }))
}
