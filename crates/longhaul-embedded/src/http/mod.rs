//! HTTP in and out.
//!
//! | | |
//! | --- | --- |
//! | `POST /v1/topics/{topic}/events` | publishes: CloudEvents in binary, structured and batch mode, or any body as it is |
//! | `GET /v1/topics/{filter}/events` | server-sent events, with resume by `Last-Event-ID` or `?from=` |
//! | `GET /v1/topics` | what the log holds, and the topics of its newest events |
//!
//! Every refusal is an RFC 9457 problem document with a sentence. At most [`CONNECTIONS_MAX`] connections are open, and at most
//! [`PUBLISH_BYTES_MAX`] bytes of bodies are being taken in; whoever comes later waits.

mod cloudevents;
mod json;
mod problem;
mod publish;
mod refused;
mod subscribe;
mod topics;

use std::sync::Arc;

use axum::Router;
use axum::http::Uri;
use axum::response::Response;
use axum::routing::{get, post};
use longhaul_http::Unread;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::log::Log;
use problem::Problem;
pub(crate) use refused::Refused;

/// Most connections at once.
const CONNECTIONS_MAX: usize = 1_024;
/// Most bytes of request bodies in memory at once.
const PUBLISH_BYTES_MAX: usize = 64 << 20;

/// What every request handler holds.
#[derive(Clone)]
struct Server {
    log: Arc<Log>,
    /// Room for bodies, in KiB.
    room_kib: Arc<Semaphore>,
    closed: watch::Receiver<bool>,
}

/// Serves until `closed` becomes true, then until what is under way is done.
pub(crate) async fn serve(
    listener: TcpListener,
    log: Arc<Log>,
    refused: Arc<Refused>,
    mut closed: watch::Receiver<bool>,
) {
    let server = Server { log, room_kib: Arc::new(Semaphore::new(PUBLISH_BYTES_MAX >> 10)), closed: closed.clone() };
    let app = Router::new()
        .route("/v1/topics", get(topics::list))
        .route("/v1/topics/{topic}/events", post(publish::publish).get(subscribe::subscribe))
        .fallback(|uri: Uri| async move {
            Problem::not_found(format!("there is nothing at {}; publish to /v1/topics/{{topic}}/events", uri.path()))
        })
        .method_not_allowed_fallback(|| async { Problem::not_allowed() })
        .layer(axum::middleware::map_response({
            let refused = Arc::clone(&refused);
            move |response: Response| {
                refused.look(&response);
                async { response }
            }
        }))
        .with_state(server);
    let closing = async move {
        // A sender that is gone closes as well.
        let _ = closed.wait_for(|closed| *closed).await;
    };
    let no_http = move |unread: Unread| refused.add(unread.status, &unread.reason);
    longhaul_http::serve(listener, CONNECTIONS_MAX, app, no_http, closing).await;
}
