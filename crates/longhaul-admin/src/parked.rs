//! Parked events over HTTP: list, show, redrive, discard. The router does it; this only says how it went.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use longhaul_router::ParkedError;
use serde::Serialize;

use crate::{Shared, may_write, problem};

pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Response {
    answer(shared.router.parked().await)
}

pub(crate) async fn show(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    answer(shared.router.parked_event(&id).await)
}

pub(crate) async fn redrive(State(shared): State<Arc<Shared>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    match may_write(&shared, &headers) {
        Ok(()) => answer(shared.router.redrive(&id).await),
        Err(refused) => *refused,
    }
}

pub(crate) async fn discard(State(shared): State<Arc<Shared>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    match may_write(&shared, &headers) {
        Ok(()) => answer(shared.router.discard(&id).await),
        Err(refused) => *refused,
    }
}

fn answer<T: Serialize>(result: Result<T, ParkedError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let status = match &error {
                ParkedError::Unknown(_) => StatusCode::NOT_FOUND,
                ParkedError::Refused(_) => StatusCode::CONFLICT,
                ParkedError::Broker { .. } => StatusCode::BAD_GATEWAY,
            };
            problem(status, &error.to_string())
        }
    }
}
