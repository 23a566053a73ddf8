//! Counting refused events of one batch.

use longhaul_route::Refusal;

use crate::flow_status::FlowStatus;

/// Refused events of a batch by reason, so that metrics are looked up once for each reason and not for each event.
#[derive(Default)]
pub(crate) struct Refusals(Vec<(Refusal, u64)>);

impl Refusals {
    /// Counts one.
    pub(crate) fn add(&mut self, refusal: Refusal) {
        match self.0.iter_mut().find(|(found, _)| *found == refusal) {
            Some((_, count)) => *count += 1,
            None => self.0.push((refusal, 1)),
        }
    }

    /// Adds what was counted to the flow, and counts from nothing again.
    pub(crate) fn flush(&mut self, status: &FlowStatus) {
        self.0.drain(..).for_each(|(refusal, count)| status.refuse(refusal, count));
    }
}
