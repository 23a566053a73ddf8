//! Where the cursor of a writer stands that writes events and cursor as one. Pure.
//!
//! Commits come beside writes that are under way: a commit behind one of them must not pull the cursor back to before events that are
//! there, or a crash would repeat them.

use longhaul_event::Position;

/// The cursors that one writer has sent, as far as they matter.
#[derive(Debug, Default, Clone, Copy)]
pub struct Standing {
    last: Option<Position>,
    /// The incarnation that was written before that of `last`.
    before: Option<u64>,
}

impl Standing {
    /// A cursor was sent, with events or alone.
    pub fn sent(&mut self, cursor: Position) {
        if let Some(last) = self.last.filter(|last| last.incarnation != cursor.incarnation) {
            self.before = Some(last.incarnation);
        }
        self.last = Some(cursor);
    }

    /// Whether a cursor that was sent stands at this one or beyond it. What was written up to here has resolved when somebody asks, so
    /// there is nothing left to do.
    #[must_use]
    pub fn covers(&self, cursor: Position) -> bool {
        let Some(last) = self.last else { return false };
        match last.incarnation == cursor.incarnation {
            // `u64::MAX` stands before offset 0.
            true => cursor.offset.wrapping_add(1) <= last.offset.wrapping_add(1),
            false => self.before == Some(cursor.incarnation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_never_goes_back() {
        let at = |incarnation, offset| Position { incarnation, offset };
        let mut standing = Standing::default();
        assert!(!standing.covers(at(1, 0)));
        standing.sent(at(1, 5));
        assert!(standing.covers(at(1, 5)) && standing.covers(at(1, u64::MAX)) && !standing.covers(at(1, 6)));
        assert!(!standing.covers(at(2, 0)), "an incarnation that is new");
        standing.sent(at(2, u64::MAX));
        assert!(standing.covers(at(1, 9)), "the one before");
        assert!(standing.covers(at(2, u64::MAX)) && !standing.covers(at(2, 0)));
    }
}
