//! Links that others dialled to here: their flows are opened at appliers, their batches are put into mailboxes.
//!
//! A session judges nothing about positions; it checks that a flow belongs to this mesh, comes from the peer's own region or by a way of
//! the mesh document over it, and follows a route that this router knows in the same words; and that a batch is within what its flow was
//! granted, before it is read. What goes to another region passes through.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use longhaul_event::Event;
use longhaul_flow::{ResetCode, Span};
use longhaul_link::{BatchHandler, InLink, InSender, LinkError, Listener, Violation};
use longhaul_topology::FlowKey;
use longhaul_wire::{BatchHeader, FlowOpen, Frame, Hello};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::appliers::Appliers;
use crate::egress::reset_frame;
use crate::flow_status::wall_ms;
use crate::ledger::Charge;
use crate::mailbox::{Attachment, Inbound, Mailbox, Received, Refused};
use crate::misdeeds::{CREDIT, FLOODED, NEVER_OPENED, TOO_MANY_LINKS, WRONG_WAY, reason};
use crate::pace::Paces;
use crate::supervise::Supervisor;
use crate::transit::{Passing, Transit};

/// How long an owner waits before it opens a flow again whose route is not known here: both regions reload within that time.
const ROUTE_RETRY: Duration = Duration::from_secs(2);
/// Most flows of one session.
const FLOWS_MAX: usize = 25_000;
/// Most links of one router: one for each address of this one, twice while they are renewed.
const LINKS_MAX: usize = 16;
/// Flows of one link whose refusal is logged within a second.
const REFUSALS_TOLD_MAX: u32 = 10;
/// Most refusals that are shown.
const REFUSED_SHOWN_MAX: usize = 32;

/// A session as people see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionView {
    /// Region of the peer.
    pub region: String,
    /// Name of the peer.
    pub router: String,
    /// Flows that it has open here.
    pub flows: usize,
}

/// A connection that was refused, or cut off because its peer broke the protocol, as people see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefusalView {
    /// When, in seconds since the Unix epoch.
    pub at: u64,
    /// Why, as in the label of the metric.
    pub reason: String,
    /// Who and why, in words.
    pub text: String,
}

/// All sessions of a router.
pub(crate) struct Sessions {
    appliers: Arc<Appliers>,
    transit: Transit,
    supervisor: Supervisor,
    open: Mutex<HashMap<u64, Arc<Session>>>,
    ids: AtomicU64,
    paces: Paces,
    /// The last ones, oldest first.
    refused: Mutex<VecDeque<RefusalView>>,
}

struct Session {
    peer: Hello,
    sender: InSender,
    appliers: Arc<Appliers>,
    flows: RwLock<HashMap<u32, Course>>,
    /// Above the numbers of all flows that were opened; owners count up.
    unopened: AtomicU64,
    /// When refusals were last told, and how many of them within a second: a flood of flows must not be one of the log.
    told: Mutex<(Instant, u32)>,
}

/// Where a flow of a session goes.
#[derive(Clone)]
enum Course {
    /// Into this region: its mailbox, and which attachment of it this is.
    Ends(Arc<Mailbox>, Attachment),
    /// On to another one.
    Passes(Arc<Passing>),
}

impl Sessions {
    /// Serves what the listener accepts until the router stops.
    pub(crate) fn start(
        listener: Listener,
        appliers: Arc<Appliers>,
        transit: Transit,
        supervisor: &Supervisor,
    ) -> Arc<Self> {
        let sessions = Arc::new(Self {
            appliers,
            transit,
            supervisor: supervisor.clone(),
            open: Mutex::new(HashMap::new()),
            ids: AtomicU64::new(1),
            paces: Paces::default(),
            refused: Mutex::default(),
        });
        let (served, listener) = (Arc::clone(&sessions), Arc::new(tokio::sync::Mutex::new(listener)));
        let stop = supervisor.stop_token().child_token();
        supervisor.spawn("link listener", stop.clone(), move || {
            Arc::clone(&served).accept(Arc::clone(&listener), stop.clone())
        });
        sessions
    }

    /// All sessions as people see them.
    #[must_use]
    pub(crate) fn view(&self) -> Vec<SessionView> {
        let view = |session: &Arc<Session>| SessionView {
            region: session.peer.region.clone(),
            router: session.peer.router.clone(),
            flows: session.flows().len(),
        };
        self.lock().values().map(view).collect()
    }

    /// The last refusals as people see them, oldest first.
    #[must_use]
    pub(crate) fn refused(&self) -> Vec<RefusalView> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Counts a refusal and remembers it for people.
    fn note_refused(&self, reason: &str, text: String) {
        self.appliers.metrics().refused_connection(reason);
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() == REFUSED_SHOWN_MAX {
            refused.pop_front();
        }
        refused.push_back(RefusalView { at: wall_ms() / 1000, reason: reason.to_owned(), text });
    }

    /// A peer that broke the protocol was cut off, which is no ordinary end.
    fn note_end(&self, peer: &Hello, ended: &LinkError) {
        let (region, router) = (&peer.region, &peer.router);
        if let LinkError::Protocol { .. } | LinkError::Certificate(_) | LinkError::Expired = ended.cause() {
            self.note_refused(reason(ended), format!("{router} of {region}: {ended}"));
            tracing::warn!(region, router, reason = %ended, "cut off a router's link");
        } else {
            tracing::info!(region, router, reason = %ended, "a router's link ended");
        }
    }

    /// Says goodbye on every session and closes it.
    pub(crate) async fn close(&self, text: &str) {
        let open: Vec<_> = self.lock().values().cloned().collect();
        for session in open {
            // Whoever reads nothing is not waited for.
            let _ = session.sender.try_send(&Frame::Goodbye { text: text.to_owned() });
            session.sender.close(text);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Session>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn accept(self: Arc<Self>, listener: Arc<tokio::sync::Mutex<Listener>>, stop: CancellationToken) {
        let mut listener = listener.lock().await;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Some(Ok(link)) => self.begin(link),
                Some(Err(error)) => {
                    self.note_refused(reason(&error), error.to_string());
                    tracing::warn!(%error, "refused a connection");
                }
                None => return,
            }
        }
    }

    fn begin(self: &Arc<Self>, link: InLink) {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let link = Mutex::new(Some(link));
        let (sessions, stop) = (Arc::clone(self), self.supervisor.stop_token().child_token());
        self.supervisor.spawn("session", stop.clone(), move || {
            let link = link.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (sessions, stop) = (Arc::clone(&sessions), stop.clone());
            async move {
                // After a panic there is no link any more, and nothing to begin again: the peer dials anew.
                if let Some(link) = link {
                    sessions.serve(id, link, stop).await;
                }
            }
        });
    }

    async fn serve(&self, id: u64, link: InLink, stop: CancellationToken) {
        let peer = link.peer().clone();
        let (sender, mut receiver) = link.split();
        tracing::info!(region = peer.region, router = peer.router, "a router dialled in");
        let (appliers, flows, unopened) = (Arc::clone(&self.appliers), RwLock::default(), AtomicU64::new(0));
        let session =
            Arc::new(Session { peer, sender, appliers, flows, unopened, told: Mutex::new((Instant::now(), 0)) });
        if !self.enter(id, &session) {
            session.sender.violate(TOO_MANY_LINKS.into());
            return self.note_end(&session.peer, &TOO_MANY_LINKS.into());
        }
        let _end = End { sessions: self, id, session: &session };
        receiver.run_parcels(Arc::clone(&session) as Arc<dyn BatchHandler>);
        let ended = loop {
            let frame = tokio::select! {
                () = stop.cancelled() => break LinkError::Goodbye("this router stops".into()),
                frame = receiver.recv() => frame,
            };
            match frame {
                Ok(Frame::Open(open)) => self.open(&session, open).await,
                Ok(Frame::Close { handle, .. }) => session.forget(handle, true),
                Ok(Frame::Goodbye { text }) => break LinkError::Goodbye(text),
                Ok(_) => {
                    session.sender.violate(WRONG_WAY.into());
                    break WRONG_WAY.into();
                }
                Err(error) => break error,
            }
        };
        self.note_end(&session.peer, &ended);
    }

    /// Takes a session in, unless its router holds too many.
    fn enter(&self, id: u64, session: &Arc<Session>) -> bool {
        let mut open = self.lock();
        let is_same = |other: &&Arc<Session>| {
            (&other.peer.region, &other.peer.router) == (&session.peer.region, &session.peer.router)
        };
        let enters = open.values().filter(is_same).count() < LINKS_MAX;
        if enters {
            open.insert(id, Arc::clone(session));
        }
        enters
    }

    async fn open(&self, session: &Arc<Session>, open: FlowOpen) {
        let (handle, path_epoch) = (open.handle, open.path_epoch);
        if let Some(wait) = self.paces.open(&session.peer.region, &session.peer.router, Instant::now()) {
            self.appliers.metrics().refused_message("open_too_often");
            tokio::time::sleep(wait).await;
        }
        session.unopened.fetch_max(u64::from(handle) + 1, Ordering::Relaxed);
        let opened = match self.admit(session, &open) {
            Ok(()) if self.appliers.is_here(&open) => {
                self.attach(session, open).map_err(|reason| (ResetCode::UnknownRoute, reason))
            }
            Ok(()) => self.let_pass(session, open),
            Err(reason) => Err((ResetCode::UnknownRoute, reason)),
        };
        if let Err((code, reason)) = opened {
            let draining = self.appliers.is_draining();
            if !draining {
                self.appliers.metrics().refused_message("open");
                if session.tells(Instant::now()) {
                    tracing::warn!(region = session.peer.region, reason, "refused a flow");
                }
            }
            let code = if draining { ResetCode::Draining } else { code };
            let frame = reset_frame(handle, path_epoch, code, &reason, ROUTE_RETRY);
            let _ = session.sender.send(frame).await;
        }
    }

    fn admit(&self, session: &Session, open: &FlowOpen) -> Result<(), String> {
        if !self.transit.admits(open, &session.peer.region) {
            return Err(format!("a router of {} may not send what comes from {}", session.peer.region, open.from.0));
        }
        if self.appliers.is_draining() {
            return Err("this router drains".into());
        }
        if session.flows().len() >= FLOWS_MAX {
            return Err(format!("one link carries at most {FLOWS_MAX} flows"));
        }
        if self.appliers.is_here(open) { self.appliers.check_route(open) } else { Ok(()) }
    }

    fn let_pass(&self, session: &Arc<Session>, open: FlowOpen) -> Result<(), (ResetCode, String)> {
        let handle = open.handle;
        session.forget(handle, true);
        let passing = self.transit.pass(open, &session.peer.region, session.sender.clone())?;
        let mut flows = session.flows.write().unwrap_or_else(PoisonError::into_inner);
        flows.insert(handle, Course::Passes(Arc::new(passing)));
        Ok(())
    }

    fn attach(&self, session: &Arc<Session>, open: FlowOpen) -> Result<(), String> {
        let attachment = Attachment::new(self.ids.fetch_add(1, Ordering::Relaxed), &open, session.sender.clone());
        let key = FlowKey { mesh: open.mesh, route: open.route, from: open.from, to: open.to };
        let (owner_epoch, path_epoch, partition) = (open.owner_epoch, open.path_epoch, open.partition);
        let before = session.flows().get(&open.handle).cloned();
        let known = |mailbox: &Arc<Mailbox>| {
            let mut flows = session.flows.write().unwrap_or_else(PoisonError::into_inner);
            flows.insert(open.handle, Course::Ends(Arc::clone(mailbox), attachment.clone()));
        };
        let open_frame =
            |plan| Inbound::Open { attachment: attachment.clone(), owner_epoch, path_epoch, partition, plan };
        let opened = self.appliers.put_open(&key, known, open_frame);
        if opened.is_err() {
            session.forget(open.handle, true);
        }
        // Whoever had this number before, the same flow or another, has it no more.
        if let Some(Course::Ends(mailbox, attachment)) = before {
            let _ = mailbox.put(Inbound::Gone { attachment: attachment.id(), closed: true });
        }
        opened
    }
}

/// Ends a session however its serving ends: its flows hear of it, and it is shown no more.
struct End<'a> {
    sessions: &'a Sessions,
    id: u64,
    session: &'a Session,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.id);
        self.session.forget_all();
    }
}

impl Session {
    fn flows(&self) -> std::sync::RwLockReadGuard<'_, HashMap<u32, Course>> {
        self.flows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more refusal is told.
    fn tells(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(told.0) >= Duration::from_secs(1) {
            *told = (now, 0);
        }
        told.1 += 1;
        told.1 <= REFUSALS_TOLD_MAX
    }

    /// `closed` by its owner, or only cut off.
    fn forget(&self, handle: u32, closed: bool) {
        let gone = self.flows.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        if let Some(Course::Ends(mailbox, attachment)) = gone {
            // A mailbox that takes no more has no flow to tell.
            let _ = mailbox.put(Inbound::Gone { attachment: attachment.id(), closed });
        }
    }

    fn forget_all(&self) {
        let handles: Vec<u32> = self.flows().keys().copied().collect();
        handles.into_iter().for_each(|handle| self.forget(handle, false));
    }
}

impl BatchHandler for Session {
    fn admit(&self, header: &BatchHeader) -> Result<bool, Violation> {
        let charge = match self.flows().get(&header.handle) {
            Some(Course::Ends(_, attachment)) => attachment.charge(header),
            // What its applier granted is not known here; what waits for the next link is bounded.
            Some(Course::Passes(_)) => Charge::Granted,
            None if u64::from(header.handle) >= self.unopened.load(Ordering::Relaxed) => {
                return Err(NEVER_OPENED.into());
            }
            None => Charge::Stale,
        };
        match charge {
            Charge::Granted => Ok(true),
            Charge::Beyond => Err(CREDIT.into()),
            // A router on the way only hands on what an owner elsewhere does; the applier ends that flow alone.
            Charge::BeyondOnTheWay => {
                self.appliers.metrics().refused_message("credit");
                Ok(true)
            }
            // What was under way when a flow was opened again or closed is no fault of anybody.
            Charge::Stale => {
                self.appliers.metrics().refused_message("stale_batch");
                Ok(false)
            }
        }
    }

    fn handle_batch(&self, header: BatchHeader, events: Vec<Event>, _wire_bytes: usize) -> Result<(), Violation> {
        // It may have been closed since it was admitted.
        let (mailbox, attachment) = match self.flows().get(&header.handle) {
            Some(Course::Ends(mailbox, attachment)) => (Arc::clone(mailbox), attachment.id()),
            Some(Course::Passes(_)) | None => return Ok(()),
        };
        let span = Span { prev: header.prev, last: header.last, events: header.count, bytes: header.raw_len };
        let inbound = Inbound::Batch {
            attachment,
            start: header.start,
            incarnation: header.incarnation,
            span,
            batch: Received { events, path_epoch: header.path_epoch, at: SystemTime::now() },
        };
        match mailbox.put(inbound) {
            Ok(()) | Err(Refused::Closed) => Ok(()),
            Err(Refused::Flooded) => Err(FLOODED.into()),
        }
    }

    fn passes(&self, handle: u32) -> bool {
        matches!(self.flows().get(&handle), Some(Course::Passes(_)))
    }

    fn pass_on(&self, header: BatchHeader, batch: Bytes) -> Result<(), Violation> {
        let course = self.flows().get(&header.handle).cloned();
        if let Some(Course::Passes(passing)) = course { passing.take(&header, batch) } else { Ok(()) }
    }
}
