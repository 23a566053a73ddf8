//! Taps: what passes through this router, event by event, for somebody who looks.
//!
//! A flow asks once per batch whether anybody taps, which is one relaxed load; nothing more happens while nobody does. While somebody does,
//! the events of the batch are held against what was asked for, and what matches becomes a line. A flow never waits for a tap: who reads
//! slower than lines come, or asks for more than [`LINES_PER_SECOND_MAX`], misses some and is told how many. Payloads are in no line.
//! Read [`Tap`] first for who looks, then [`FlowTap`] for what a flow does.

mod filter;
mod line;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use longhaul_event::Event;
use longhaul_topology::FlowKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Interval, MissedTickBehavior};

pub use filter::{TapAsked, TapError};
pub use line::{Outcome, TapEvent, TapLine};

use crate::flow_status::End;
use crate::router::Router;
use filter::Filter;
use line::{About, timestamp};

/// How many may tap a router at the same time.
const TAPS_MAX: usize = 8;
/// Lines that wait to be read, of each tap.
const LINES_MAX: usize = 1024;
/// Most lines that a tap gives in a second.
pub(crate) const LINES_PER_SECOND_MAX: u32 = 1_000;
/// Events whose write is under way and that somebody wants to know the end of, in the whole router.
const HELD_EVENTS_MAX: usize = 8192;
/// How often a tap may give lines again, and says what it missed.
const TICK: Duration = Duration::from_secs(1);

/// All taps of a router.
pub(crate) struct Taps {
    /// How many there are: all that a flow looks at while it is 0.
    open: AtomicUsize,
    taps: ArcSwap<Vec<Arc<Mouth>>>,
    places: Arc<Semaphore>,
    held: Arc<AtomicUsize>,
}

/// The end of a tap that flows pour into.
struct Mouth {
    filter: Filter,
    lines: mpsc::Sender<TapLine>,
    /// Lines that it may still give until the next tick.
    left: AtomicU32,
    missed: AtomicU64,
}

/// The end of a tap that is read. Dropping it closes the tap.
pub struct Tap {
    taps: Arc<Taps>,
    mouth: Arc<Mouth>,
    lines: mpsc::Receiver<TapLine>,
    tick: Interval,
    _place: OwnedSemaphorePermit,
}

/// Where a flow is tapped.
pub(crate) struct FlowTap {
    taps: Arc<Taps>,
    about: Arc<About>,
}

/// Taps that a flow is poured into now.
pub(crate) struct Tapping {
    taps: Vec<Arc<Mouth>>,
    about: Arc<About>,
    held: Arc<AtomicUsize>,
}

/// Events that somebody taps and of which is not known yet what becomes of them. Dropping it says nothing of them.
#[derive(Default)]
pub(crate) struct Held(Option<(Tapping, Vec<Event>)>);

impl Router {
    /// Taps the router: gives what passes through from now on and was asked for.
    ///
    /// # Errors
    /// When nothing like that can ever pass by the mesh document in force, or too many tap already.
    pub fn tap(&self, asked: &TapAsked) -> Result<Tap, TapError> {
        let filter = asked.compile(&self.shared.live.load())?;
        Taps::open(&self.shared.taps, filter)
    }
}

impl Taps {
    /// Nobody taps yet.
    pub(crate) fn new() -> Arc<Self> {
        let (places, taps) = (Arc::new(Semaphore::new(TAPS_MAX)), ArcSwap::default());
        Arc::new(Self { open: AtomicUsize::new(0), taps, places, held: Arc::default() })
    }

    /// Where a flow of this router is tapped.
    pub(crate) fn flow(self: &Arc<Self>, key: &FlowKey, end: End) -> FlowTap {
        FlowTap { taps: Arc::clone(self), about: Arc::new(About::new(key, end)) }
    }

    fn open(self: &Arc<Self>, filter: Filter) -> Result<Tap, TapError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| TapError::TooMany(TAPS_MAX))?;
        let (sender, lines) = mpsc::channel(LINES_MAX);
        let (left, missed) = (AtomicU32::new(LINES_PER_SECOND_MAX), AtomicU64::new(0));
        let mouth = Arc::new(Mouth { filter, lines: sender, left, missed });
        self.taps.rcu(|taps| taps.iter().chain([&mouth]).cloned().collect::<Vec<_>>());
        self.open.fetch_add(1, Relaxed);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tracing::info!("a tap was opened: what passes through is shown to whoever asked for it");
        Ok(Tap { taps: Arc::clone(self), mouth, lines, tick, _place: place })
    }
}

impl Tap {
    /// The next line, once there is one.
    pub async fn next(&mut self) -> TapLine {
        loop {
            tokio::select! {
                biased;
                _ = self.tick.tick() => {
                    self.mouth.left.store(LINES_PER_SECOND_MAX, Relaxed);
                    let missed = self.mouth.missed.swap(0, Relaxed);
                    if missed > 0 {
                        return TapLine::Missed { timestamp: timestamp(), missed };
                    }
                }
                Some(line) = self.lines.recv() => return line,
            }
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.taps.open.fetch_sub(1, Relaxed);
        let others = |taps: &Arc<Vec<Arc<Mouth>>>| {
            taps.iter().filter(|mouth| !Arc::ptr_eq(mouth, &self.mouth)).cloned().collect::<Vec<_>>()
        };
        self.taps.taps.rcu(others);
        tracing::info!("a tap was closed");
    }
}

impl FlowTap {
    /// The taps that this flow is poured into now; asked once per batch. One relaxed load while nobody taps.
    pub(crate) fn tapping(&self) -> Option<Tapping> {
        if self.taps.open.load(Relaxed) == 0 {
            return None;
        }
        let taps: Vec<_> =
            self.taps.taps.load().iter().filter(|mouth| mouth.filter.takes_flow(&self.about)).cloned().collect();
        let (about, held) = (Arc::clone(&self.about), Arc::clone(&self.taps.held));
        (!taps.is_empty()).then_some(Tapping { taps, about, held })
    }

    /// Keeps the events that somebody wants to see, until it is known what has become of them.
    pub(crate) fn hold(&self, events: &[Event]) -> Held {
        let Some(tapping) = self.tapping() else { return Held::default() };
        let mut kept = Vec::new();
        for event in events {
            let wanted = |mouth: &&Arc<Mouth>| mouth.filter.waits_for_writes() && mouth.filter.takes(event);
            if !tapping.taps.iter().any(|mouth| wanted(&mouth)) {
                continue;
            }
            if tapping.held.fetch_add(1, Relaxed) < HELD_EVENTS_MAX {
                // Shares the bytes that the writer has anyhow.
                kept.push(event.clone());
            } else {
                tapping.held.fetch_sub(1, Relaxed);
                tapping.taps.iter().filter(wanted).for_each(|mouth| mouth.miss());
            }
        }
        Held((!kept.is_empty()).then_some((tapping, kept)))
    }
}

impl Tapping {
    /// Says what has become of an event, to those who asked for it.
    pub(crate) fn see(&self, event: &Event, outcome: Outcome, reason: Option<&str>) {
        for mouth in &self.taps {
            if mouth.filter.wants(outcome) && mouth.filter.takes(event) {
                mouth.pour(|| self.about.line(event, outcome, reason));
            }
        }
    }
}

impl Held {
    /// Whether nobody waits for the end of it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Says what has become of each event; nothing of those that come again.
    pub(crate) fn end<'a>(&self, became: impl Fn(&Event) -> Option<(Outcome, Option<&'a str>)>) {
        let Some((tapping, events)) = &self.0 else { return };
        for event in events {
            if let Some((outcome, reason)) = became(event) {
                tapping.see(event, outcome, reason);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((tapping, events)) = &self.0 {
            tapping.held.fetch_sub(events.len(), Relaxed);
        }
    }
}

impl Mouth {
    fn pour(&self, line: impl FnOnce() -> TapEvent) {
        let may = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        match self.lines.try_reserve() {
            Ok(room) if may => room.send(TapLine::Event(Box::new(line()))),
            Ok(_) | Err(mpsc::error::TrySendError::Full(())) => self.miss(),
            Err(mpsc::error::TrySendError::Closed(())) => {}
        }
    }

    fn miss(&self) {
        self.missed.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
