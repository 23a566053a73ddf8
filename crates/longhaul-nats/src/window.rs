//! What was published and is not confirmed yet, in order. Pure.
//!
//! ```text
//! base            next
//!  | done | . | done | . |      an acknowledgement sets `done`; the front moves over what is done
//! ```

use std::collections::VecDeque;

use longhaul_topic::Topic;

/// Messages in flight at most.
pub(crate) const WINDOW_MESSAGES_MAX: usize = 1024;
/// Bytes in flight at most; a larger message goes alone.
pub(crate) const WINDOW_BYTES_MAX: usize = 8 << 20;

/// Messages in flight.
#[derive(Debug, Default)]
pub(crate) struct Window {
    base: u64,
    slots: VecDeque<Slot>,
    bytes: usize,
}

/// One message in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Offset of its event.
    pub(crate) offset: u64,
    /// Topic of its event.
    pub(crate) topic: Topic,
    /// What it weighs.
    pub(crate) bytes: usize,
    done: bool,
}

impl Window {
    /// Whether one more of that size may go.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.slots.is_empty() || (self.slots.len() < WINDOW_MESSAGES_MAX && self.bytes + bytes <= WINDOW_BYTES_MAX)
    }

    /// Adds one behind all others; its number is [`next`](Self::next) of before.
    pub(crate) fn push(&mut self, offset: u64, topic: Topic, bytes: usize) {
        self.bytes += bytes;
        self.slots.push_back(Slot { offset, topic, bytes, done: false });
    }

    /// The number that the next one gets.
    pub(crate) fn next(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// The number of the oldest that is not confirmed; all before it are.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The one of that number, if it is in flight.
    pub(crate) fn get(&self, number: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(number.checked_sub(self.base)?).ok()?)
    }

    /// Confirms one; numbers that are not in flight are of another life and mean nothing.
    pub(crate) fn confirm(&mut self, number: u64) {
        let at = number.checked_sub(self.base).and_then(|at| usize::try_from(at).ok());
        if let Some(slot) = at.and_then(|at| self.slots.get_mut(at)) {
            slot.done = true;
        }
        while let Some(front) = self.slots.front().filter(|slot| slot.done) {
            self.bytes -= front.bytes;
            self.base += 1;
            self.slots.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(count: u64) -> Window {
        let mut window = Window::default();
        (0..count).for_each(|offset| window.push(offset, Topic::default(), 10));
        window
    }

    #[test]
    fn the_front_waits_for_the_oldest() {
        let mut window = window(3);
        window.confirm(1);
        window.confirm(2);
        assert_eq!((window.base(), window.next()), (0, 3));
        window.confirm(0);
        assert_eq!((window.base(), window.is_empty(), window.bytes), (3, true, 0));
        window.confirm(1);
        assert_eq!(window.base(), 3, "a second acknowledgement means nothing");
    }

    #[test]
    fn room_ends_at_its_limits() {
        assert!(window(WINDOW_MESSAGES_MAX as u64 - 1).has_room(1));
        assert!(!window(WINDOW_MESSAGES_MAX as u64).has_room(1));
        assert!(window(1).has_room(WINDOW_BYTES_MAX - 10));
        assert!(!window(1).has_room(WINDOW_BYTES_MAX - 9));
        assert!(window(0).has_room(WINDOW_BYTES_MAX * 2), "a larger one goes alone");
    }

    proptest! {
        #[test]
        fn base_is_the_first_number_that_was_not_confirmed(confirmed in prop::collection::vec(0_u64..12, 0..20)) {
            let mut window = window(10);
            confirmed.iter().for_each(|number| window.confirm(*number));
            let first = (0..10).find(|number| !confirmed.contains(number)).unwrap_or(10);
            prop_assert_eq!(window.base(), first);
            prop_assert_eq!(window.next(), 10);
        }
    }
}
