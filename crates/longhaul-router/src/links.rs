//! The links of this router: dials every router of the regions it is linked to, for ever, and lets flows use what is up.
//!
//! A link is directional in data: the router of the source region dials, its flows go out over that connection, and acknowledgements
//! come back on its control stream. A name may resolve to many routers; each address has a dialling loop of its own.
//!
//! A link lives no longer than the certificates with which it was made, so it is made anew in good time: when this router has another
//! certificate, and before that of the peer runs out. The new link is up before the old one goes, and flows only change over.

mod port;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_event::hash64;
use longhaul_link::{Dialer, FrameReceiver, LinkError, LinkStats, OutLink, WindowHint};
use longhaul_telemetry::{LinkGauges, LinkMetrics, Metrics};
use longhaul_topology::{FlowKey, Guarantee};
use longhaul_wire::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::port::{Link, PortSender};
pub(crate) use self::port::{Port, PortEvent};
use crate::back_off::BackOff;
use crate::misdeeds::reason;
use crate::renewal::Renewal;
use crate::supervise::Supervisor;
use crate::waiting::wait_for;

/// How often names are resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
/// Accepts and resets of one flow that may wait for it; a peer that sends more has lost its mind.
const FRAMES_MAX: usize = 16;
/// How long a link must be up before flows that found another way come back to it.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// How long after the start the best neighbour is waited for that no link was up to yet.
const FIRST_LINK_WAIT: Duration = Duration::from_secs(3);

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
    /// Packets sent since it came up.
    pub sent_packets: u64,
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
        let link = {
            let state = self.lock();
            let up = state.live.get(hop)?.iter().filter(|link| link.is_up());
            Arc::clone(up.max_by_key(|link| rank(&link.peer.router, key, of))?)
        };
        let handle = link.handles.fetch_add(1, Ordering::Relaxed);
        let ((frames, frames_in), (acks, acks_in)) = (mpsc::channel(FRAMES_MAX), watch::channel(None));
        link.ports().insert(handle, PortSender { frames, acks });
        Some(Port { link, handle, frames: frames_in, acks: acks_in })
    }

    /// Whether a flow has a better way by now than the one it takes: over a neighbour that comes before it, or to the router of the same
    /// region that everybody else takes for that flow. It has been up for a while, so that a link that flaps does not take flows along.
    #[must_use]
    pub(crate) fn has_better(&self, key: &FlowKey, of: Guarantee, port: &Port, avoided: impl Fn(&str) -> bool) -> bool {
        let state = self.lock();
        let settled = |hop: &str| {
            let live = state.live.get(hop).map_or(&[][..], Vec::as_slice);
            live.iter().filter(|link| link.is_up() && link.since.elapsed() >= SETTLED_AFTER)
        };
        let own = rank(&port.link.peer.router, key, of);
        if settled(port.hop()).any(|link| rank(&link.peer.router, key, of) > own) {
            return true;
        }
        let ways = state.ways.get(&key.to.0).map_or(&[][..], Vec::as_slice);
        let mut better = ways.iter().take_while(|better| *better != port.hop());
        better.any(|better| !avoided(better) && settled(better).next().is_some())
    }

    /// Whether there is more than one link to a region.
    #[must_use]
    pub(crate) fn has_many(&self, region: &str) -> bool {
        self.lock().live.get(region).is_some_and(|live| live.len() > 1)
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

    /// Dials and serves the link, and the links that renew it, until it ends. Returns whether it was up.
    async fn dial_once(&self, peer: &Peer, address: SocketAddr, metrics: &LinkMetrics) -> bool {
        let (was_up, error) = match self.dialer.dial(address, &peer.region, peer.hint).await {
            Ok(out) => {
                metrics.connected();
                (true, self.serve_renewed(peer, address, out, metrics).await)
            }
            Err(error) => (false, error),
        };
        // Found wanting by this router, not merely lost.
        if let LinkError::Protocol { .. } | LinkError::Certificate(_) | LinkError::Hello(_) | LinkError::Expired =
            error.cause()
        {
            self.metrics.refused_connection(reason(&error));
        }
        metrics.down();
        let text = error.to_string();
        let mut state = self.lock();
        let shown = state.shown.entry((peer.region.clone(), address)).or_default();
        if was_up || shown.error.as_deref() != Some(&text) {
            tracing::warn!(region = peer.region, %address, error = text, was_up, "a link is down; dialling again");
        }
        (shown.error, shown.link) = (Some(text), None);
        // Whoever broke the protocol is not dialled again at once, however long it was up.
        was_up && !matches!(error.cause(), LinkError::Protocol { .. })
    }

    /// Serves a link and whatever comes in its place, until there is no link.
    async fn serve_renewed(&self, peer: &Peer, address: SocketAddr, out: OutLink, metrics: &LinkMetrics) -> LinkError {
        let mut up = self.bring_up(peer, address, out, None);
        loop {
            match self.serve(peer, address, &mut up, metrics).await {
                Err(ended) => return ended,
                Ok(renewed) => {
                    // The new one can be found before the old one cannot.
                    let renewed = self.bring_up(peer, address, renewed, Some(up.published.link.since));
                    let old = std::mem::replace(&mut up, renewed);
                    old.retire();
                }
            }
        }
    }

    /// Makes a link usable; `since` is when the one came up in whose place it comes.
    fn bring_up<'a>(&'a self, peer: &'a Peer, address: SocketAddr, out: OutLink, since: Option<Instant>) -> Up<'a> {
        let limits = out.limits();
        let hello = out.peer().clone();
        let renewal = Renewal::of(out.peer_expiry(), self.dialer.identity());
        let (sender, receiver) = out.split();
        let first = since.is_none();
        let what = if first { "a link is up" } else { "a link was renewed" };
        tracing::info!(region = peer.region, router = hello.router, %address, "{what}");
        let link = Arc::new(Link {
            peer: hello,
            sender,
            limits,
            handles: AtomicU32::new(1),
            ports: Mutex::new(HashMap::new()),
            closed: CancellationToken::new(),
            since: since.unwrap_or_else(Instant::now),
        });
        self.publish(peer, address, &link, first);
        Up { receiver, renewal, published: Published { links: self, region: &peer.region, link } }
    }

    /// Serves a link until it ends, or until there is another in its place.
    async fn serve(
        &self,
        peer: &Peer,
        address: SocketAddr,
        up: &mut Up<'_>,
        metrics: &LinkMetrics,
    ) -> Result<OutLink, LinkError> {
        let link = Arc::clone(&up.published.link);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut dialling: Option<BoxFuture<'_, Result<OutLink, LinkError>>> = None;
        loop {
            tokio::select! {
                frame = up.receiver.recv() => if let Err(error) = frame.and_then(|frame| link.dispatch(frame)) {
                    link.end(&error);
                    return Err(error);
                },
                _ = tick.tick() => {
                    metrics.show(gauges(&link.sender.stats()));
                    if dialling.is_none() && up.renewal.is_due(SystemTime::now()) {
                        dialling = Some(self.dialer.dial(address, &peer.region, peer.hint).boxed());
                    }
                }
                () = up.renewal.identity.changed() => up.renewal.identity_changed(),
                dialled = wait_for(&mut dialling), if dialling.is_some() => {
                    dialling = None;
                    match dialled {
                        Ok(out) if up.renewal.is_worth(out.peer_expiry()) => return Ok(out),
                        Ok(same) => same.close("the certificate is still the same"),
                        Err(error) => tracing::warn!(region = peer.region, %address, %error, "cannot renew a link; it stands as it is"),
                    }
                    up.renewal.put_off(SystemTime::now());
                }
            }
        }
    }

    fn publish(&self, peer: &Peer, address: SocketAddr, link: &Arc<Link>, first: bool) {
        let mut state = self.lock();
        let shown = state.shown.entry((peer.region.clone(), address)).or_default();
        shown.connects += u64::from(first);
        (shown.error, shown.link) = (None, Some(Arc::clone(link)));
        state.seen.insert(peer.region.clone());
        state.live.entry(peer.region.clone()).or_default().push(Arc::clone(link));
        drop(state);
        self.tell();
    }
}

/// Which of several routers takes a flow: the one of the highest rank (rendezvous hashing, Thaler and Ravishankar 1998). Flows that are
/// written effectively once share locks at the destination by buckets, and a bucket should not have two routers.
fn rank(router: &str, key: &FlowKey, of: Guarantee) -> u64 {
    let spread = match of {
        Guarantee::EffectivelyOnce => key.id().bucket() as u128,
        Guarantee::AtLeastOnce | Guarantee::AtMostOnce => key.id().0,
    };
    hash64(format!("{router} {spread:032x}").as_bytes())
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

/// A link that flows can use, and when it must be made anew.
struct Up<'a> {
    receiver: FrameReceiver,
    renewal: Renewal,
    published: Published<'a>,
}

impl Up<'_> {
    /// Gives the link up: its flows have found another when they hear of it.
    fn retire(self) {
        let link = Arc::clone(&self.published.link);
        drop(self.published);
        let text = "this link was renewed";
        // A peer that has no room for it sees the close.
        let _ = link.sender.try_send(&Frame::Goodbye { text: text.to_owned() });
        link.sender.close(text);
    }
}

/// Takes a link out of use however its serving ends.
struct Published<'a> {
    links: &'a Links,
    region: &'a str,
    link: Arc<Link>,
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        self.link.closed.cancel();
        self.link.ports().clear();
        let mut state = self.links.lock();
        for shown in state
            .shown
            .values_mut()
            .filter(|shown| shown.link.as_ref().is_some_and(|link| Arc::ptr_eq(link, &self.link)))
        {
            shown.link = None;
        }
        if let Some(live) = state.live.get_mut(self.region) {
            live.retain(|link| !Arc::ptr_eq(link, &self.link));
        }
        drop(state);
        self.links.tell();
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
            sent_packets: stats.sent_packets,
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
