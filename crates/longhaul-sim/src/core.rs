//! What routers stand in: time, the network, the sessions to brokers. Everything that happens later is in one queue, ordered by time
//! and then by the order in which it was asked for; there is no other order anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use longhaul_wire::{Frame, encode_frame};

use crate::broker::{Answer, Ask, Broker};
use crate::coverage::Coverage;
use crate::ledger::{Ledger, Uid};
use crate::plan::Plan;
use crate::rng::Rng;

/// A process: a router and which life of it.
pub(crate) type Process = (usize, u32);

/// A flow's number on a connection.
pub(crate) type Port = (u64, u32);

/// Whom an answer of a broker is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Owner(usize),
    Applier(usize),
    Shard(usize),
}

/// What reaches a process; a paused one gets it when it wakes.
#[derive(Debug)]
pub(crate) enum Message {
    Control {
        conn: u64,
        bytes: Bytes,
    },
    Parcel {
        conn: u64,
        bytes: Bytes,
    },
    Closed {
        conn: u64,
    },
    Dialled {
        conn: u64,
    },
    Dial {
        region: usize,
    },
    Answer {
        end: End,
        session: u64,
        answer: Answer,
    },
    Timer {
        end: End,
    },
    Owns,
    OwnsNoMore,
    /// The route of a flow is not declared any more, or it is again.
    Withdrawn {
        flow: usize,
    },
    Declared {
        flow: usize,
    },
    /// The next link takes a batch of a flow that passes through: connection and handle over which it comes.
    Onward {
        back: Port,
    },
    Exit,
}

/// What happens.
#[derive(Debug)]
pub(crate) enum What {
    To(Process, Message),
    AtBroker { session: u64, ask: Ask },
    Fault(usize),
    Work(usize),
    BrokerUp(usize),
    RouterUp(usize),
    Wake(usize),
    Elect(usize),
    CutLink { a: usize, b: usize },
    Heal,
    Look,
}

/// A connection between two routers; the first side dialled, owns flows and sends data.
#[derive(Debug)]
pub(crate) struct Conn {
    pub ends: [Process; 2],
    pub regions: [usize; 2],
    pub open: [bool; 2],
    last: [Duration; 2],
    pub handles: u32,
    /// The accepting side: what a handle stands for.
    pub sessions: BTreeMap<u32, (usize, u64)>,
    /// In truth, over which regions the frames of a handle have come, whatever they say.
    pub trails: BTreeMap<u32, Vec<usize>>,
    /// Parcels of a handle under way, which a reset of their streams may catch.
    cancelled: BTreeMap<u32, BTreeSet<(Duration, u64)>>,
}

/// A session with a broker.
#[derive(Debug)]
pub(crate) struct Session {
    pub broker: usize,
    pub client: Process,
    pub end: End,
    pub alive: bool,
    /// After a refusal or an error it does nothing any more.
    pub spent: bool,
    /// The cursor as this session knows it: what an atomic batch expects.
    pub expects: Option<longhaul_event::Position>,
    /// The cursor that it found.
    pub found: Option<longhaul_event::Position>,
    /// Shard, flow, and what a reader waits for.
    pub reads: Option<(usize, Option<usize>)>,
    pub waits: Option<u64>,
    last_ask: Duration,
    last_answer: Duration,
}

/// The world without its routers.
pub(crate) struct Core {
    pub plan: Plan,
    pub now: Duration,
    queue: BTreeMap<(Duration, u64), What>,
    numbers: u64,
    pub rng: Rng,
    pub cover: Coverage,
    pub ledger: Ledger,
    pub brokers: Vec<Broker>,
    pub conns: BTreeMap<u64, Conn>,
    pub sessions: BTreeMap<u64, Session>,
    /// Until when nothing gets from one region to another.
    pub blocked: BTreeMap<(usize, usize), Duration>,
    pub twice: u32,
    pub late: (u32, Duration),
    pub lose: bool,
    pub corrupt: bool,
    /// Parcels came twice or in pieces, so that an honest peer may be refused.
    pub unclean: bool,
    /// What stands where: (shard, incarnation, offset); more than one where a log was cut.
    pub uids: BTreeMap<(usize, u64, u64), Vec<Uid>>,
    /// How far a flow has read its shard.
    pub read: BTreeMap<usize, (u64, u64)>,
    pub tokens: u64,
    /// Who owns the shards of a region.
    pub owner_of: Vec<Option<Process>>,
    /// What appliers have said, so that nobody else says it.
    pub said: BTreeSet<Said>,
    pub log: Option<String>,
}

/// A frame of an applier: flow, path epoch, position (as incarnation and ordinal) and credit.
pub(crate) type Said = (usize, u32, Option<(u64, u64)>, u64, u64);

/// What a frame of an applier says of a flow; `None` for those that acknowledge and grant nothing.
pub(crate) fn said(flow: usize, frame: &Frame) -> Option<Said> {
    match *frame {
        Frame::Accept { path_epoch, resume, events_limit, bytes_limit, .. } => {
            let resume = resume.map(|resume| (resume.incarnation, resume.offset.wrapping_add(1)));
            Some((flow, path_epoch, resume, events_limit, bytes_limit))
        }
        Frame::Ack { path_epoch, durable, events_limit, bytes_limit, .. } => {
            Some((flow, path_epoch, Some((u64::MAX, durable.wrapping_add(1))), events_limit, bytes_limit))
        }
        _ => None,
    }
}

impl Core {
    pub(crate) fn new(plan: Plan, logged: bool) -> Self {
        let brokers = plan.kinds.iter().map(|kind| Broker::new(*kind)).collect();
        Self {
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            numbers: 0,
            rng: Rng::new(plan.seed, 3),
            cover: Coverage::default(),
            ledger: Ledger::new(&plan),
            brokers,
            conns: BTreeMap::new(),
            sessions: BTreeMap::new(),
            blocked: BTreeMap::new(),
            twice: 0,
            late: (0, Duration::ZERO),
            lose: false,
            corrupt: false,
            unclean: false,
            uids: BTreeMap::new(),
            read: BTreeMap::new(),
            tokens: 0,
            owner_of: vec![None; plan.kinds.len()],
            said: BTreeSet::new(),
            log: logged.then(String::new),
            plan,
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Notes a line, if anybody reads it.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{:>12.6} {}", self.now.as_secs_f64(), line());
        }
    }

    pub(crate) fn at(&mut self, when: Duration, what: What) -> u64 {
        let number = self.number();
        self.queue.insert((when.max(self.now), number), what);
        number
    }

    pub(crate) fn after(&mut self, delay: Duration, what: What) {
        self.at(self.now + delay, what);
    }

    /// The next thing that happens.
    pub(crate) fn next(&mut self) -> Option<What> {
        let ((at, _), what) = self.queue.pop_first()?;
        self.now = at;
        Some(what)
    }

    // The network.

    /// The least time to another region and back.
    pub(crate) fn rtt(&self) -> Duration {
        Duration::from_millis(2 * self.plan.net_ms)
    }

    fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.get(&(from, to)).is_some_and(|until| *until > self.now)
    }

    /// When something that leaves now arrives; what is held back by a cut arrives when it ends.
    fn arrival(&mut self, from: usize, to: usize) -> Duration {
        if self.is_blocked(from, to) {
            self.cover.count("network", "blocked");
        }
        let held = self.blocked.get(&(from, to)).copied().unwrap_or_default().max(self.now);
        held + Duration::from_micros(self.rng.between(self.plan.net_ms * 800, self.plan.net_ms * 1_500))
    }

    /// Joins two routers, if anything gets both ways.
    pub(crate) fn dial(&mut self, from: Process, from_region: usize, to: Process, to_region: usize) -> Option<u64> {
        if self.is_blocked(from_region, to_region) || self.is_blocked(to_region, from_region) {
            return None;
        }
        let conn = self.number();
        let (ends, regions) = ([from, to], [from_region, to_region]);
        let (last, sessions, trails, cancelled) = ([self.now; 2], BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        self.conns.insert(conn, Conn { ends, regions, open: [true; 2], last, handles: 0, sessions, trails, cancelled });
        let when = self.now + self.rtt();
        self.at(when, What::To(from, Message::Dialled { conn }));
        self.note(|| format!("net: {conn} from router {from:?} to {to:?}"));
        Some(conn)
    }

    /// A new number for a flow that has come over those regions.
    pub(crate) fn attach(&mut self, conn: u64, trail: Vec<usize>) -> Option<Port> {
        let found = self.conns.get_mut(&conn)?;
        found.handles += 1;
        found.trails.insert(found.handles, trail);
        Some((conn, found.handles))
    }

    /// Sends a frame on the control stream, from side 0 or 1.
    pub(crate) fn send(&mut self, conn: u64, side: usize, frame: &Frame) {
        let Some(found) = self.conns.get(&conn).filter(|conn| conn.open[side]) else { return };
        let (regions, to) = (found.regions, found.ends[1 - side]);
        let when = self.arrival(regions[side], regions[1 - side]);
        let mut bytes = BytesMut::new();
        if let Err(error) = encode_frame(frame, &mut bytes) {
            return self.ledger.violate("wire", format!("a frame cannot be encoded: {error}"));
        }
        let Some(found) = self.conns.get_mut(&conn) else { return };
        let when = when.max(found.last[side]);
        found.last[side] = when;
        self.note(|| format!("net: {conn} side {side} says {frame:?}"));
        self.at(when, What::To(to, Message::Control { conn, bytes: bytes.freeze() }));
    }

    /// Sends a parcel: it overtakes and is overtaken.
    pub(crate) fn submit(&mut self, conn: u64, handle: u32, batch: Bytes) {
        let Some(found) = self.conns.get(&conn).filter(|conn| conn.open[0]) else { return };
        let (regions, to) = (found.regions, found.ends[1]);
        let mut when = self.arrival(regions[0], regions[1]);
        if self.late.0 > 0 {
            self.late.0 -= 1;
            let by = self.late.1;
            when += Duration::from_micros(self.rng.between(0, by.as_micros() as u64));
        }
        if std::mem::take(&mut self.lose) {
            return self.note(|| "net: loses a parcel".to_owned());
        }
        let mut bytes = batch;
        if std::mem::take(&mut self.corrupt) {
            let mut broken = bytes.to_vec();
            let at = self.rng.below(broken.len());
            broken[at] ^= 1 << self.rng.below(8);
            bytes = broken.into();
            self.unclean = true;
        }
        if self.twice > 0 {
            self.twice -= 1;
            self.unclean = true;
            let again = self.arrival(regions[0], regions[1]) + self.rng.ms(0, 300);
            self.at(again, What::To(to, Message::Parcel { conn, bytes: bytes.clone() }));
        }
        let number = self.at(when, What::To(to, Message::Parcel { conn, bytes }));
        // What is still queued here may be thrown away when the path is given up; what has left may not.
        if self.rng.one_in(2)
            && let Some(found) = self.conns.get_mut(&conn)
        {
            found.cancelled.entry(handle).or_default().insert((when.max(self.now), number));
        }
    }

    /// Throws away what has not left yet.
    pub(crate) fn cancel(&mut self, conn: u64, handle: u32) {
        let keys = self.conns.get_mut(&conn).and_then(|conn| conn.cancelled.remove(&handle));
        for key in keys.into_iter().flatten() {
            self.queue.remove(&key);
        }
    }

    /// A side gives its connection up; the other one hears of it later.
    pub(crate) fn close(&mut self, conn: u64, side: usize) {
        let Some(found) = self.conns.get_mut(&conn).filter(|conn| conn.open[side]) else { return };
        found.open[side] = false;
        let (to, there) = (found.ends[1 - side], found.open[1 - side]);
        if there {
            let delay = self.rng.ms(0, 4_000);
            self.after(delay, What::To(to, Message::Closed { conn }));
        }
    }

    /// Both sides lose it, each when it notices.
    pub(crate) fn cut(&mut self, conn: u64, notice_ms: (u64, u64)) {
        let Some(ends) = self.conns.get(&conn).map(|conn| conn.ends) else { return };
        self.cover.count("network", "cut");
        for end in ends {
            let delay = self.rng.ms(notice_ms.0, notice_ms.1);
            self.after(delay, What::To(end, Message::Closed { conn }));
        }
    }

    /// Connections that are open on at least one side and join these regions, in either direction.
    pub(crate) fn between(&self, a: usize, b: usize) -> Vec<u64> {
        let joins = |conn: &Conn| conn.regions == [a, b] || conn.regions == [b, a];
        self.conns.iter().filter(|(_, conn)| joins(conn) && conn.open != [false; 2]).map(|(id, _)| *id).collect()
    }

    // Sessions with brokers.

    pub(crate) fn connect(&mut self, broker: usize, client: Process, end: End) -> u64 {
        let session = self.number();
        let (found, expects, reads, waits) = (None, None, None, None);
        let (last_ask, last_answer) = (self.now, self.now);
        let (alive, spent) = (true, false);
        self.sessions.insert(
            session,
            Session { broker, client, end, alive, spent, expects, found, reads, waits, last_ask, last_answer },
        );
        session
    }

    pub(crate) fn ask(&mut self, session: u64, ask: Ask) {
        let delay = self.disk();
        let Some(found) = self.sessions.get_mut(&session) else { return };
        let when = (self.now + delay).max(found.last_ask);
        found.last_ask = when;
        self.at(when, What::AtBroker { session, ask });
    }

    /// Nobody looks at the answers any more; what was asked still arrives first.
    pub(crate) fn hang_up(&mut self, session: u64) {
        self.ask(session, Ask::HangUp);
    }

    pub(crate) fn answer(&mut self, session: u64, answer: Answer) {
        let delay = self.disk();
        let Some(found) = self.sessions.get(&session) else { return };
        let broker = &self.brokers[found.broker];
        let slow = if broker.slow.0 > self.now { broker.slow.1 } else { Duration::ZERO };
        let when = (self.now + delay + slow).max(broker.hang_until).max(found.last_answer);
        let (client, end) = (found.client, found.end);
        if !slow.is_zero() || broker.hang_until > self.now {
            self.cover.count("broker", "answers late");
        }
        if let Some(found) = self.sessions.get_mut(&session) {
            found.last_answer = when;
        }
        self.at(when, What::To(client, Message::Answer { end, session, answer }));
    }

    /// What was asked is done, and whoever asked never hears so.
    pub(crate) fn unheard(&mut self, session: u64, answer: &Answer) {
        let broker = self.sessions.get(&session).map(|session| session.broker);
        let atomic = broker.is_some_and(|broker| self.brokers[broker].kind.is_atomic());
        if matches!(answer, Answer::Committed(_)) || (atomic && matches!(answer, Answer::Written)) {
            self.cover.count("fault", "commit unheard");
        }
    }

    /// Cuts a session: the client hears of it, what it has asked is not answered.
    pub(crate) fn lose_session(&mut self, session: u64) {
        let Some(found) = self.sessions.get_mut(&session).filter(|session| session.alive) else { return };
        found.alive = false;
        found.waits = None;
        let (client, end, broker) = (found.client, found.end, found.broker);
        self.cover.count("broker", "session lost");
        if self.brokers[broker].queue.consumer == Some(session) {
            self.redeliver(broker);
        }
        let delay = self.rng.ms(0, 500);
        self.after(delay, What::To(client, Message::Answer { end, session, answer: Answer::Lost }));
    }

    /// What the consumer of a queue did not acknowledge comes again.
    pub(crate) fn redeliver(&mut self, broker: usize) {
        if self.brokers[broker].requeue() > 0 {
            self.cover.count("fault", "redelivered");
        }
    }

    pub(crate) fn sessions_of(&self, broker: usize) -> Vec<u64> {
        self.sessions
            .iter()
            .filter(|(_, session)| session.alive && session.broker == broker)
            .map(|(id, _)| *id)
            .collect()
    }

    fn disk(&mut self) -> Duration {
        Duration::from_micros(self.rng.between(100, self.plan.disk_ms * 1_000))
    }
}
