//! `GET /v1/stream`: server-sent events, one [`Snapshot`](crate::Snapshot) a second, made once for all watchers.
//!
//! Nothing is made while nobody watches. A watcher that is slow misses snapshots and delays nobody: there is one slot, and what is in it
//! is the latest. Watchers are bounded; one more is refused. What is parked is asked of the brokers less often, and never waited for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use longhaul_router::Router;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::rates::Rates;
use crate::snapshot::{ParkedLines, Views, snapshot};
use crate::{Shared, problem};

/// Between two snapshots.
const EVERY: Duration = Duration::from_secs(1);
/// Between two questions to the brokers of what is parked.
const PARKED_EVERY: Duration = Duration::from_secs(10);
/// How many may watch at the same time.
const WATCHERS_MAX: usize = 32;

/// Where the latest snapshot is, as JSON.
pub(crate) struct Latest {
    json: watch::Sender<Arc<str>>,
    parked: watch::Sender<ParkedLines>,
    places: Arc<Semaphore>,
}

struct Watcher {
    json: watch::Receiver<Arc<str>>,
    _place: OwnedSemaphorePermit,
}

impl Latest {
    pub(crate) fn new() -> Self {
        let places = Arc::new(Semaphore::new(WATCHERS_MAX));
        Self { json: watch::Sender::new("".into()), parked: watch::Sender::new(ParkedLines::default()), places }
    }

    fn is_watched(&self) -> bool {
        self.json.receiver_count() > 0
    }
}

/// Makes a snapshot a second, for ever.
pub(crate) async fn make_for_ever(shared: Arc<Shared>) {
    let (began, mut rates) = (Instant::now(), Rates::default());
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if !shared.latest.is_watched() {
            continue;
        }
        let made = snapshot(views(&shared.router, &shared.latest), &mut rates, began.elapsed());
        match serde_json::to_string(&made) {
            Ok(json) => drop(shared.latest.json.send_replace(json.into())),
            Err(error) => tracing::error!(%error, "a snapshot has no JSON"),
        }
    }
}

/// Asks again and again what is parked. A broker that is slow to tell delays no snapshot.
pub(crate) async fn ask_parked_for_ever(shared: Arc<Shared>) {
    loop {
        if shared.latest.is_watched() {
            let parked = match shared.router.parked().await {
                Ok(parked) => ParkedLines::of(parked),
                Err(error) => ParkedLines { error: Some(error.to_string()), ..ParkedLines::default() },
            };
            shared.latest.parked.send_replace(parked);
            tokio::time::sleep(PARKED_EVERY).await;
        } else {
            tokio::time::sleep(EVERY).await;
        }
    }
}

fn views(router: &Router, latest: &Latest) -> Views {
    Views {
        mesh: router.mesh(),
        links: router.links(),
        routes: router.routes(),
        flows: router.flows(),
        brokers: router.brokers(),
        parked: latest.parked.borrow().clone(),
    }
}

pub(crate) async fn watch(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(place) = Arc::clone(&shared.latest.places).try_acquire_owned() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "too many watch already; try again later");
    };
    let watcher = Watcher { json: shared.latest.json.subscribe(), _place: place };
    let events = stream::unfold(watcher, |mut watcher| async move {
        watcher.json.changed().await.ok()?;
        let event = Event::default().data(&*watcher.json.borrow_and_update());
        Some((Ok::<_, Infallible>(event), watcher))
    });
    Sse::new(events).into_response()
}
