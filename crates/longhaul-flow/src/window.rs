//! The windows of a flow: what an owner has sent and an applier has not confirmed, and what an applier has and its sink has not.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::span::{Span, ordinal};

/// Most batches that an owner has under way on one flow, hence most that an applier ever holds early.
pub const SPANS_MAX: usize = 2_048;
/// A window that is empty and had room for more than this gives its memory back.
const KEEP_CAPACITY: usize = 64;

/// What an owner has sent and not seen acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Unacked {
    spans: VecDeque<Sent>,
    events: u64,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    last: u64,
    at: Duration,
    events: u32,
    bytes: u32,
}

impl Unacked {
    pub(crate) fn push(&mut self, now: Duration, span: Span) {
        self.events += u64::from(span.events);
        self.bytes += u64::from(span.bytes);
        self.spans.push_back(Sent { last: span.last, at: now, events: span.events, bytes: span.bytes });
    }

    /// Forgets everything up to that offset.
    pub(crate) fn ack(&mut self, durable: u64) {
        while let Some(sent) = self.spans.pop_front_if(|sent| ordinal(sent.last) <= ordinal(durable)) {
            self.events -= u64::from(sent.events);
            self.bytes -= u64::from(sent.bytes);
        }
        shrink(&mut self.spans);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.spans.len() >= SPANS_MAX
    }

    pub(crate) fn in_flight(&self) -> (u64, u64) {
        (self.events, self.bytes)
    }

    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.spans.front().map(|sent| sent.at)
    }
}

/// What an applier has accepted and its sink has not confirmed, and what came early.
#[derive(Debug)]
pub(crate) struct Unwritten<B> {
    /// Accepted, in order; the first `delivered` of them are with the sink.
    queue: VecDeque<Accepted<B>>,
    delivered: usize,
    /// Early batches by the ordinal of their `prev`.
    held: BTreeMap<u64, (Span, B)>,
    /// A START that waits until the chain before it is written.
    pub(crate) start: Option<Start<B>>,
    /// The incarnation of all that is held.
    pub(crate) incarnation: Option<u64>,
}

#[derive(Debug)]
struct Accepted<B> {
    span: Span,
    /// Empty batches behind this one need no write: they are written when it is.
    covers: u64,
    at: Duration,
    batch: Option<B>,
}

#[derive(Debug)]
pub(crate) struct Start<B> {
    pub(crate) incarnation: u64,
    pub(crate) span: Span,
    pub(crate) batch: B,
}

/// A batch that the sink has confirmed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) covers: u64,
    pub(crate) since: Duration,
    pub(crate) events: u32,
    pub(crate) bytes: u32,
}

impl<B> Default for Unwritten<B> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), delivered: 0, held: BTreeMap::new(), start: None, incarnation: None }
    }
}

impl<B> Unwritten<B> {
    /// Appends an accepted batch with events.
    pub(crate) fn push(&mut self, now: Duration, span: Span, batch: B) {
        self.queue.push_back(Accepted { span, covers: span.last, at: now, batch: Some(batch) });
    }

    /// Notes an accepted batch without events. Returns false when nothing is before it: then it counts as written at once.
    pub(crate) fn cover(&mut self, last: u64) -> bool {
        self.queue.back_mut().map(|back| back.covers = last).is_some()
    }

    pub(crate) fn deliver(&mut self) -> Option<(Span, B)> {
        let next = self.queue.get_mut(self.delivered)?;
        let batch = next.batch.take()?;
        self.delivered += 1;
        Some((next.span, batch))
    }

    /// The next delivered batch that is wholly written, when everything up to `last` is.
    pub(crate) fn pop_written(&mut self, last: u64) -> Option<Written> {
        if self.delivered == 0 {
            return None;
        }
        let done = self.queue.pop_front_if(|front| ordinal(front.span.last) <= ordinal(last))?;
        self.delivered -= 1;
        shrink(&mut self.queue);
        Some(Written { covers: done.covers, since: done.at, events: done.span.events, bytes: done.span.bytes })
    }

    /// Notes that a delivered batch is written in part. Returns whether it was one, and news.
    pub(crate) fn write_part(&mut self, last: u64) -> bool {
        let Some(front) = self.queue.front_mut().filter(|_| self.delivered > 0) else { return false };
        let news = ordinal(last) > ordinal(front.span.prev);
        if news {
            front.span.prev = last;
        }
        news
    }

    /// Keeps an early batch. False when there is no room or another one stands in its place.
    pub(crate) fn hold(&mut self, span: Span, batch: B) -> bool {
        let free = self.held.len() < SPANS_MAX && !self.held.contains_key(&ordinal(span.prev));
        if free {
            self.held.insert(ordinal(span.prev), (span, batch));
        }
        free
    }

    /// Whether exactly that batch is held.
    pub(crate) fn holds(&self, span: Span) -> bool {
        self.held.get(&ordinal(span.prev)).is_some_and(|(held, _)| *held == span)
    }

    /// The lowest of the held batches, if it begins at or before that offset.
    pub(crate) fn take_held(&mut self, upto: u64) -> Option<(Span, B)> {
        let first = self.held.first_entry()?;
        (*first.key() <= ordinal(upto)).then(|| first.remove())
    }

    /// Drops what came early. Returns its events and bytes.
    pub(crate) fn drop_held(&mut self) -> Vec<Span> {
        self.incarnation = None;
        let start = self.start.take().map(|start| start.span);
        std::mem::take(&mut self.held).into_values().map(|(span, _)| span).chain(start).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn held(&self) -> usize {
        self.held.len() + usize::from(self.start.is_some())
    }
}

fn shrink<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() > KEEP_CAPACITY {
        *queue = VecDeque::new();
    }
}
