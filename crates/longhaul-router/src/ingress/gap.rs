//! Events that are missing at the source: written down, then halt or go on, as the route says. Never a silent jump.
//!
//! A gap is found where a reader is opened: behind what the destination has. What a reader finds while the flow streams leads there.

use longhaul_broker::{Gap, SourceError};
use longhaul_event::{Position, Start};
use longhaul_flow::OwnerState;
use longhaul_topology::OnGap;

use super::Driver;
use crate::flow_status::{GapView, wall_ms};

impl Driver {
    /// A reader could not be opened.
    pub(super) fn opening_failed(&mut self, error: &SourceError) {
        let SourceError::Gap(gap) = error else { return self.source_failed(error) };
        match self.owner.state() {
            OwnerState::Seeking => {}
            OwnerState::Streaming => return self.source_failed(error),
            // The flow is opened again meanwhile, and will come here again if it has to.
            _ => return,
        }
        let passes = self.flow.route.route().on_gap == OnGap::Continue;
        let seen = view(gap, self.resume.or(self.begun), passes);
        if self.flow.status.gap(seen) {
            let policy = if passes { "the flow goes on behind them" } else { "the flow is halted before them" };
            tracing::error!(flow = %self.flow.status.name(), %gap, policy, "events are missing at the source");
        }
        if !passes {
            return self.source_failed(error);
        }
        self.go_on_behind(gap);
    }

    /// Whether all is delivered that comes before a gap.
    pub(super) fn is_before_gap(&self, position: Position) -> bool {
        self.gap_at == Some(position.offset.wrapping_add(1))
    }

    fn go_on_behind(&mut self, gap: &Gap) {
        let incarnation = self.resume.or(self.begun).map_or(0, |position| position.incarnation);
        let start = match *gap {
            Gap::Purged { from, to } => {
                self.audit.pass_over(incarnation, from, to);
                Start::After(Position { incarnation, offset: to.wrapping_sub(1) })
            }
            // What was written between the cut and now cannot be told from what was delivered before; the gap says which offsets.
            Gap::Truncated { end, .. } => {
                self.audit.pass_over(incarnation, end, end);
                Start::After(Position { incarnation, offset: end.wrapping_sub(1) })
            }
            // All that the new one has.
            Gap::Recreated { .. } => Start::Earliest,
        };
        self.gap_at = None;
        // What the destination has is behind us: a new chain begins.
        (self.resume, self.begun, self.behind_gap) = (None, None, Some(start));
        self.open_reader();
    }
}

fn view(gap: &Gap, from: Option<Position>, passed: bool) -> GapView {
    let behind = from.map_or(0, |position| position.offset.wrapping_add(1));
    let (reason, from, to, events) = match *gap {
        Gap::Purged { from, to } => ("purged", from, to, to.saturating_sub(from)),
        Gap::Recreated { .. } => ("recreated", behind, behind, 0),
        Gap::Truncated { cursor, end } => ("truncated", end, cursor.wrapping_add(1), 0),
    };
    GapView { at: wall_ms() / 1000, reason: reason.to_owned(), from, to, events, text: gap.to_string(), passed }
}
