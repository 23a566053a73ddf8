//! Where a flow stands, at its owning end and at its applying end: written per batch, read by people and by metrics.
//!
//! Plain atomics and one small lock for the text of the last fault; no history.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longhaul_broker::Poison;
use longhaul_event::{Event, FlowId};
use longhaul_flow::{Applier, ApplierState, Owner, OwnerState, ResetCode};
use longhaul_route::Refusal;
use longhaul_telemetry::{InflowMetrics, OutflowMetrics};
use longhaul_topology::FlowKey;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::audit::AuditView;
use crate::progress::Progress;

/// Gaps of a flow that are shown.
const GAPS_SHOWN_MAX: usize = 16;
/// A number that nobody has said yet.
const UNKNOWN: u64 = u64::MAX;

/// Which end of a flow this router has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// It reads the shard.
    Out,
    /// It writes the destination.
    In,
}

/// What a flow is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Phase {
    /// No link to the destination.
    Waiting,
    /// Asking the destination for its cursor, or the source for a reader.
    Opening,
    /// Events move, or would.
    Streaming,
    /// Something is wrong; it is tried again.
    Faulted,
    /// Ended.
    Stopped,
}

/// A flow as people see it. Positions are offsets of the shard; `None` is not known yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FlowView {
    /// Identity.
    pub id: String,
    /// Which end.
    pub end: End,
    /// Route.
    pub route: String,
    /// `region/broker`.
    pub from: String,
    /// Shard at the source.
    pub shard: String,
    /// `region/broker`.
    pub to: String,
    /// What it is doing.
    pub phase: Phase,
    /// Whether it reads by itself because it fell behind the ring.
    pub detached: bool,
    /// The region that its link leads to (out): another than the destination's when it passes through.
    pub hop: Option<String>,
    /// Events looked at (out) or received (in).
    pub read_events: u64,
    /// Events sent (out).
    pub sent_events: u64,
    /// Events confirmed by the destination broker (in).
    pub delivered_events: u64,
    /// Events that the route does not take, by reason (out), or that were left out by policy (in).
    pub refused_events: u64,
    /// Last offset sent (out) or written (in).
    pub position: Option<u64>,
    /// Last durable offset.
    pub durable: Option<u64>,
    /// Offset of the newest event of the shard.
    pub end_offset: Option<u64>,
    /// Events between the durable offset and the newest.
    pub lag_events: Option<u64>,
    /// Seconds since everything that the shard had was durable at the destination; 0 while it is.
    pub lag_seconds: f64,
    /// Seconds since its durable position moved or it had everything that the shard had.
    pub idle_seconds: f64,
    /// Whether it does not move though its shard has more.
    pub stalled: bool,
    /// Age of the oldest event that was sent and is not acknowledged, in seconds.
    pub unacknowledged_seconds: f64,
    /// For how long credit has been used up, in seconds.
    pub credit_exhausted_seconds: f64,
    /// How often it was reset by the destination.
    pub resets: u64,
    /// What was wrong last, while it is.
    pub fault: Option<String>,
    /// What has become of every event since this router opened the flow.
    pub audit: AuditView,
    /// Whether the audit accounts for every event.
    pub audit_balanced: bool,
    /// Where events were missing at the source: the last ones, oldest first (out).
    pub gaps: Vec<GapView>,
}

impl FlowView {
    /// What it is doing, in a word for people: its phase, or that it is stalled.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.phase {
            _ if self.stalled => "stalled",
            Phase::Waiting => "waiting",
            Phase::Opening => "opening",
            Phase::Streaming => "streaming",
            Phase::Faulted => "faulted",
            Phase::Stopped => "stopped",
        }
    }
}

/// Events that are missing at the source, and what the flow did about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapView {
    /// When it was found, seconds since the Unix epoch.
    pub at: u64,
    /// `purged`, `recreated` or `truncated`.
    pub reason: String,
    /// The first offset that is concerned.
    pub from: u64,
    /// The first offset behind it.
    pub to: u64,
    /// How many events are known to be missing.
    pub events: u64,
    /// The same in words.
    pub text: String,
    /// Whether the flow went on behind it; else it is halted before it.
    pub passed: bool,
}

/// Shared by both ends: identity, phase and fault.
#[derive(Debug)]
struct Common {
    key: FlowKey,
    id: FlowId,
    name: String,
    phase: AtomicU8,
    fault: Mutex<Option<String>>,
}

/// The owning end.
pub(crate) struct FlowStatus {
    common: Common,
    metrics: OutflowMetrics,
    detached: AtomicBool,
    hop: Mutex<Option<String>>,
    read: AtomicU64,
    sent: AtomicU64,
    refused: AtomicU64,
    position: AtomicU64,
    durable: AtomicU64,
    unacked_ms: AtomicU64,
    exhausted_ms: AtomicU64,
    /// How much of it the metric has.
    without_credit_ms: AtomicU64,
    progress: Mutex<Progress>,
    begin_again: Notify,
    resets: AtomicU64,
    audit: Mutex<AuditView>,
    gaps: Mutex<VecDeque<GapView>>,
}

/// The applying end.
pub(crate) struct InflowStatus {
    common: Common,
    metrics: InflowMetrics,
    received: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
    stale: AtomicU64,
    position: AtomicU64,
    durable: AtomicU64,
    newest_ms: AtomicU64,
    audit: Mutex<AuditView>,
}

impl Common {
    fn new(key: FlowKey) -> Self {
        let id = key.id();
        let name = format!("{}: {}/{}/{} -> {}/{}", key.route, key.from.0, key.from.1, key.from.2, key.to.0, key.to.1);
        let phase = AtomicU8::new(Phase::Waiting as u8);
        Self { key, id, name, phase, fault: Mutex::new(None) }
    }

    fn set_fault(&self, text: &str) -> bool {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = fault.as_deref() != Some(text);
        *fault = Some(text.to_owned());
        is_new
    }

    fn clear_fault(&self) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn phase(&self) -> Phase {
        const PHASES: [Phase; 5] = [Phase::Waiting, Phase::Opening, Phase::Streaming, Phase::Faulted, Phase::Stopped];
        PHASES[usize::from(self.phase.load(Relaxed)).min(PHASES.len() - 1)]
    }

    fn view(&self, end: End) -> FlowView {
        let key = &self.key;
        FlowView {
            id: self.id.to_string(),
            end,
            route: key.route.clone(),
            from: format!("{}/{}", key.from.0, key.from.1),
            shard: key.from.2.clone(),
            to: format!("{}/{}", key.to.0, key.to.1),
            phase: self.phase(),
            detached: false,
            hop: None,
            read_events: 0,
            sent_events: 0,
            delivered_events: 0,
            refused_events: 0,
            position: None,
            durable: None,
            end_offset: None,
            lag_events: None,
            lag_seconds: 0.0,
            idle_seconds: 0.0,
            stalled: false,
            unacknowledged_seconds: 0.0,
            credit_exhausted_seconds: 0.0,
            resets: 0,
            fault: self.fault(),
            audit: AuditView::default(),
            audit_balanced: true,
            gaps: Vec::new(),
        }
    }
}

macro_rules! common_methods {
    ($($status:ident),*) => {$(
        impl $status {
            /// The flow in one line, for logs.
            #[must_use]
            pub(crate) fn name(&self) -> &str {
                &self.common.name
            }

            /// Remembers what a broker says is wrong. Returns whether it is another fault than before: counted by reason, and worth a log line.
            pub(crate) fn broker_fault(&self, text: &str, reason: &'static str) -> bool {
                let is_new = self.common.set_fault(text);
                if is_new {
                    self.metrics.faulted(reason);
                }
                is_new
            }

            /// Nothing is wrong any more.
            pub(crate) fn clear_fault(&self) {
                self.common.clear_fault();
            }

            /// Says what the flow is doing.
            pub(crate) fn set_phase(&self, phase: Phase) {
                self.common.phase.store(phase as u8, Relaxed);
            }

            /// What the flow is doing.
            #[must_use]
            pub(crate) fn phase(&self) -> Phase {
                self.common.phase()
            }
        }
    )*};
}
common_methods!(FlowStatus, InflowStatus);

impl FlowStatus {
    /// Of a flow that has done nothing yet.
    #[must_use]
    pub(crate) fn new(key: FlowKey, metrics: OutflowMetrics) -> Self {
        Self {
            common: Common::new(key),
            metrics,
            detached: AtomicBool::new(false),
            hop: Mutex::default(),
            read: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            position: AtomicU64::new(UNKNOWN),
            durable: AtomicU64::new(UNKNOWN),
            unacked_ms: AtomicU64::new(0),
            exhausted_ms: AtomicU64::new(0),
            without_credit_ms: AtomicU64::new(0),
            progress: Mutex::new(Progress::new(Instant::now())),
            begin_again: Notify::new(),
            resets: AtomicU64::new(0),
            audit: Mutex::default(),
            gaps: Mutex::default(),
        }
    }

    /// Remembers what the other end says is wrong. Returns whether it is another fault than before, worth a log line.
    pub(crate) fn set_fault(&self, text: &str) -> bool {
        self.common.set_fault(text)
    }

    /// Events are missing at the source. A gap that is found again is the same gap; returns whether it is another one.
    pub(crate) fn gap(&self, gap: GapView) -> bool {
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |known: &&mut GapView| {
            (&known.reason, known.from) == (&gap.reason, gap.from) && (known.text == gap.text || gap.events > 0)
        };
        let known = gaps.iter_mut().find(is_same);
        let is_new = known.is_none();
        if is_new {
            self.metrics.gap(&gap.reason);
        }
        if gap.passed {
            let counted = known.as_ref().filter(|known| known.passed).map_or(0, |known| known.events);
            self.metrics.missing(&gap.reason, gap.events.saturating_sub(counted));
        }
        match known {
            // Retention goes on while a flow is halted.
            Some(known) => *known = GapView { at: known.at, ..gap },
            None => {
                if gaps.len() == GAPS_SHOWN_MAX {
                    gaps.pop_front();
                }
                gaps.push_back(gap);
            }
        }
        is_new
    }

    /// Events were looked at.
    pub(crate) fn read(&self, events: u64, bytes: u64) {
        self.read.fetch_add(events, Relaxed);
        self.metrics.read(events, bytes);
    }

    /// Events are not taken, for that reason.
    pub(crate) fn refuse(&self, refusal: Refusal, events: u64) {
        self.refused.fetch_add(events, Relaxed);
        self.metrics.refused(refusal.as_str(), events);
    }

    /// A batch was sent.
    pub(crate) fn sent(&self, events: u32, bytes: u32) {
        self.sent.fetch_add(u64::from(events), Relaxed);
        self.metrics.sent(u64::from(events), u64::from(bytes));
    }

    /// The flow's shard came to this router, or left it.
    pub(crate) fn moved(&self, how: &str) {
        self.metrics.moved(how);
    }

    /// The destination reset the flow.
    pub(crate) fn reset(&self, code: ResetCode) {
        self.resets.fetch_add(1, Relaxed);
        self.metrics.reset(code.as_str());
    }

    /// Waits until it is found to be stalled, and is to begin again.
    pub(crate) async fn stalled(&self) {
        self.begin_again.notified().await;
    }

    /// It was stalled, and begins again.
    pub(crate) fn begun_again(&self) {
        self.metrics.begun_again();
    }

    /// Whether it reads by itself.
    pub(crate) fn set_detached(&self, detached: bool) {
        self.detached.store(detached, Relaxed);
    }

    /// Which neighbour it goes over.
    pub(crate) fn set_hop(&self, hop: &str) {
        *self.hop.lock().unwrap_or_else(PoisonError::into_inner) = Some(hop.to_owned());
    }

    /// Takes over what the state machine says.
    pub(crate) fn show(&self, owner: &Owner, now: Duration, audit: AuditView) {
        *self.audit.lock().unwrap_or_else(PoisonError::into_inner) = audit;
        let age_ms = |since: Option<Duration>| {
            let age = since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
            u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
        };
        self.set_phase(match owner.state() {
            OwnerState::Idle => Phase::Waiting,
            // A flow is open from end to end once its destination has durably noted where it stands.
            OwnerState::Streaming if owner.acked().is_some() => Phase::Streaming,
            OwnerState::Opening | OwnerState::Seeking | OwnerState::Streaming => Phase::Opening,
            OwnerState::Faulted => Phase::Faulted,
        });
        self.position.store(owner.sent().map_or(UNKNOWN, |sent| sent.offset), Relaxed);
        self.durable.store(owner.acked().map_or(UNKNOWN, |acked| acked.offset), Relaxed);
        self.unacked_ms.store(age_ms(owner.oldest_unacked_since()), Relaxed);
        self.exhausted_ms.store(age_ms(owner.credit_exhausted_since()), Relaxed);
        self.count_without_credit(owner.credit_exhausted_total(now));
    }

    /// Counts time without credit in steps, so that the metric is not looked up at every turn.
    fn count_without_credit(&self, total: Duration) {
        const STEP_MS: u64 = 100;
        let total_ms = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
        let counted_ms = self.without_credit_ms.load(Relaxed);
        if total_ms >= counted_ms + STEP_MS {
            self.without_credit_ms.store(total_ms, Relaxed);
            self.metrics.without_credit(Duration::from_millis(total_ms - counted_ms));
        }
    }

    /// The flow as people see it, beside what its shard says: the offset of its newest event, and why it cannot be read. Looked at once a second, which is how exact the
    /// seconds of lag are. Holes of the log count as events.
    #[must_use]
    pub(crate) fn view(&self, shard_end: Option<u64>, shard_error: Option<String>) -> FlowView {
        let next = |offset: u64| offset.wrapping_add(1);
        let lag_events = shard_end.map(|end| next(end).saturating_sub(next(self.durable.load(Relaxed))));
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let look = progress.look(Instant::now(), known(&self.durable), lag_events, self.unacked_ms.load(Relaxed) > 0);
        if look.begin_again {
            self.begin_again.notify_one();
        }
        let common = self.common.view(End::Out);
        let audit = *self.audit.lock().unwrap_or_else(PoisonError::into_inner);
        FlowView {
            fault: common.fault.clone().or(shard_error),
            detached: self.detached.load(Relaxed),
            hop: self.hop.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            read_events: self.read.load(Relaxed),
            sent_events: self.sent.load(Relaxed),
            refused_events: self.refused.load(Relaxed),
            position: known(&self.position),
            durable: known(&self.durable),
            end_offset: shard_end,
            lag_events,
            lag_seconds: look.lag.as_secs_f64(),
            idle_seconds: look.idle.as_secs_f64(),
            stalled: look.stalled,
            unacknowledged_seconds: seconds(&self.unacked_ms),
            credit_exhausted_seconds: seconds(&self.exhausted_ms),
            resets: self.resets.load(Relaxed),
            audit,
            audit_balanced: audit.is_balanced(),
            gaps: self.gaps.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect(),
            ..common
        }
    }
}

impl InflowStatus {
    /// Of a flow that has done nothing yet.
    #[must_use]
    pub(crate) fn new(key: FlowKey, metrics: InflowMetrics) -> Self {
        Self {
            common: Common::new(key),
            metrics,
            received: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            position: AtomicU64::new(UNKNOWN),
            durable: AtomicU64::new(UNKNOWN),
            newest_ms: AtomicU64::new(0),
            audit: Mutex::default(),
        }
    }

    /// Identity of the flow in words.
    #[must_use]
    pub(crate) fn key(&self) -> &FlowKey {
        &self.common.key
    }

    /// Identity of the flow.
    #[must_use]
    pub(crate) fn id(&self) -> FlowId {
        self.common.id
    }

    /// What is wrong.
    #[must_use]
    pub(crate) fn fault(&self) -> Option<String> {
        self.common.fault()
    }

    /// A batch came in.
    pub(crate) fn received(&self, events: u32, bytes: u32) {
        self.received.fetch_add(u64::from(events), Relaxed);
        self.metrics.received(u64::from(events), u64::from(bytes));
    }

    /// A batch of an older path, or one that was accepted before, came in.
    pub(crate) fn stale_batch(&self) {
        self.stale.fetch_add(1, Relaxed);
    }

    /// These events are given to the sink now: remembers the time of the newest for the end-to-end latency.
    pub(crate) fn writing(&self, events: &[Event]) {
        if let Some(newest) = events.last() {
            self.newest_ms.store(u64::try_from(newest.time_ms).unwrap_or(0), Relaxed);
        }
    }

    /// The destination broker confirmed a batch.
    pub(crate) fn delivered(&self, events: u32, bytes: u32) {
        self.delivered.fetch_add(u64::from(events), Relaxed);
        self.metrics.delivered(u64::from(events), u64::from(bytes));
        let newest_ms = self.newest_ms.load(Relaxed);
        if events > 0 && newest_ms > 0 {
            self.metrics.end_to_end(wall_ms().saturating_sub(newest_ms));
        }
    }

    /// The destination refused an event for good.
    pub(crate) fn poisoned(&self, kind: Poison) {
        self.metrics.poisoned(kind.as_str());
    }

    /// An event was parked.
    pub(crate) fn parked(&self, kind: Poison) {
        self.metrics.parked(kind.as_str());
    }

    /// An event is left out by policy.
    pub(crate) fn dropped(&self, kind: Poison) {
        self.dropped.fetch_add(1, Relaxed);
        self.metrics.dropped(kind.as_str());
    }

    /// Takes over what the state machine says.
    pub(crate) fn show<B>(&self, applier: &Applier<B>, audit: AuditView) {
        *self.audit.lock().unwrap_or_else(PoisonError::into_inner) = audit;
        self.set_phase(match applier.state() {
            _ if self.common.fault().is_some() => Phase::Faulted,
            ApplierState::Closed | ApplierState::Severed => Phase::Waiting,
            ApplierState::Opening | ApplierState::Abandoned => Phase::Opening,
            ApplierState::Serving | ApplierState::Draining => Phase::Streaming,
            ApplierState::Drained => Phase::Stopped,
        });
        self.position.store(applier.written().map_or(UNKNOWN, |written| written.offset), Relaxed);
        self.durable.store(applier.durable().map_or(UNKNOWN, |durable| durable.offset), Relaxed);
    }

    /// The flow as people see it.
    #[must_use]
    pub(crate) fn view(&self) -> FlowView {
        let audit = *self.audit.lock().unwrap_or_else(PoisonError::into_inner);
        FlowView {
            audit,
            audit_balanced: audit.is_balanced(),
            read_events: self.received.load(Relaxed),
            delivered_events: self.delivered.load(Relaxed),
            refused_events: self.dropped.load(Relaxed),
            position: known(&self.position),
            durable: known(&self.durable),
            ..self.common.view(End::In)
        }
    }
}

fn known(number: &AtomicU64) -> Option<u64> {
    Some(number.load(Relaxed)).filter(|&number| number != UNKNOWN)
}

fn seconds(ms: &AtomicU64) -> f64 {
    Duration::from_millis(ms.load(Relaxed)).as_secs_f64()
}

/// Wall time in milliseconds since the Unix epoch: for people and for latencies, never for decisions.
#[must_use]
pub(crate) fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
