//! What was published and not yet confirmed: decides when a write is done, and how. Pure.
//!
//! ```text
//! slots    c c c . c . .      one per message, in order of publishing; c = confirmed
//! writes   |---|-----|---|    a write is done when all slots up to its end are confirmed
//! ```
//! The broker confirms in any order and says "returned" before it confirms; but lapin ties a returned message to whichever confirmation
//! it handles next, so it is the identity inside that tells which event came back. Only the first one returned matters: with it
//! the writer is spent, and nothing behind it is ever committed.

use std::collections::VecDeque;

use longhaul_broker::{Poison, SinkError};
use longhaul_event::EventId;

/// Most messages, and bytes of bodies, that are under way on one channel.
const SLOTS_MAX: usize = 16 * 1024;
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// One message under way.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// Offset and identity of its event; `None` for a cursor.
    pub(crate) event: Option<(u64, EventId)>,
    /// Bytes of its body.
    pub(crate) bytes: usize,
}

/// Messages and writes under way; `R` is what a write is answered through.
pub(crate) struct Window<R> {
    first: u64,
    slots: VecDeque<(Slot, bool)>,
    writes: VecDeque<Write<R>>,
    bytes: usize,
    returned: Option<(u64, SinkError)>,
    failure: Option<SinkError>,
}

struct Write<R> {
    end: u64,
    refused: Option<SinkError>,
    reply: R,
}

/// What a write ended in, with its reply.
pub(crate) type Settled<R> = Vec<(R, Result<(), SinkError>)>;

impl<R> Window<R> {
    pub(crate) fn new() -> Self {
        Self { first: 0, slots: VecDeque::new(), writes: VecDeque::new(), bytes: 0, returned: None, failure: None }
    }

    /// Whether more may be published now.
    pub(crate) fn has_room(&self) -> bool {
        self.slots.len() < SLOTS_MAX && self.bytes < BYTES_MAX
    }

    /// Whether nothing can be confirmed any more, and everybody was told.
    pub(crate) fn is_spent(&self) -> bool {
        self.failure.is_some() && self.writes.is_empty()
    }

    /// A message is published: its number.
    pub(crate) fn publish(&mut self, slot: Slot) -> u64 {
        self.bytes += slot.bytes;
        self.slots.push_back((slot, false));
        self.first + self.slots.len() as u64 - 1
    }

    /// A write ends with the messages published until now; `refused` is why the rest of it was not published.
    pub(crate) fn end_write(&mut self, refused: Option<SinkError>, reply: R) {
        self.writes.push_back(Write { end: self.first + self.slots.len() as u64, refused, reply });
    }

    /// The broker confirmed that message.
    pub(crate) fn confirm(&mut self, number: u64) {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some((_, confirmed)) = at.and_then(|at| self.slots.get_mut(at)) {
            *confirmed = true;
        }
    }

    /// The broker gave back a message with that identity: nothing is bound for it.
    pub(crate) fn give_back(&mut self, id: Option<EventId>, reason: &str) {
        let found = self.slots.iter().enumerate().find_map(|(at, (slot, _))| {
            let (offset, of_slot) = slot.event?;
            (Some(of_slot) == id).then_some((self.first + at as u64, offset))
        });
        let Some((number, offset)) = found else {
            return self
                .fail(SinkError::Transient(format!("RabbitMQ returned a message that is not under way: {reason}")));
        };
        if self.returned.as_ref().is_none_or(|(first, _)| number < *first) {
            let reason = format!("no queue takes it: {reason}");
            self.returned = Some((number, SinkError::Poison { offset, kind: Poison::Unroutable, reason }));
        }
    }

    /// Nothing more will be confirmed. The first reason stays.
    pub(crate) fn fail(&mut self, error: SinkError) {
        self.failure.get_or_insert(error);
    }

    /// Whether some message under way has a body larger than that.
    pub(crate) fn has_larger_than(&self, bytes: usize) -> bool {
        self.slots.iter().any(|(slot, confirmed)| !confirmed && slot.bytes > bytes)
    }

    /// The writes that are done, in order.
    pub(crate) fn settle(&mut self) -> Settled<R> {
        self.pass_confirmed();
        let mut settled = Vec::new();
        while let Some(write) = self.writes.pop_front() {
            if self.first >= write.end {
                let result = write.refused.map_or(Ok(()), Err);
                if result.is_err() {
                    self.fail(spent());
                }
                settled.push((write.reply, result));
            } else if let Some((_, poison)) = self.returned.take_if(|(number, _)| *number == self.first) {
                self.fail(spent());
                settled.push((write.reply, Err(poison)));
            } else if let Some(failure) = &self.failure {
                settled.push((write.reply, Err(failure.clone())));
            } else {
                self.writes.push_front(write);
                break;
            }
        }
        settled
    }

    /// Passes over what is confirmed without a gap, up to a returned message.
    fn pass_confirmed(&mut self) {
        let stop = self.returned.as_ref().map_or(u64::MAX, |(number, _)| *number);
        while self.first < stop && self.slots.front().is_some_and(|(_, confirmed)| *confirmed) {
            self.bytes -= self.slots.pop_front().map_or(0, |(slot, _)| slot.bytes);
            self.first += 1;
        }
    }
}

/// What every write behind a refused one ends in.
pub(crate) fn spent() -> SinkError {
    SinkError::Transient("an event before it was refused or lost: the flow must be opened again".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot(number: u64) -> Slot {
        Slot { event: Some((100 + number, EventId(number.into()))), bytes: 1 }
    }

    fn publish(window: &mut Window<u32>, reply: u32, count: u64) {
        for _ in 0..count {
            let next = window.first + window.slots.len() as u64;
            assert_eq!(window.publish(slot(next)), next);
        }
        window.end_write(None, reply);
    }

    fn ends(settled: Settled<u32>) -> Vec<(u32, Option<u64>)> {
        settled
            .into_iter()
            .map(|(reply, result)| match result {
                Ok(()) => (reply, None),
                Err(SinkError::Poison { offset, kind: Poison::Unroutable, .. }) => (reply, Some(offset)),
                Err(_) => (reply, Some(0)),
            })
            .collect()
    }

    #[test]
    fn a_write_is_done_when_all_up_to_its_end_is_confirmed() {
        let mut window = Window::new();
        publish(&mut window, 1, 2);
        publish(&mut window, 2, 0);
        publish(&mut window, 3, 1);
        window.confirm(1);
        window.confirm(2);
        assert_eq!(ends(window.settle()), []);
        window.confirm(0);
        assert_eq!(ends(window.settle()), [(1, None), (2, None), (3, None)]);
        assert_eq!((window.bytes, window.slots.len()), (0, 0));
    }

    #[test]
    fn a_returned_message_ends_its_write_after_those_before_it_are_confirmed() {
        let mut window = Window::new();
        publish(&mut window, 1, 2);
        publish(&mut window, 2, 3);
        publish(&mut window, 3, 1);
        (0..6).filter(|n| *n != 2).for_each(|n| window.confirm(n));
        // Later ones may come back too, and in any order.
        window.give_back(Some(EventId(4)), "NO_ROUTE");
        window.give_back(Some(EventId(3)), "NO_ROUTE");
        assert_eq!(ends(window.settle()), [(1, None)]);
        window.confirm(2);
        assert_eq!(ends(window.settle()), [(2, Some(103)), (3, Some(0))]);
        assert!(window.is_spent());
    }

    #[test]
    fn a_refusal_before_publishing_lets_what_is_before_it_through() {
        let mut window = Window::new();
        window.publish(slot(0));
        let refused = SinkError::Poison { offset: 7, kind: Poison::Unroutable, reason: String::new() };
        window.end_write(Some(refused), 1);
        assert_eq!(ends(window.settle()), []);
        window.confirm(0);
        assert_eq!(ends(window.settle()), [(1, Some(7))]);
        publish(&mut window, 2, 1);
        assert_eq!(ends(window.settle()), [(2, Some(0))], "spent");
    }

    #[test]
    fn what_was_confirmed_before_a_failure_is_done() {
        let mut window = Window::new();
        publish(&mut window, 1, 1);
        publish(&mut window, 2, 1);
        window.confirm(0);
        window.fail(SinkError::Transient("gone".to_owned()));
        assert_eq!(ends(window.settle()), [(1, None), (2, Some(0))]);
    }

    #[test]
    fn a_message_that_nobody_wrote_spends_the_writer() {
        let mut window = Window::new();
        publish(&mut window, 1, 1);
        window.give_back(Some(EventId(99)), "NO_ROUTE");
        assert_eq!(ends(window.settle()), [(1, Some(0))]);
    }

    #[test]
    fn room_ends_with_bytes_and_with_messages() {
        let mut window: Window<()> = Window::new();
        window.publish(Slot { event: None, bytes: BYTES_MAX - 1 });
        assert!(window.has_room());
        window.publish(Slot { event: None, bytes: 1 });
        assert!(!window.has_room());
    }

    proptest! {
        /// Against the plain rule: a write succeeds exactly when all up to its end are confirmed and none of them came back.
        #[test]
        fn settles_like_the_plain_rule(
            sizes in proptest::collection::vec(0_u64..4, 1..6),
            order in proptest::collection::vec(any::<u16>(), 20),
            back in proptest::option::of(0_u64..12),
        ) {
            let mut window = Window::new();
            (0_u32..).zip(&sizes).for_each(|(reply, count)| publish(&mut window, reply, *count));
            let total: u64 = sizes.iter().sum();
            let back = back.filter(|number| *number < total);
            let mut numbers: Vec<u64> = (0..total).collect();
            numbers.sort_by_key(|n| order[usize::try_from(*n).expect("small") % order.len()]);
            let (mut confirmed, mut told) = (Vec::new(), ends(window.settle()));
            for number in numbers {
                if back == Some(number) {
                    window.give_back(Some(EventId(number.into())), "NO_ROUTE");
                }
                window.confirm(number);
                confirmed.push(number);
                told.extend(ends(window.settle()));
                let through = (0..total).find(|n| !confirmed.contains(n) || back == Some(*n)).unwrap_or(total);
                let mut end = 0;
                let done = sizes.iter().take_while(|size| { end += **size; end <= through }).count();
                prop_assert_eq!(told.iter().filter(|(_, poison)| poison.is_none()).count(), done);
            }
            prop_assert_eq!(told.len(), sizes.len(), "everybody was told");
            let poisons: Vec<u64> = told.iter().filter_map(|(_, poison)| *poison).filter(|offset| *offset > 0).collect();
            prop_assert_eq!(poisons, back.map(|number| 100 + number).into_iter().collect::<Vec<_>>());
        }
    }
}
