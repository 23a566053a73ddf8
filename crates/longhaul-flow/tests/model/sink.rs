//! A destination: a log of events, a cursor beside it, and one writer at a time, whose writes finish later, in order, and in part.

use std::collections::VecDeque;

use longhaul_event::Position;
use longhaul_flow::Span;

use crate::source::Event;

#[derive(Default)]
pub(crate) struct Sink {
    pub(crate) data: Vec<u64>,
    pub(crate) cursor: Option<Position>,
    /// Earlier states, for the loss of a tail.
    history: VecDeque<(usize, Option<Position>)>,
    writing: VecDeque<(Span, Vec<Event>)>,
    committing: Option<Position>,
    /// Last event of this writer, by offset.
    last: Option<u64>,
}

const HISTORY_MAX: usize = 40;

impl Sink {
    /// A new writer; the one before it is gone with what it had not finished.
    pub(crate) fn open(&mut self) -> Option<Position> {
        self.writing.clear();
        self.committing = None;
        self.last = None;
        self.cursor
    }

    /// The writer is lost: of what it was writing, some may be there.
    pub(crate) fn fail(&mut self, survive: usize) {
        let pending: Vec<Event> = self.writing.drain(..).flat_map(|(_, events)| events).collect();
        for event in pending.into_iter().take(survive) {
            self.append(event);
        }
        if let Some(cursor) = self.committing.take().filter(|_| survive % 2 == 1) {
            self.cursor = Some(cursor);
        }
    }

    /// The broker comes back without its newest data, cursor and events alike.
    pub(crate) fn lose_tail(&mut self, back: usize) {
        let keep = self.history.len().saturating_sub(back);
        self.history.truncate(keep);
        let (len, cursor) = self.history.back().copied().unwrap_or((0, None));
        self.data.truncate(len);
        self.cursor = cursor;
    }

    pub(crate) fn write(&mut self, span: Span, events: Vec<Event>) {
        assert_eq!(events.len(), span.events as usize);
        assert!(!events.is_empty(), "an empty batch is not delivered");
        self.writing.push_back((span, events));
    }

    /// Finishes the oldest write, or only its first event. Returns up to which offset all is written.
    pub(crate) fn finish_write(&mut self, whole: bool) -> Option<u64> {
        let (span, events) = self.writing.front_mut()?;
        let last = span.last;
        if !whole && events.len() > 1 {
            let event = events.remove(0);
            self.append(event);
            return Some(event.offset);
        }
        let (_, events) = self.writing.pop_front()?;
        events.into_iter().for_each(|event| self.append(event));
        Some(last)
    }

    fn append(&mut self, event: Event) {
        self.last = Some(event.offset);
        self.data.push(event.id);
        self.remember();
    }

    /// Offset of the last event that this writer appended.
    pub(crate) fn last(&self) -> Option<u64> {
        self.last
    }

    pub(crate) fn commit(&mut self, cursor: Position) {
        assert!(self.committing.is_none(), "at most one commit under way");
        self.committing = Some(cursor);
    }

    pub(crate) fn finish_commit(&mut self) -> Option<Position> {
        let cursor = self.committing.take()?;
        self.cursor = Some(cursor);
        self.remember();
        Some(cursor)
    }

    fn remember(&mut self) {
        self.history.push_back((self.data.len(), self.cursor));
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.writing.is_empty() && self.committing.is_none()
    }

    pub(crate) fn bytes_writing(&self) -> u64 {
        self.writing.iter().map(|(span, _)| u64::from(span.bytes)).sum()
    }
}
