//! A flow that does not move though its source does: noticed, said, and opened again.
//!
//! Two things can be stuck. What was sent and is not acknowledged is the flow protocol's own affair (its stall timeout); here it is counted
//! and said. A reader that gives nothing though the log has more is noticed by the flow's [`Progress`](crate::progress::Progress): its reader
//! is dropped, the ring's too, and the flow begins again as after any other fault of its source. A queue that cannot be read again keeps its
//! one reader: to drop it would have the broker hand out again what is under way.

use longhaul_broker::SourceError;
use longhaul_flow::{Fault, OwnerState};

use super::Driver;

impl Driver {
    /// A deadline of the flow protocol is due.
    pub(super) fn handle_timeout(&mut self) {
        let now = self.flow.now();
        let streamed = self.owner.state() == OwnerState::Streaming;
        self.owner.handle_timeout(now);
        if streamed && self.owner.state() == OwnerState::Faulted && self.owner.last_fault() == Some(Fault::Stalled) {
            self.flow.status.begun_again();
            if self.flow.status.set_fault("nothing is acknowledged any more; the flow begins again") {
                tracing::warn!(flow = %self.flow.status.name(), "a flow is stalled: nothing is acknowledged any more; it begins again");
            }
        }
    }

    /// Nothing has moved for long, and there is more to read.
    pub(super) fn handle_stalled(&mut self) {
        let waits_for_source = match self.owner.state() {
            OwnerState::Seeking => true,
            OwnerState::Streaming => self.owner.in_flight() == (0, 0) && self.may_send(),
            OwnerState::Idle | OwnerState::Opening | OwnerState::Faulted => false,
        };
        if waits_for_source && self.shard().shard().replayable {
            self.flow.status.begun_again();
            self.opening = None;
            self.member.lose_reader();
            self.source_failed(&SourceError::Transient("the source gives nothing, though it has more".into()));
        }
    }
}
