//! The connections: one for reading and one for writing, so that an alarm that blocks publishers does not hold acknowledgements back.
//!
//! Each is kept by a task that connects, watches, tells its health and connects again for ever. It never restores channels: whoever
//! had one opens it again, which gives it a new generation. Start with [`Client`].

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use lapin::tcp::AMQPUriTcpExt;
use lapin::{Connection, ConnectionProperties, Event};
use longhaul_broker::{Context, Health};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::config::Access;
use crate::fault::Fault;
use crate::task::Task;

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How often a connection is looked at, for what no event tells.
const WATCH_EVERY: Duration = Duration::from_secs(1);
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// A connection that lived that long starts the back-off from its beginning.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Consuming and acknowledging.
    Read,
    /// Publishing; also the probe of a broker that nobody uses.
    Write,
}

/// The two connections to one broker.
pub(crate) struct Client {
    pub(crate) access: Access,
    pub(crate) context: Context,
    pub(crate) runtime: Handle,
    links: [Link; 2],
    health: watch::Receiver<Health>,
    _tasks: [Task; 2],
}

/// One connection as its users see it.
struct Link {
    state: watch::Receiver<State>,
    wanted: watch::Sender<bool>,
}

#[derive(Clone)]
enum State {
    Connecting,
    Up(Arc<Connection>),
    Down(Fault),
}

impl Client {
    /// Starts connecting for writing; for reading it waits until somebody wants to.
    pub(crate) fn start(access: Access, context: Context, runtime: Handle) -> Arc<Self> {
        let (board, health) = Board::new();
        let start = |role: Role| {
            let (state_tx, state) = watch::channel(State::Connecting);
            let (wanted, wanted_rx) = watch::channel(role == Role::Write);
            let name = format!("longhaul {} {}/{} {role:?}", context.router, context.region, context.broker);
            let keeper = Keeper { access: access.clone(), role, name, state: state_tx, board: Arc::clone(&board) };
            (Link { state, wanted }, Task::spawn(&runtime, keeper.run(wanted_rx)))
        };
        let ((read, read_task), (write, write_task)) = (start(Role::Read), start(Role::Write));
        let (links, tasks) = ([read, write], [read_task, write_task]);
        Arc::new(Self { access, context, runtime, links, health, _tasks: tasks })
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// The connection, waiting while it is being made for the first time.
    ///
    /// # Errors
    /// Why there is none now.
    pub(crate) async fn connection(&self, role: Role) -> Result<Arc<Connection>, Fault> {
        let mut state = self.want(role);
        let waited = timeout(CONNECT_MAX, state.wait_for(|state| !matches!(state, State::Connecting))).await;
        match waited {
            Ok(Ok(state)) => match &*state {
                State::Up(connection) => Ok(Arc::clone(connection)),
                State::Down(fault) => Err(fault.clone()),
                State::Connecting => Err(Fault::Transient("still connecting".to_owned())),
            },
            Ok(Err(_)) => Err(Fault::Transient("the connector is shut down".to_owned())),
            Err(_) => Err(Fault::Transient(format!("RabbitMQ at {} does not answer", self.access.address()))),
        }
    }

    /// The connection, however long that takes; `None` when the connector is shut down.
    pub(crate) async fn connection_at_last(&self, role: Role) -> Option<Arc<Connection>> {
        let mut state = self.want(role);
        let state = state.wait_for(|state| matches!(state, State::Up(_))).await.ok()?;
        match &*state {
            State::Up(connection) => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    fn want(&self, role: Role) -> watch::Receiver<State> {
        let link = match role {
            Role::Read => &self.links[0],
            Role::Write => &self.links[1],
        };
        link.wanted.send_replace(true);
        link.state.clone()
    }
}

/// The health of both connections, told as one.
struct Board {
    of: Mutex<[Option<Health>; 2]>,
    whole: watch::Sender<Health>,
}

impl Board {
    fn new() -> (Arc<Self>, watch::Receiver<Health>) {
        let (whole, health) = watch::channel(Health::Connecting);
        (Arc::new(Self { of: Mutex::new([None, None]), whole }), health)
    }

    fn tell(&self, role: Role, health: Health) {
        let whole = {
            let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
            of[usize::from(role == Role::Write)] = Some(health);
            worst(&of)
        };
        self.whole.send_if_modified(|now| {
            let changed = *now != whole;
            *now = whole;
            changed
        });
    }
}

/// The worse of two; a connection that nobody wanted yet does not count.
fn worst(of: &[Option<Health>; 2]) -> Health {
    let known = || of.iter().flatten();
    let down = known().find(|health| matches!(health, Health::Down(_)));
    let connecting = known().find(|health| **health == Health::Connecting);
    down.or(connecting).or_else(|| known().next()).cloned().unwrap_or(Health::Connecting)
}

/// Keeps one connection.
struct Keeper {
    access: Access,
    role: Role,
    name: String,
    state: watch::Sender<State>,
    board: Arc<Board>,
}

impl Keeper {
    async fn run(self, mut wanted: watch::Receiver<bool>) {
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            return;
        }
        self.board.tell(self.role, Health::Connecting);
        let mut back_off = BACK_OFF_MIN;
        loop {
            let begin = Instant::now();
            let fault = match self.connect().await {
                Ok(connection) => self.keep(connection).await,
                Err(fault) => fault,
            };
            tracing::warn!(broker = self.access.address(), role = ?self.role, reason = fault.text(), "RabbitMQ is away");
            self.board.tell(self.role, Health::Down(fault.text().to_owned()));
            self.state.send_replace(State::Down(fault));
            if begin.elapsed() >= STABLE_AFTER {
                back_off = BACK_OFF_MIN;
            }
            sleep(jittered(back_off)).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    async fn connect(&self) -> Result<Connection, Fault> {
        let doing = format!("connecting to RabbitMQ at {}", self.access.address());
        let tls = self.access.tls().map_err(Fault::Config)?;
        let properties = ConnectionProperties::default().with_connection_name(self.name.clone().into());
        let runtime = lapin::runtime::default_runtime().map_err(|e| Fault::of(&e, &doing))?;
        // lapin has no limit of its own for the connection and the TLS handshake; its thread would wait for ever.
        let dial = async move |uri: lapin::uri::AMQPUri, runtime| match timeout(
            CONNECT_MAX,
            uri.connect_with_config_async(tls.as_ref(), &runtime),
        )
        .await
        {
            Ok(stream) => stream.map_err(lapin::Error::from),
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        let connecting = Connection::connector(self.access.uri.clone(), runtime, dial, properties);
        match timeout(CONNECT_MAX, connecting).await {
            Ok(connection) => connection.map_err(|e| Fault::of(&e, &doing)),
            Err(_) => Err(Fault::Transient(format!("{doing}: no answer within {CONNECT_MAX:?}"))),
        }
    }

    /// Tells that it is there, and returns when it is no more, with the reason.
    async fn keep(&self, connection: Connection) -> Fault {
        let mut events = Box::pin(connection.events_listener());
        let status = connection.status().clone();
        tracing::info!(broker = self.access.address(), role = ?self.role, "connected to RabbitMQ");
        self.board.tell(self.role, Health::Up);
        self.state.send_replace(State::Up(Arc::new(connection)));
        let mut reason = None;
        while status.connected() {
            match timeout(WATCH_EVERY, next(&mut events)).await {
                Ok(Event::ConnectionBlocked(why)) => {
                    tracing::warn!(broker = self.access.address(), why, "RabbitMQ blocks publishers");
                    self.board.tell(self.role, Health::Down(format!("RabbitMQ blocks publishers: {why}")));
                }
                Ok(Event::ConnectionUnblocked) => self.board.tell(self.role, Health::Up),
                // Errors of channels come here too; only the last before the end is the connection's.
                Ok(Event::Error(error)) => reason = Some(error),
                _ => {}
            }
        }
        let doing = "the connection to RabbitMQ was lost";
        reason.map_or_else(
            || Fault::Transient(doing.to_owned()),
            |error| Fault::Transient(Fault::of(&error, doing).text().to_owned()),
        )
    }
}

/// The next event; waits for ever behind the last, so that it is the status that ends a connection.
async fn next(events: &mut (impl Stream<Item = Event> + Unpin)) -> Event {
    match events.next().await {
        Some(event) => event,
        None => std::future::pending().await,
    }
}

/// Between half of that and all of it, so that many routers do not come back at the same moment.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + (random() % 1_000) as f64 / 2_000.0)
}

/// A number that nobody can foresee and that no two processes share; the standard library seeds its hash maps with such.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_connection_is_the_health() {
        let down = || Some(Health::Down("x".to_owned()));
        for (of, expected) in [
            ([None, None], Health::Connecting),
            ([None, Some(Health::Up)], Health::Up),
            ([Some(Health::Connecting), Some(Health::Up)], Health::Connecting),
            ([Some(Health::Up), down()], Health::Down("x".to_owned())),
            ([down(), Some(Health::Connecting)], Health::Down("x".to_owned())),
        ] {
            assert_eq!(worst(&of), expected, "{of:?}");
        }
    }

    #[test]
    fn jitter_stays_within_half_and_whole() {
        for _ in 0..1_000 {
            let pause = jittered(BACK_OFF_MIN);
            assert!(pause >= BACK_OFF_MIN / 2 && pause <= BACK_OFF_MIN);
        }
    }
}
