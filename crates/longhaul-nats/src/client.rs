//! One connection to NATS that is always either there or being made, and that never outlives itself.
//!
//! async-nats would reconnect by itself and then send what it still had queued: publishes from before the gap that the socket lost stay
//! lost, later ones go through, and a retry puts the lost ones behind them. Order would be gone. So a client here connects once; when
//! that connection ends the client ends with all it has queued, and a new [`Session`] begins. Its tasks run on a thread of their own, so
//! that a panic or a hang inside the client can be cut off with it. Whether a session lives is found out by asking the server every
//! [`PROBE_EVERY`], never from what the client believes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_nats::{Client, ConnectErrorKind, Event};
use futures::StreamExt;
use longhaul_broker::{SinkError, SourceError};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use crate::config::{Access, PATIENCE};
use crate::health::Report;

/// How often the server is asked whether it is there.
const PROBE_EVERY: Duration = Duration::from_secs(5);
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// One connection, from its handshake to its end.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// The client; every call fails once the connection is gone.
    pub(crate) client: Client,
    /// Subject prefix of the JetStream API.
    pub(crate) api: Arc<str>,
    notes: Arc<Notes>,
}

/// What the client said beside its answers.
#[derive(Debug, Default)]
struct Notes {
    /// Errors that the server sent (a permission that is missing, mostly).
    server_errors: AtomicU64,
    last_error: std::sync::Mutex<Option<String>>,
    /// Messages that a full subscription lost.
    dropped: AtomicU64,
}

impl Session {
    /// The last thing that the server refused on this connection, if it is about permissions.
    pub(crate) fn permission_error(&self) -> Option<String> {
        let text = self.notes.last_error.lock().ok()?.clone()?;
        text.to_lowercase().contains("permission").then_some(text)
    }

    /// Messages that full subscriptions of this connection lost.
    pub(crate) fn dropped(&self) -> u64 {
        self.notes.dropped.load(Ordering::Relaxed)
    }

    /// Sends a message to ourselves through the server: when it is back, the server has seen all that was sent before it.
    pub(crate) async fn round_trip(&self) -> Result<(), String> {
        let inbox = self.client.new_inbox();
        let back = async {
            let mut back = self.client.subscribe(inbox.clone()).await.map_err(|e| e.to_string())?;
            self.client.publish(inbox, "".into()).await.map_err(|e| e.to_string())?;
            back.next().await.map(|_| ()).ok_or_else(|| "the connection to NATS was lost".to_owned())
        };
        let waited = tokio::time::timeout(PATIENCE, back).await;
        waited.unwrap_or_else(|_| Err(format!("NATS sent nothing back within {PATIENCE:?}")))
    }

    /// Asks the server something that it always answers. A refusal is an answer.
    async fn probe(&self) -> Result<(), String> {
        let errors = self.notes.server_errors.load(Ordering::Relaxed);
        let asked = self.client.request(format!("{}.INFO", self.api), "".into());
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) if e.kind() == async_nats::RequestErrorKind::NoResponders => Ok(()),
            _ if self.notes.server_errors.load(Ordering::Relaxed) != errors => Ok(()),
            Ok(Err(e)) => Err(format!("the server does not answer: {e}")),
            Err(_) => Err(format!("the server did not answer within {PATIENCE:?}")),
        }
    }
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Away {
    /// It may come back by itself.
    Transient(String),
    /// Somebody must change something first.
    Config(String),
}

impl From<Away> for SourceError {
    fn from(away: Away) -> Self {
        match away {
            Away::Transient(text) => Self::Transient(text),
            Away::Config(text) => Self::Config(text),
        }
    }
}

impl From<Away> for SinkError {
    fn from(away: Away) -> Self {
        match away {
            Away::Transient(text) => Self::Transient(text),
            Away::Config(text) => Self::Config(text),
        }
    }
}

#[derive(Debug, Clone)]
enum State {
    Connecting,
    Up(Session),
    Down(Away),
}

/// Keeps one session up; ends it when dropped.
#[derive(Debug)]
pub(crate) struct Link {
    state: watch::Receiver<State>,
    keeper: tokio::task::JoinHandle<()>,
}

impl Link {
    /// Starts connecting, for ever. Must be called inside a tokio runtime.
    pub(crate) fn start(access: Arc<Access>, report: Report) -> Self {
        let (tx, state) = watch::channel(State::Connecting);
        Self { state, keeper: tokio::spawn(keep(access, tx, report)) }
    }

    /// The session, waiting for one as long as one request may take.
    ///
    /// # Errors
    /// [`Away`] with the reason of the last attempt.
    pub(crate) async fn session(&self) -> Result<Session, Away> {
        let mut state = self.state.clone();
        let settled = |state: &State| matches!(state, State::Up(_) | State::Down(Away::Config(_)));
        let waited = tokio::time::timeout(PATIENCE, state.wait_for(settled)).await;
        match waited {
            Ok(Ok(state)) => return read(&state),
            Ok(Err(_)) => return Err(Away::Transient("the connection to NATS is being closed".to_owned())),
            Err(_) => {}
        }
        let last = self.state.borrow();
        read(&last)
    }
}

fn read(state: &State) -> Result<Session, Away> {
    match state {
        State::Up(session) => Ok(session.clone()),
        State::Down(away) => Err(away.clone()),
        State::Connecting => Err(Away::Transient("NATS does not answer yet".to_owned())),
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Connect, watch, wait, again.
async fn keep(access: Arc<Access>, state: watch::Sender<State>, report: Report) {
    let mut pause = BACK_OFF_MIN;
    for turn in 0.. {
        let away = match Wire::connect(&access, turn).await {
            Ok(mut wire) => {
                let since = Instant::now();
                info!(server = wire.server, "connected to NATS");
                report.up();
                state.send_replace(State::Up(wire.session.clone()));
                let reason = wire.until_lost().await;
                if since.elapsed() > PROBE_EVERY {
                    pause = BACK_OFF_MIN;
                }
                Away::Transient(reason)
            }
            Err(away) => away,
        };
        let (Away::Transient(reason) | Away::Config(reason)) = &away;
        warn!(reason, "no connection to NATS");
        report.down(reason);
        state.send_replace(State::Down(away));
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
}

/// Between half and all of it, so that many routers do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    pause / 2 + (pause / 2).mul_f64(f64::from(nanos % 1000) / 1000.0)
}

/// A client on its own thread; dropping this ends both, whatever the client is doing.
struct Wire {
    session: Session,
    server: String,
    lost: watch::Receiver<bool>,
    _stop: oneshot::Sender<()>,
}

impl Wire {
    async fn connect(access: &Access, turn: usize) -> Result<Self, Away> {
        let (address, server) = access.server(turn);
        let options = access.options().await.map_err(Away::Config)?;
        let notes = Arc::new(Notes::default());
        let (lost_tx, lost) = watch::channel(false);
        let said = notes.clone();
        let options = options.event_callback(move |event| {
            note(&said, &lost_tx, &event);
            std::future::ready(())
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let (done, connected) = oneshot::channel();
        let work = async move {
            let client = options.connect(address).await;
            if done.send(client).is_ok() {
                let _ = stopped.await;
            }
        };
        run_on_own_thread(work).map_err(Away::Transient)?;
        let client = match tokio::time::timeout(2 * PATIENCE, connected).await {
            Ok(Ok(Ok(client))) => client,
            Ok(Ok(Err(e))) => return Err(refused(&server, &e)),
            Ok(Err(_)) => return Err(Away::Transient(format!("{server}: the client failed while connecting"))),
            Err(_) => return Err(Away::Transient(format!("{server}: no connection within {:?}", 2 * PATIENCE))),
        };
        let session = Session { client, api: access.api_prefix().into(), notes };
        Ok(Self { session, server, lost, _stop: stop })
    }

    /// Waits for the end of the connection and says how it was noticed.
    async fn until_lost(&mut self) -> String {
        loop {
            let lost = self.lost.wait_for(|lost| *lost);
            if tokio::time::timeout(PROBE_EVERY, lost).await.is_ok() {
                return format!("{}: the connection was lost", self.server);
            }
            if let Err(reason) = self.session.probe().await {
                return format!("{}: {reason}", self.server);
            }
        }
    }
}

fn run_on_own_thread(work: impl Future<Output = ()> + Send + 'static) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let body = move || {
        runtime.block_on(work);
        // Drops every task of the client; what they still had queued must not go out any more.
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name("longhaul-nats".to_owned()).spawn(body).map(|_| ()).map_err(|e| e.to_string())
}

fn note(notes: &Notes, lost: &watch::Sender<bool>, event: &Event) {
    match event {
        Event::Disconnected | Event::Closed => {
            lost.send_replace(true);
        }
        Event::SlowConsumer(_) => {
            notes.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Event::ServerError(error) => {
            let text = error.to_string();
            warn!(error = text, "NATS refused something");
            notes.server_errors.fetch_add(1, Ordering::Relaxed);
            if let Ok(mut last) = notes.last_error.lock() {
                *last = Some(text);
            }
        }
        _ => {}
    }
}

fn refused(server: &str, error: &async_nats::ConnectError) -> Away {
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            Away::Config(format!("{server} refuses our user, password or credentials: {error}"))
        }
        ConnectErrorKind::Tls => Away::Config(format!("{server}: no TLS: {error}")),
        _ => Away::Transient(format!("{server}: {error}")),
    }
}
