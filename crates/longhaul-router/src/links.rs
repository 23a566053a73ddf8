//! The links of this router: dials every router of the regions it is linked to, for ever, and lets flows use what is up.
//!
//! A link is directional in data: the router of the source region dials, its flows go out over that connection, and acknowledgements
//! come back on its control stream. A name may resolve to many routers; each address has a dialling loop of its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_event::{Position, hash64};
use longhaul_flow::{Credit, ResetCode};
use longhaul_link::{Dialer, LinkError, LinkStats, OutLink, OutSender, WindowHint};
use longhaul_telemetry::{LinkGauges, LinkMetrics, Metrics};
use longhaul_topology::{Class, FlowKey, Guarantee};
use longhaul_wire::{Frame, Hello, Limits};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::back_off::BackOff;
use crate::supervise::Supervisor;

/// How often names are resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
/// Accepts and resets of one flow that may wait for it; a peer that sends more has lost its mind.
const FRAMES_MAX: usize = 16;
/// How long a link must be up before flows that found another way come back to it.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// How long after the start the best neighbour is waited for that no link was up to yet.
const FIRST_LINK_WAIT: Duration = Duration::from_secs(3);
/// Close code of a link whose peer floods a flow.
const FLOODED: u32 = 0x201;

/// A region to hold links to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its name.
    pub region: String,
    /// `host:port` of its routers.
    pub routers: Vec<String>,
    /// Expected bandwidth and round-trip time.
    pub hint: WindowHint,
}

/// A link as people see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkView {
    /// Region of the peer.
    pub region: String,
    /// Address that is dialled.
    pub address: String,
    /// Name of the peer, once it was heard.
    pub router: Option<String>,
    /// Whether it is up.
    pub up: bool,
    /// Smoothed round-trip time in milliseconds.
    pub rtt_ms: f64,
    /// Packets lost since it came up.
    pub lost_packets: u64,
    /// Congestion window in bytes.
    pub window_bytes: u64,
    /// Bytes sent since it came up.
    pub sent_bytes: u64,
    /// Bytes received since it came up.
    pub received_bytes: u64,
    /// Flows that use it.
    pub flows: usize,
    /// How often it came up.
    pub connects: u64,
    /// Why it is down.
    pub error: Option<String>,
}

/// All links of a router.
pub(crate) struct Links {
    dialer: Dialer,
    resolve: BTreeMap<String, String>,
    supervisor: Supervisor,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Counts links that come and go, and changes of the ways.
    changes: watch::Sender<u64>,
    started: Instant,
}

#[derive(Default)]
struct State {
    peers: HashMap<String, (Peer, CancellationToken)>,
    /// Links that are up, by the region that they lead to.
    live: HashMap<String, Vec<Arc<Link>>>,
    /// By destination: the neighbours that lead there, the one to be preferred first.
    ways: HashMap<String, Vec<String>>,
    /// Neighbours that a link was up to, at any time.
    seen: HashSet<String>,
    shown: BTreeMap<(String, SocketAddr), Shown>,
}

#[derive(Default)]
struct Shown {
    /// Ends the loop that dials it.
    dialled_until: CancellationToken,
    link: Option<Arc<Link>>,
    connects: u64,
    error: Option<String>,
}

/// One link that is up.
struct Link {
    peer: Hello,
    sender: OutSender,
    limits: Limits,
    handles: AtomicU32,
    ports: Mutex<HashMap<u32, PortSender>>,
    closed: CancellationToken,
    since: Instant,
}

struct PortSender {
    frames: mpsc::Sender<PortEvent>,
    acks: watch::Sender<Option<PortEvent>>,
}

/// What the applier says to a flow.
#[derive(Debug, Clone)]
pub(crate) enum PortEvent {
    /// It is open.
    Accept { path_epoch: u32, resume: Option<Position>, credit: Credit },
    /// It is durable up to there.
    Ack { path_epoch: u32, durable: u64, credit: Credit },
    /// It must be opened again.
    Reset { path_epoch: u32, code: ResetCode, text: String, retry: Duration },
}

/// A flow's use of a link; ends it when dropped.
pub(crate) struct Port {
    link: Arc<Link>,
    handle: u32,
    frames: mpsc::Receiver<PortEvent>,
    acks: watch::Receiver<Option<PortEvent>>,
}

impl Links {
    /// No links yet.
    #[must_use]
    pub(crate) fn new(
        dialer: Dialer,
        resolve: BTreeMap<String, String>,
        supervisor: Supervisor,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (state, changes) = (Mutex::default(), watch::Sender::new(0));
        Arc::new(Self { dialer, resolve, supervisor, metrics, state, changes, started: Instant::now() })
    }

    /// Holds links to these regions from now on: begins what is new, ends what is gone, leaves alone what is the same.
    pub(crate) fn set_peers(self: &Arc<Self>, peers: Vec<Peer>) {
        let mut state = self.lock();
        let wanted: HashMap<_, _> = peers.into_iter().map(|peer| (peer.region.clone(), peer)).collect();
        state.peers.retain(|region, (peer, stop)| {
            let stays = wanted.get(region) == Some(peer);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (region, peer) in wanted {
            if !state.peers.contains_key(&region) {
                let stop = self.supervisor.stop_token().child_token();
                state.peers.insert(region.clone(), (peer.clone(), stop.clone()));
                let (links, token) = (Arc::clone(self), stop.clone());
                self.supervisor.spawn(&format!("links to {region}"), stop, move || {
                    Arc::clone(&links).follow_names(peer.clone(), token.clone())
                });
            }
        }
    }

    /// Over which neighbours every region is reached from now on, the one to be preferred first.
    pub(crate) fn set_ways(&self, ways: HashMap<String, Vec<String>>) {
        self.lock().ways = ways;
        self.tell();
    }

    /// Tells of links and ways coming and going.
    #[must_use]
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn tell(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Gives a flow the use of a link towards its destination's region, over the best neighbour that has one up and is not to be avoided;
    /// among several routers always the same one for the same flow, as long as it is up.
    #[must_use]
    pub(crate) fn attach(&self, key: &FlowKey, of: Guarantee, avoided: impl Fn(&str) -> bool) -> Option<Port> {
        let state = self.lock();
        let is_live = |hop: &String| state.live.get(hop).is_some_and(|live| live.iter().any(|link| link.is_up()));
        // Right after the start, no way over others is taken only because their link came up first.
        let is_due = |hop: &String| !state.seen.contains(hop) && self.started.elapsed() < FIRST_LINK_WAIT;
        let hop = state.ways.get(&key.to.0)?.iter().filter(|hop| !avoided(hop));
        let hop = hop.into_iter().find(|hop| is_live(hop) || is_due(hop)).filter(|hop| is_live(hop))?.clone();
        drop(state);
        self.attach_over(&hop, key, of)
    }

    /// The same over that neighbour and no other.
    #[must_use]
    pub(crate) fn attach_over(&self, hop: &str, key: &FlowKey, of: Guarantee) -> Option<Port> {
        // Flows that are written effectively once share locks at the destination by buckets: a bucket must not have two routers.
        let spread = match of {
            Guarantee::EffectivelyOnce => key.id().bucket() as u128,
            Guarantee::AtLeastOnce | Guarantee::AtMostOnce => key.id().0,
        };
        let rank = |link: &&Arc<Link>| hash64(format!("{} {spread:032x}", link.peer.router).as_bytes());
        let link = {
            let state = self.lock();
            Arc::clone(state.live.get(hop)?.iter().filter(|link| link.is_up()).max_by_key(rank)?)
        };
        let handle = link.handles.fetch_add(1, Ordering::Relaxed);
        let ((frames, frames_in), (acks, acks_in)) = (mpsc::channel(FRAMES_MAX), watch::channel(None));
        link.ports().insert(handle, PortSender { frames, acks });
        Some(Port { link, handle, frames: frames_in, acks: acks_in })
    }

    /// Whether a flow that goes over `hop` has a better way by now: one that comes before it, and has been up for a while, so that a link
    /// that flaps does not take flows along.
    #[must_use]
    pub(crate) fn has_better(&self, to: &str, hop: &str, avoided: impl Fn(&str) -> bool) -> bool {
        let state = self.lock();
        let settled = |hop: &String| {
            let live = state.live.get(hop).map_or(&[][..], Vec::as_slice);
            live.iter().any(|link| link.is_up() && link.since.elapsed() >= SETTLED_AFTER)
        };
        let ways = state.ways.get(to).map_or(&[][..], Vec::as_slice);
        ways.iter().take_while(|better| *better != hop).any(|better| !avoided(better) && settled(better))
    }

    /// All links as people see them.
    #[must_use]
    pub(crate) fn view(&self) -> Vec<LinkView> {
        self.lock().shown.iter().map(|((region, address), shown)| shown.view(region, *address)).collect()
    }

    /// Says goodbye on every link and closes it.
    pub(crate) async fn close(&self, text: &str) {
        let live: Vec<_> = self.lock().shown.values().filter_map(|shown| shown.link.clone()).collect();
        for link in live {
            let _ = link.sender.send(Frame::Goodbye { text: text.to_owned() }).await;
            link.sender.close(text);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps one dialling loop for every address that the names of a region resolve to.
    async fn follow_names(self: Arc<Self>, peer: Peer, stop: CancellationToken) {
        let mut dialled: HashMap<SocketAddr, CancellationToken> = HashMap::new();
        let mut told = None;
        loop {
            let (found, failed) = self.resolve_all(&peer.routers).await;
            if failed != told {
                if let Some(error) = &failed {
                    tracing::warn!(region = peer.region, %error, "cannot resolve a router's name");
                }
                told = failed;
            }
            if !found.is_empty() {
                dialled.retain(|address, stop| {
                    found.contains(address) || {
                        stop.cancel();
                        false
                    }
                });
            }
            for address in found {
                dialled.entry(address).or_insert_with(|| self.start_dialling(&peer, address, &stop));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RESOLVE_EVERY) => {}
            }
        }
    }

    async fn resolve_all(&self, names: &[String]) -> (HashSet<SocketAddr>, Option<String>) {
        let (mut found, mut failed) = (HashSet::new(), None);
        for name in names {
            let name = self.resolve.get(name).unwrap_or(name);
            match tokio::net::lookup_host(name).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => failed = Some(format!("{name}: {error}")),
            }
        }
        (found, failed)
    }

    fn start_dialling(
        self: &Arc<Self>,
        peer: &Peer,
        address: SocketAddr,
        stop: &CancellationToken,
    ) -> CancellationToken {
        let stop = stop.child_token();
        let (links, peer, token) = (Arc::clone(self), peer.clone(), stop.clone());
        let shown = Shown { dialled_until: stop.clone(), ..Shown::default() };
        self.lock().shown.insert((peer.region.clone(), address), shown);
        self.supervisor.spawn(&format!("link to {} at {address}", peer.region), stop.clone(), move || {
            Arc::clone(&links).dial_for_ever(peer.clone(), address, token.clone())
        });
        stop
    }

    async fn dial_for_ever(self: Arc<Self>, peer: Peer, address: SocketAddr, stop: CancellationToken) {
        let mut back_off = BackOff::new(Duration::from_millis(100), Duration::from_secs(10));
        let metrics = self.metrics.link(&peer.region, &address.to_string());
        loop {
            let lived = tokio::select! {
                () = stop.cancelled() => break,
                lived = self.dial_once(&peer, address, &metrics) => lived,
            };
            if lived {
                back_off.reset();
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(back_off.next()) => {}
            }
        }
        // A changed region is dialled anew at once, and then this is another's.
        let mut state = self.lock();
        let shown = (peer.region, address);
        if state.shown.get(&shown).is_some_and(|shown| shown.dialled_until.is_cancelled()) {
            state.shown.remove(&shown);
            metrics.remove();
        }
    }

    /// Dials and serves the link until it ends. Returns whether it was up.
    async fn dial_once(&self, peer: &Peer, address: SocketAddr, metrics: &LinkMetrics) -> bool {
        let result = match self.dialer.dial(address, &peer.region, peer.hint).await {
            Ok(out) => {
                metrics.connected();
                let ended = self.serve(peer, address, out, metrics).await;
                (true, ended)
            }
            Err(error) => (false, error),
        };
        let (was_up, error) = result;
        metrics.down();
        let text = error.to_string();
        let mut state = self.lock();
        let shown = state.shown.entry((peer.region.clone(), address)).or_default();
        if was_up || shown.error.as_deref() != Some(&text) {
            tracing::warn!(region = peer.region, %address, error = text, was_up, "a link is down; dialling again");
        }
        (shown.error, shown.link) = (Some(text), None);
        was_up
    }

    async fn serve(&self, peer: &Peer, address: SocketAddr, out: OutLink, metrics: &LinkMetrics) -> LinkError {
        let limits = out.limits();
        let hello = out.peer().clone();
        let (sender, mut receiver) = out.split();
        tracing::info!(region = peer.region, router = hello.router, %address, "a link is up");
        let link = Arc::new(Link {
            peer: hello,
            sender,
            limits,
            handles: AtomicU32::new(1),
            ports: Mutex::new(HashMap::new()),
            closed: CancellationToken::new(),
            since: Instant::now(),
        });
        self.publish(peer, address, &link);
        let _unpublish = Unpublish { links: self, region: &peer.region, link: &link };
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                frame = receiver.recv() => match frame {
                    Ok(frame) => if let Err(error) = link.dispatch(frame) {
                        link.sender.close(&error.to_string());
                        return error;
                    },
                    Err(error) => return error,
                },
                _ = tick.tick() => metrics.show(gauges(&link.sender.stats())),
            }
        }
    }

    fn publish(&self, peer: &Peer, address: SocketAddr, link: &Arc<Link>) {
        let mut state = self.lock();
        let shown = state.shown.entry((peer.region.clone(), address)).or_default();
        shown.connects += 1;
        (shown.error, shown.link) = (None, Some(Arc::clone(link)));
        state.seen.insert(peer.region.clone());
        state.live.entry(peer.region.clone()).or_default().push(Arc::clone(link));
        drop(state);
        self.tell();
    }
}

fn gauges(stats: &LinkStats) -> LinkGauges {
    LinkGauges {
        rtt_seconds: stats.rtt.as_secs_f64(),
        lost_packets: stats.lost_packets,
        window_bytes: stats.cwnd,
        in_flight_bytes: stats.in_flight,
        sent_bytes: stats.bytes_sent,
        received_bytes: stats.bytes_received,
    }
}

/// Takes a link out of use however its serving ends.
struct Unpublish<'a> {
    links: &'a Links,
    region: &'a str,
    link: &'a Arc<Link>,
}

impl Drop for Unpublish<'_> {
    fn drop(&mut self) {
        self.link.closed.cancel();
        self.link.ports().clear();
        let mut state = self.links.lock();
        for shown in state
            .shown
            .values_mut()
            .filter(|shown| shown.link.as_ref().is_some_and(|link| Arc::ptr_eq(link, self.link)))
        {
            shown.link = None;
        }
        if let Some(live) = state.live.get_mut(self.region) {
            live.retain(|link| !Arc::ptr_eq(link, self.link));
        }
        drop(state);
        self.links.tell();
    }
}

impl Link {
    fn is_up(&self) -> bool {
        !self.closed.is_cancelled()
    }

    fn ports(&self) -> MutexGuard<'_, HashMap<u32, PortSender>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a frame on to its flow. Never waits.
    fn dispatch(&self, frame: Frame) -> Result<(), LinkError> {
        let (handle, event) = match frame {
            Frame::Accept { handle, path_epoch, resume, events_limit, bytes_limit } => {
                (handle, PortEvent::Accept { path_epoch, resume, credit: Credit { events_limit, bytes_limit } })
            }
            Frame::Ack { handle, path_epoch, durable, events_limit, bytes_limit } => {
                (handle, PortEvent::Ack { path_epoch, durable, credit: Credit { events_limit, bytes_limit } })
            }
            Frame::Reset { handle, path_epoch, code, text, retry_ms } => {
                let code = ResetCode::ALL.get(usize::from(code)).copied().unwrap_or(ResetCode::BadChain);
                let retry = Duration::from_millis(u64::from(retry_ms));
                (handle, PortEvent::Reset { path_epoch, code, text, retry })
            }
            Frame::Goodbye { text } => return Err(LinkError::Goodbye(text)),
            _ => return Ok(()),
        };
        let ports = self.ports();
        let Some(port) = ports.get(&handle) else { return Ok(()) };
        if let PortEvent::Ack { .. } = event {
            port.acks.send_replace(Some(event));
            return Ok(());
        }
        match port.frames.try_send(event) {
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(LinkError::Protocol { code: FLOODED, text: "a flow is flooded with answers".into() })
            }
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }
}

impl Port {
    /// The flow's number on this link.
    #[must_use]
    pub(crate) fn handle(&self) -> u32 {
        self.handle
    }

    /// The region that the link leads to.
    #[must_use]
    pub(crate) fn hop(&self) -> &str {
        &self.link.peer.region
    }

    /// What the peer takes.
    #[must_use]
    pub(crate) fn limits(&self) -> &Limits {
        &self.link.limits
    }

    /// Whether the link is gone.
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        self.link.closed.is_cancelled()
    }

    /// Sends a control frame. One that cannot be sent means that the link is gone, which shows by itself.
    pub(crate) async fn send(&self, frame: Frame) {
        let _ = self.link.sender.send(frame).await;
    }

    /// Queues a batch; resolves when there is room for it.
    pub(crate) fn submit(&self, class: Class, batch: Bytes) -> BoxFuture<'static, ()> {
        let (link, handle) = (Arc::clone(&self.link), self.handle);
        async move {
            // A link that is gone takes nothing; the flow notices by its token.
            let _ = link.sender.submit(handle, class, batch).await;
        }
        .boxed()
    }

    /// Throws away what is queued and not yet sent.
    pub(crate) fn cancel(&self) {
        self.link.sender.cancel(self.handle);
    }

    /// What the applier says next; `None` when the link is gone.
    pub(crate) async fn event(&mut self) -> Option<PortEvent> {
        tokio::select! {
            biased;
            event = self.frames.recv() => event,
            Ok(()) = self.acks.changed() => self.acks.borrow_and_update().clone(),
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.link.ports().remove(&self.handle);
        self.link.sender.cancel(self.handle);
    }
}

impl Shown {
    fn view(&self, region: &str, address: SocketAddr) -> LinkView {
        let stats = self.link.as_ref().map(|link| link.sender.stats()).unwrap_or_default();
        LinkView {
            region: region.to_owned(),
            address: address.to_string(),
            router: self.link.as_ref().map(|link| link.peer.router.clone()),
            up: self.link.is_some(),
            rtt_ms: stats.rtt.as_secs_f64() * 1000.0,
            lost_packets: stats.lost_packets,
            window_bytes: stats.cwnd,
            sent_bytes: stats.bytes_sent,
            received_bytes: stats.bytes_received,
            flows: self.link.as_ref().map_or(0, |link| link.ports().len()),
            connects: self.connects,
            error: self.error.clone(),
        }
    }
}
