//! A shard that is being read: its ring, and the pump that fills it from one reader.
//!
//! Flows of a replayable shard open readers by themselves ([`ShardHandle::open`]) wherever they must begin, and hand the reader that is
//! furthest on to the ring ([`Member::offer_reader`]); from then on they share it. Losing the ring's reader is therefore no case
//! of its own: the flows at its head find themselves elsewhere, and begin again. A shard that is not replayable has one reader only,
//! which the pump opens, and opens again with back-off.
//!
//! The pump releases to the source what **every** flow has acknowledged of the life that is read now, once every route that follows the
//! source has a flow here. A flow holds its place until its route is gone: it does not lose it when its task panics, drains or is replaced
//! by a reload. A shard that is taken from this router is given up before the first flow leaves, and releases nothing from then on; when it
//! is given back it is another one.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use longhaul_broker::{ReadBatch, Reader, Shard, Source, SourceError};
use longhaul_event::{Position, Start};
use longhaul_route::IngressContext;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::back_off::BackOff;
use crate::budget::{Budget, Share, Use};
use crate::ring::{Next, Ring, RingBatch, Slot};
use crate::supervise::Supervisor;

/// How often the end of a shard is looked at while nothing is read.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a batch is charged for beside its events, so that batches of markers alone fill a ring too.
const BATCH_OVERHEAD_BYTES: u64 = 256;

/// A route to one of its destinations: the route's name and the place.
pub(crate) type RouteTo = (String, String);

/// Everybody who follows a source: nothing of a shard is released before all of them have joined it.
#[derive(Debug, Default)]
pub(crate) struct Followers(Mutex<HashSet<RouteTo>>);

impl Followers {
    /// These and no others, from now on.
    pub(crate) fn set(&self, followers: HashSet<RouteTo>) {
        *self.lock() = followers;
    }

    fn have_all_joined(&self, members: &[RouteTo]) -> bool {
        self.lock().iter().all(|follower| members.contains(follower))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<RouteTo>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A shard that is being read, shared by its flows. Its pump ends when it is given up, and with the last handle.
pub(crate) struct ShardHandle {
    shared: Arc<Shared>,
    pumping: CancellationToken,
}

struct Shared {
    shard: Shard,
    source: Arc<dyn Source>,
    context: IngressContext,
    followers: Arc<Followers>,
    state: Mutex<State>,
    /// Something was read, or the ring changed hands.
    news: watch::Sender<u64>,
    /// A flow took, acknowledged, left or offered a reader.
    room: Notify,
}

struct State {
    ring: Ring,
    /// Whose flows have a place in the ring.
    members: Vec<RouteTo>,
    offered: Option<Box<dyn Reader>>,
    /// The reader that fills the ring is to be dropped.
    lost: bool,
    end: Option<u64>,
    error: Option<String>,
}

/// A flow's membership of a shard; leaves when dropped.
pub(crate) struct Member {
    shard: Arc<ShardHandle>,
    slot: Slot,
    of: RouteTo,
}

impl ShardHandle {
    /// Begins reading a shard, on demand of its flows.
    #[must_use]
    pub(crate) fn start(
        shard: Shard,
        source: Arc<dyn Source>,
        context: IngressContext,
        followers: Arc<Followers>,
        budget: &Arc<Budget>,
        supervisor: &Supervisor,
    ) -> Arc<Self> {
        let (ring, members) = (Ring::new(shard.replayable), Vec::new());
        let state = State { ring, members, offered: None, lost: false, end: None, error: None };
        let shared = Arc::new(Shared {
            source,
            context,
            followers,
            state: Mutex::new(state),
            news: watch::Sender::new(0),
            room: Notify::new(),
            shard,
        });
        let stop = supervisor.stop_token().child_token();
        let name = format!("shard {}", shared.shard.name);
        let (pumped, budget, token) = (Arc::clone(&shared), Arc::clone(budget), stop.clone());
        supervisor
            .spawn(&name, stop.clone(), move || pump(Arc::clone(&pumped), budget.share(Use::Ring), token.clone()));
        Arc::new(Self { shared, pumping: stop })
    }

    /// Reads and releases nothing any more: somebody else has the shard now.
    pub(crate) fn give_up(&self) {
        self.pumping.cancel();
    }

    /// Whether it was given up.
    #[must_use]
    pub(crate) fn is_given_up(&self) -> bool {
        self.pumping.is_cancelled()
    }

    /// The shard.
    #[must_use]
    pub(crate) fn shard(&self) -> &Shard {
        &self.shared.shard
    }

    /// Where its events come from, for ingress.
    #[must_use]
    pub(crate) fn context(&self) -> &IngressContext {
        &self.shared.context
    }

    /// Joins as a flow of that route.
    #[must_use]
    pub(crate) fn join(self: &Arc<Self>, of: RouteTo) -> Member {
        let mut state = self.shared.lock();
        state.members.push(of.clone());
        Member { shard: Arc::clone(self), slot: state.ring.join(), of }
    }

    /// Opens a reader of one's own.
    ///
    /// # Errors
    /// What the source says.
    pub(crate) async fn open(&self, start: Start) -> Result<Box<dyn Reader>, SourceError> {
        self.shared.source.open(&self.shared.shard, start).await
    }

    /// Offset of the newest event as the ring's reader knows it.
    #[must_use]
    pub(crate) fn end(&self) -> Option<u64> {
        self.shared.lock().end
    }

    /// Why a shard that is not replayable has no reader.
    #[must_use]
    pub(crate) fn error(&self) -> Option<String> {
        self.shared.lock().error.clone()
    }
}

impl Member {
    /// What comes at that offset, if the ring has it.
    #[must_use]
    pub(crate) fn next(&self, incarnation: u64, next: u64) -> Next {
        let found = self.shard.shared.lock().ring.next(self.slot, incarnation, next);
        self.shard.shared.room.notify_one();
        found
    }

    /// The shard.
    #[must_use]
    pub(crate) fn shard(&self) -> &Arc<ShardHandle> {
        &self.shard
    }

    /// Tells of changes of the ring.
    #[must_use]
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.shard.shared.news.subscribe()
    }

    /// Stops taking for now.
    pub(crate) fn step_back(&self) {
        self.shard.shared.lock().ring.step_back(self.slot);
        self.shard.shared.room.notify_one();
    }

    /// Everything up to that offset of that incarnation is delivered.
    pub(crate) fn release(&self, incarnation: u64, durable: u64) {
        self.shard.shared.lock().ring.handle_acked(self.slot, incarnation, durable.wrapping_add(1));
        self.shard.shared.room.notify_one();
    }

    /// Gives the ring a reader that stands before that offset; gives it back when the ring's own is as far on or further.
    #[must_use]
    pub(crate) fn offer_reader(&self, reader: Box<dyn Reader>, next: u64) -> Option<Box<dyn Reader>> {
        let mut state = self.shard.shared.lock();
        let ahead = !state.ring.is_reading() || state.ring.range().is_none_or(|(_, _, head)| next > head);
        if !ahead {
            return Some(reader);
        }
        state.ring.handle_reader(reader.incarnation(), next);
        (state.offered, state.error) = (Some(reader), None);
        drop(state);
        self.shard.shared.room.notify_one();
        self.shard.shared.tell();
        None
    }

    /// Drops the ring's reader, which gives nothing though it should: as when it breaks by itself.
    pub(crate) fn lose_reader(&self) {
        let mut state = self.shard.shared.lock();
        state.ring.handle_reader_lost();
        state.lost = true;
        drop(state);
        self.shard.shared.room.notify_one();
        self.shard.shared.tell();
    }

    /// Whether a flow that stands before that offset with a reader of its own may as well give it to the ring: nobody takes from the
    /// ring, or nothing fills it, and the flow is beyond what it holds.
    #[must_use]
    pub(crate) fn wants_reader(&self, incarnation: u64, next: u64) -> bool {
        let beyond = self.is_beyond(incarnation, next);
        let state = self.shard.shared.lock();
        !state.ring.is_reading() || (beyond && state.ring.is_idle())
    }

    /// Whether that offset lies beyond what the ring holds.
    #[must_use]
    pub(crate) fn is_beyond(&self, incarnation: u64, next: u64) -> bool {
        let range = self.shard.shared.lock().ring.range();
        range.is_none_or(|(of, _, head)| of != incarnation || next > head)
    }

    /// For a shard that is not replayable: waits for its reader and returns the incarnation and the first offset that this flow has
    /// not acknowledged.
    pub(crate) fn base(&self) -> impl Future<Output = (u64, u64)> + Send + 'static {
        let (shard, slot, mut news) = (Arc::clone(&self.shard), self.slot, self.news());
        async move {
            loop {
                let base = shard.shared.lock().ring.base(slot);
                if let Some(base) = base {
                    return base;
                }
                // The sender lives as long as the shard that this future holds.
                let _ = news.changed().await;
            }
        }
    }

    /// Whether the ring can go on after that position.
    #[must_use]
    pub(crate) fn holds(&self, position: Position) -> bool {
        let next = position.offset.wrapping_add(1);
        let range = self.shard.shared.lock().ring.range();
        range.is_some_and(|(incarnation, base, head)| {
            incarnation == position.incarnation && (base..=head).contains(&next)
        })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.shard.shared.lock();
        state.ring.leave(self.slot);
        if let Some(at) = state.members.iter().position(|of| *of == self.of) {
            state.members.swap_remove(at);
        }
        drop(state);
        self.shard.shared.room.notify_one();
    }
}

impl Drop for ShardHandle {
    fn drop(&mut self) {
        self.pumping.cancel();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while this lock is held leaves plain numbers behind; the flows check every position anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pump that begins has no reader, whatever one that panicked has left behind, unless a flow has offered one since.
    fn begin_pumping(&self) {
        let mut state = self.lock();
        if state.offered.is_none() {
            state.ring.handle_reader_lost();
        }
        drop(state);
        self.tell();
    }

    fn tell(&self) {
        self.news.send_modify(|version| *version = version.wrapping_add(1));
    }
}

/// Takes in, passes on, releases, again.
async fn pump(shared: Arc<Shared>, mut share: Share, stop: CancellationToken) {
    let mut reader: Option<Box<dyn Reader>> = None;
    let mut back_off = BackOff::new(Duration::from_millis(100), Duration::from_secs(10));
    let mut released = None;
    let mut look = tokio::time::interval(LOOK_EVERY);
    shared.begin_pumping();
    loop {
        if reader.is_none() && !shared.shard.replayable {
            reader = open_only_reader(&shared, &mut back_off, &stop).await;
            released = None;
        }
        let room = {
            let mut state = shared.lock();
            let lost = std::mem::take(&mut state.lost);
            if let Some(offered) = state.offered.take() {
                reader = Some(offered);
                released = None;
            } else if lost {
                reader = None;
            }
            let room = state.ring.make_room(share.bytes_max());
            share.set_used(state.ring.bytes());
            // The floor says nothing about flows that come (routes begin one after the other) or went (the router stops).
            let releases = !stop.is_cancelled() && shared.followers.have_all_joined(&state.members);
            let floor = state.ring.floor().filter(|_| releases);
            release(reader.as_deref_mut(), floor, &mut released);
            state.end = reader.as_ref().and_then(|reader| reader.end());
            room
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = shared.room.notified() => {}
            // A paused reader still learns how far its shard has grown.
            _ = look.tick() => {}
            read = read(reader.as_deref_mut()), if room && reader.is_some() => {
                if take(&shared, read) {
                    back_off.reset();
                } else {
                    reader = None;
                    // Before it is read anew: a reader that opens and breaks at once is no reason to hurry. Where flows open readers,
                    // they look to that themselves.
                    if !shared.shard.replayable {
                        wait(back_off.next(), &stop).await;
                    }
                }
            }
        }
    }
}

fn release(reader: Option<&mut dyn Reader>, floor: Option<u64>, released: &mut Option<u64>) {
    if let (Some(reader), Some(floor)) = (reader, floor)
        && released.is_none_or(|before| floor > before)
        && floor > 0
    {
        reader.release(floor - 1);
        *released = Some(floor);
    }
}

async fn read(reader: Option<&mut (dyn Reader + 'static)>) -> Result<ReadBatch, SourceError> {
    match reader {
        Some(reader) => reader.read().await,
        None => std::future::pending().await,
    }
}

/// Puts what was read into the ring, unless the ring has changed hands meanwhile. Returns whether the reader still serves.
fn take(shared: &Shared, read: Result<ReadBatch, SourceError>) -> bool {
    let mut state = shared.lock();
    if state.offered.is_some() {
        return true;
    }
    let serves = match (read, state.ring.range()) {
        (Ok(batch), Some((incarnation, _, head))) => {
            drop(state);
            let batch = admit(&shared.context, incarnation, head, batch);
            state = shared.lock();
            // Admission hashes payloads, so it runs without the lock; a reader offered meanwhile wins.
            if state.offered.is_none() && batch.end > batch.first {
                state.ring.push(batch);
            }
            true
        }
        (Ok(_), None) => false,
        (Err(error), _) => {
            tracing::warn!(shard = shared.shard.name, %error, "lost the reader of a shard; its flows begin again");
            state.ring.handle_reader_lost();
            state.error = Some(error.to_string());
            false
        }
    };
    drop(state);
    shared.tell();
    serves
}

/// Judges what was read, once for all flows.
pub(crate) fn admit(context: &IngressContext, incarnation: u64, first: u64, read: ReadBatch) -> RingBatch {
    let (ReadBatch { mut events, last }, read_at) = (read, SystemTime::now());
    let of_events: u64 = events.iter().map(|event| u64::try_from(event.size()).unwrap_or(u64::MAX)).sum();
    let bytes = of_events + BATCH_OVERHEAD_BYTES;
    let admissions = longhaul_route::ingress(&mut events, context, incarnation);
    RingBatch { first, end: last.wrapping_add(1), events, admissions, bytes, read: (read_at, SystemTime::now()) }
}

async fn open_only_reader(
    shared: &Shared,
    back_off: &mut BackOff,
    stop: &CancellationToken,
) -> Option<Box<dyn Reader>> {
    let opened = tokio::select! {
        biased;
        () = stop.cancelled() => return None,
        opened = shared.source.open(&shared.shard, Start::Earliest) => opened,
    };
    match opened {
        Ok(reader) => {
            let mut state = shared.lock();
            state.ring.handle_reader(reader.incarnation(), reader.start().wrapping_add(1));
            state.error = None;
            drop(state);
            shared.tell();
            Some(reader)
        }
        Err(error) => {
            tracing::warn!(shard = shared.shard.name, %error, "cannot read a shard; trying again");
            shared.lock().error = Some(error.to_string());
            shared.tell();
            wait(back_off.next(), stop).await;
            None
        }
    }
}

async fn wait(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
