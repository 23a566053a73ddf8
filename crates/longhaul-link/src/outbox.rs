//! The scheduler of a link, shared between those who submit batches and the one task that sends them.
//!
//! The lock is held for a few steps of the scheduler only, never over an await.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{Class, Gate, LinkError, Offer, Parcel, Scheduler};

/// What waits to be sent on a link.
#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// Something was queued.
    work: Notify,
}

#[derive(Default)]
struct State {
    scheduler: Scheduler,
    /// Those who wait for room, by flow; an entry lives only as long as somebody waits.
    waiting: HashMap<u32, Arc<Waiting>>,
    closed: bool,
}

#[derive(Default)]
struct Waiting {
    room: Notify,
    cancelled: AtomicBool,
}

impl Outbox {
    /// Queues a batch; waits only while the queue of its own flow is full. Dropping the future before it is ready queues nothing.
    pub(crate) async fn submit(&self, handle: u32, class: Class, batch: Bytes) -> Result<(), LinkError> {
        let mut batch = batch;
        loop {
            let waiting = match self.offer(handle, class, batch)? {
                Ok(()) => return Ok(()),
                Err((back, waiting)) => {
                    batch = back;
                    waiting
                }
            };
            let room = waiting.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            // Between the offer and here, room may have come and gone: then this entry is no longer the one that waits.
            if self.still_waits(handle, &waiting) {
                room.await;
            }
            if waiting.cancelled.load(Ordering::Acquire) {
                return Err(LinkError::Cancelled);
            }
        }
    }

    /// Drops what the flow has queued and what waits to be.
    pub(crate) fn cancel(&self, handle: u32) -> usize {
        let mut state = self.lock();
        let bytes = state.scheduler.cancel(handle);
        let waiting = state.waiting.remove(&handle);
        drop(state);
        if let Some(waiting) = waiting {
            waiting.cancelled.store(true, Ordering::Release);
            waiting.room.notify_waiters();
        }
        bytes
    }

    /// The next parcel, if there is one and the gate is open for it.
    pub(crate) fn next_parcel(&self, gate: &Gate) -> Option<Parcel> {
        let mut state = self.lock();
        let parcel = state.scheduler.next_parcel(gate)?;
        let woken: Vec<_> = parcel.flows.iter().filter_map(|flow| state.waiting.remove(flow)).collect();
        drop(state);
        woken.iter().for_each(|waiting| waiting.room.notify_waiters());
        Some(parcel)
    }

    /// Completes when something was queued since the last time.
    pub(crate) async fn work(&self) {
        self.work.notified().await;
    }

    /// The link is gone: nothing is taken any more, and nobody waits.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.scheduler = Scheduler::default();
        let woken = std::mem::take(&mut state.waiting);
        drop(state);
        woken.values().for_each(|waiting| waiting.room.notify_waiters());
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.lock().scheduler.queued_bytes()
    }

    fn offer(&self, handle: u32, class: Class, batch: Bytes) -> Result<Result<(), (Bytes, Arc<Waiting>)>, LinkError> {
        let mut state = self.lock();
        if state.closed {
            return Err(LinkError::Closed("the link has ended".into()));
        }
        match state.scheduler.offer(handle, class, batch) {
            Offer::Full(batch) => Ok(Err((batch, state.waiting.entry(handle).or_default().clone()))),
            Offer::Taken => {
                drop(state);
                self.work.notify_one();
                Ok(Ok(()))
            }
        }
    }

    fn still_waits(&self, handle: u32, waiting: &Arc<Waiting>) -> bool {
        self.lock().waiting.get(&handle).is_some_and(|present| Arc::ptr_eq(present, waiting))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
