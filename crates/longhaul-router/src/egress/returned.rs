//! A destination broker that was away and is back. It never interrupts what is being written: that finds out by itself.

use longhaul_broker::Health;
use longhaul_flow::ResetCode;
use tokio::sync::watch;

use super::{Driver, FAST_RETRY};

impl Driver {
    /// A flow with something to write hears of a broker that went away by what it writes; one without must ask, for the broker may have
    /// come back from a copy, or without its last events, and its cursor with it.
    pub(super) fn handle_health(&mut self) {
        let Some(health) = &mut self.health else { return };
        let (is_up, was_away) = {
            let health = health.borrow_and_update();
            (*health == Health::Up, std::mem::replace(&mut self.away, matches!(*health, Health::Down(_))))
        };
        if is_up && was_away && self.writer.is_some() && self.applier.is_flushed() && !self.is_asking() {
            tracing::info!(flow = %self.flow.status.name(), "the destination broker is back; its cursor is read again");
            self.fail(ResetCode::SinkLost, FAST_RETRY);
        }
    }
}

/// Whether there is news; never when there is nobody to tell.
pub(super) async fn changed(health: Option<&mut watch::Receiver<Health>>) -> bool {
    match health {
        Some(health) => health.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}
