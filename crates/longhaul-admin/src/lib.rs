//! The admin listener: metrics, health, the JSON API, and a page for looking.
//!
//! Reads are open to whoever reaches the listener, which is loopback by default; writes (`POST /v1/reload`, and what changes
//! parked events) need the configured bearer token and are off without one; a tap needs it where there is one. Nothing here decides
//! anything: every answer is a view of [`Router`].

mod map;
mod page;
mod parked;
mod rates;
mod snapshot;
mod stream;
mod tap;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router as Api};
use longhaul_http::Unread;
use longhaul_router::Router;
use longhaul_telemetry::OnceASecond;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use map::{LinkState, MapLink};
pub use snapshot::{FLOWS_SHOWN_MAX, FlowLine, LinkLine, PARKED_SHOWN_MAX, ParkedLines, RouteLine, Snapshot};

/// Most connections at once; watchers of the page and taps hold one each.
const CONNECTIONS_MAX: usize = 256;

/// The admin listener of one router; ends when dropped.
pub struct Admin {
    address: SocketAddr,
    /// The listener and what makes snapshots.
    _tasks: JoinSet<()>,
}

struct Shared {
    router: Router,
    token: Option<String>,
    /// Of refusals in the log.
    pace: OnceASecond,
    latest: stream::Latest,
}

impl Admin {
    /// Serves the router's views at that address. `token` allows writes.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(address: SocketAddr, router: Router, token: Option<String>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { router, token, pace: OnceASecond::default(), latest: stream::Latest::new() });
        let mut tasks = JoinSet::new();
        tasks.spawn(stream::make_for_ever(Arc::clone(&shared)));
        tasks.spawn(stream::ask_parked_for_ever(Arc::clone(&shared)));
        let no_http = {
            let shared = Arc::clone(&shared);
            move |Unread { status, reason }: Unread| {
                if count(&shared, status) {
                    tracing::warn!(reason, status, "a request to the admin listener was refused");
                }
            }
        };
        tasks.spawn(longhaul_http::serve(listener, CONNECTIONS_MAX, api(shared), no_http, std::future::pending()));
        Ok(Self { address, _tasks: tasks })
    }

    /// Where it is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn api(shared: Arc<Shared>) -> Api {
    let files = page::FILES.iter().fold(Api::new(), |api, (path, kind, text)| api.route(path, page::file(kind, text)));
    files
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/v1/mesh", get(async |State(shared): State<Arc<Shared>>| Json(shared.router.mesh())))
        .route("/v1/links", get(async |State(shared): State<Arc<Shared>>| Json(shared.router.links())))
        .route("/v1/routes", get(async |State(shared): State<Arc<Shared>>| Json(shared.router.routes())))
        .route("/v1/flows", get(async |State(shared): State<Arc<Shared>>| Json(shared.router.flows())))
        .route("/v1/brokers", get(async |State(shared): State<Arc<Shared>>| Json(shared.router.brokers())))
        .route("/v1/config", get(config))
        .route("/v1/stream", get(stream::watch))
        .route("/v1/tap", get(tap::watch))
        .route("/v1/parked", get(parked::list))
        .route("/v1/parked/{id}", get(parked::show).delete(parked::discard))
        .route("/v1/parked/{id}/redrive", post(parked::redrive))
        .route("/v1/reload", post(reload))
        .fallback(async || problem(StatusCode::NOT_FOUND, "there is no such path; try /metrics, /readyz or /v1/flows"))
        .method_not_allowed_fallback(async || problem(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method"))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), count_refused))
        .with_state(shared)
}

/// Counts refused requests, and says them in the log.
async fn count_refused(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let asked = format!("{} {}", request.method(), request.uri().path());
    let response = next.run(request).await;
    let status = response.status();
    if status.is_client_error() && count(&shared, status.as_u16()) {
        tracing::warn!(asked, status = status.as_u16(), "a request to the admin listener was refused");
    }
    response
}

/// Counts one that was refused; whether it is time to say so.
fn count(shared: &Shared, status: u16) -> bool {
    shared.router.count_refused_request(status);
    shared.pace.is_due(std::time::Instant::now())
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.router.metrics_text())
}

/// The mesh document in force, as it was written.
async fn config(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/yaml; charset=utf-8")], shared.router.mesh_text().to_string())
}

async fn livez(State(shared): State<Arc<Shared>>) -> Response {
    match shared.router.alive() {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    match shared.router.ready() {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn reload(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if let Err(refused) = may_write(&shared, &headers) {
        return *refused;
    }
    match shared.router.reload() {
        Ok(generation) => Json(json!({"generation": generation})).into_response(),
        Err(error) => problem(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
    }
}

/// Whether whoever asks may change something.
fn may_write(shared: &Shared, headers: &HeaderMap) -> Result<(), Box<Response>> {
    let Some(token) = &shared.token else {
        let detail = "writes are off: set admin.token in the router document to allow them";
        return Err(Box::new(problem(StatusCode::FORBIDDEN, detail)));
    };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if given.and_then(|value| value.strip_prefix("Bearer ")) != Some(token) {
        let detail = "this needs the bearer token of the router document";
        return Err(Box::new(problem(StatusCode::UNAUTHORIZED, detail)));
    }
    Ok(())
}

fn problem(status: StatusCode, detail: &str) -> Response {
    (status, Json(json!({"status": status.as_u16(), "detail": detail}))).into_response()
}
