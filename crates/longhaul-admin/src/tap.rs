//! `GET /v1/tap`: server-sent events, one for each event that passes through the router and was asked for, until whoever asked goes away.
//!
//! It shows keys and headers of single events, which no other view does for whatever passes; so where a token is configured, it is needed.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use longhaul_router::{Tap, TapAsked, TapError};

use crate::{Shared, may_write, problem};

pub(crate) async fn watch(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    asked: Result<Query<TapAsked>, QueryRejection>,
) -> Response {
    if shared.token.is_some()
        && let Err(refused) = may_write(&shared, &headers)
    {
        return *refused;
    }
    let asked = match asked {
        Ok(Query(asked)) => asked,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    match shared.router.tap(&asked) {
        Ok(tap) => Sse::new(stream::unfold(tap, next)).keep_alive(KeepAlive::default()).into_response(),
        Err(error) => {
            let status = match error {
                TapError::Wrong(_) => StatusCode::BAD_REQUEST,
                TapError::TooMany(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            problem(status, &error.to_string())
        }
    }
}

async fn next(mut tap: Tap) -> Option<(Result<Event, Infallible>, Tap)> {
    let line = tap.next().await;
    let event = Event::default().json_data(&line).ok()?;
    Some((Ok(event), tap))
}
