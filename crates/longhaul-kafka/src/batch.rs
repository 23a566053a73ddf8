//! What was sent and what is confirmed: one counter for all events of one write (no allocation, lock or waker per event).
//!
//! Fails safe: a batch is confirmed only when every event was handed over and every delivery reported, none with an error. Among
//! several errors the one with the lowest offset counts, so that everything before a refused event is confirmed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use longhaul_broker::SinkError;
use longhaul_event::{Event, EventId};
use tokio::sync::Notify;

/// How long a flow writes every event in a batch of its own after a batch was refused.
pub(crate) const CAUTION: Duration = Duration::from_secs(30);

/// Whether a flow writes every event in a batch of its own.
///
/// A broker refuses whole batches, and not always says for which record. Until the refused event is found, nothing else may be blamed.
#[derive(Debug, Default)]
pub(crate) struct Caution(Mutex<Option<Instant>>);

impl Caution {
    /// Calls for it, for a while from now.
    fn raise(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + CAUTION);
    }

    /// Whether it is called for now.
    pub(crate) fn is_on(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }
}

/// What the writes of one flow share.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    bytes: AtomicUsize,
    /// Handed over and not yet reported.
    events: AtomicUsize,
    spent: AtomicBool,
    caution: Arc<Caution>,
}

impl Pending {
    /// Nothing under way, of a flow with that caution.
    pub(crate) fn new(caution: Arc<Caution>) -> Self {
        Self { caution, ..Self::default() }
    }

    /// Whether every event must have a batch of its own.
    pub(crate) fn is_cautious(&self) -> bool {
        self.caution.is_on()
    }

    /// Keeps it so for another while.
    pub(crate) fn stay_cautious(&self) {
        self.caution.raise();
    }

    /// Bytes that were handed over and are not confirmed.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// Whether nothing of this flow is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.events.load(Ordering::Acquire) == 0
    }

    /// Nothing more is to be sent.
    pub(crate) fn spend(&self) {
        self.spent.store(true, Ordering::Release);
    }

    /// Whether an error has ended the flow, or its writer is gone.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Acquire)
    }
}

/// One write under way.
#[derive(Debug)]
pub(crate) struct Batch {
    flow: Arc<Pending>,
    /// Events of which the fate is open, and one more until everything was handed over.
    open: AtomicUsize,
    sealed: AtomicBool,
    done: Notify,
    failure: Mutex<Option<Failure>>,
    /// The first event that was refused for good.
    refused: Mutex<Option<Failure>>,
    /// Identities and offsets, to find the offset of an event that failed.
    marks: Box<[(EventId, u64)]>,
}

#[derive(Debug, Clone)]
struct Failure {
    offset: u64,
    error: SinkError,
}

impl Batch {
    /// A batch of these events, none of them handed over.
    pub(crate) fn new(flow: Arc<Pending>, events: &[Event]) -> Arc<Self> {
        let marks = events.iter().map(|event| (event.id, event.offset)).collect();
        Arc::new(Self {
            flow,
            open: AtomicUsize::new(1),
            sealed: AtomicBool::new(false),
            done: Notify::new(),
            failure: Mutex::default(),
            refused: Mutex::default(),
            marks,
        })
    }

    /// One event is about to be handed over.
    pub(crate) fn begin(&self, bytes: usize) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.flow.events.fetch_add(1, Ordering::Relaxed);
        self.flow.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The fate of one event is known: confirmed, failed, or not taken after all.
    pub(crate) fn end(&self, bytes: usize) {
        self.flow.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.flow.events.fetch_sub(1, Ordering::Release);
        self.close_one();
    }

    /// Everything was handed over, or nothing more will be.
    pub(crate) fn seal(&self) {
        if !self.sealed.swap(true, Ordering::AcqRel) {
            self.close_one();
        }
    }

    /// Whether nothing more will be handed over.
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    fn close_one(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }

    /// The event at that offset failed; its flow is spent.
    pub(crate) fn fail(&self, offset: u64, error: SinkError) {
        self.flow.spend();
        if matches!(error, SinkError::Poison { .. }) {
            let mut slot = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.as_ref().is_none_or(|failure| offset < failure.offset) {
                *slot = Some(Failure { offset, error: error.clone() });
            }
        }
        let mut slot = self.failure();
        if slot.as_ref().is_none_or(|failure| offset < failure.offset) {
            *slot = Some(Failure { offset, error });
        }
    }

    /// A batch was refused, and nobody knows for which of its events.
    pub(crate) fn suspect(&self) {
        self.flow.caution.raise();
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first event that was refused for good so far, and why.
    pub(crate) fn refused(&self) -> Option<(u64, SinkError)> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        refused.map(|failure| (failure.offset, failure.error))
    }

    /// What failed so far.
    pub(crate) fn failed(&self) -> Option<SinkError> {
        self.failure().as_ref().map(|failure| failure.error.clone())
    }

    /// The fate of all is known, whatever was reported of single events. Everything was handed over.
    pub(crate) fn conclude(&self, result: Result<(), SinkError>) {
        if result.is_err() {
            self.flow.spend();
        }
        *self.failure() = result.err().map(|error| Failure { offset: 0, error });
        self.seal();
    }

    /// Offset of the first event with that identity; the batch's first offset when nobody has it.
    pub(crate) fn offset_of(&self, id: Option<EventId>) -> u64 {
        let found = id.and_then(|id| self.marks.iter().find(|mark| mark.0 == id));
        found.or(self.marks.first()).map_or(0, |mark| mark.1)
    }

    /// Waits for the fate of all. To be awaited once.
    pub(crate) async fn finished(&self) -> Result<(), SinkError> {
        // The permit of the last one stays until it is taken.
        self.done.notified().await;
        match self.failure().take() {
            None => Ok(()),
            Some(failure) => Err(failure.error),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use longhaul_broker::Poison;

    use super::*;

    fn poison(offset: u64) -> SinkError {
        SinkError::Poison { offset, kind: Poison::TooLarge, reason: String::new() }
    }

    #[test]
    fn it_is_confirmed_when_all_was_handed_over_and_all_is_reported() {
        let flow = Arc::new(Pending::default());
        let batch = Batch::new(Arc::clone(&flow), &[]);
        batch.begin(10);
        batch.begin(5);
        assert_eq!((flow.bytes(), flow.is_idle()), (15, false));
        batch.end(10);
        batch.end(5);
        assert!(batch.finished().now_or_never().is_none(), "more may follow");
        batch.seal();
        assert!(batch.finished().now_or_never().expect("all is reported").is_ok());
        assert_eq!((flow.bytes(), flow.is_idle(), flow.is_spent()), (0, true, false));
    }

    #[test]
    fn the_lowest_offset_of_several_errors_counts_and_comes_last() {
        let flow = Arc::new(Pending::default());
        let batch = Batch::new(Arc::clone(&flow), &[]);
        batch.begin(1);
        batch.begin(1);
        batch.begin(1);
        batch.seal();
        batch.fail(7, poison(7));
        batch.end(1);
        batch.fail(3, poison(3));
        batch.end(1);
        assert!(flow.is_spent());
        assert!(batch.finished().now_or_never().is_none(), "an event before may still be under way");
        batch.end(1);
        match batch.finished().now_or_never() {
            Some(Err(SinkError::Poison { offset, .. })) => assert_eq!(offset, 3),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_to_send_is_confirmed_at_once() {
        let batch = Batch::new(Arc::default(), &[]);
        batch.seal();
        assert!(batch.finished().now_or_never().expect("nothing is open").is_ok());
    }
}
