//! Lets a connection say that it closes, however full its congestion window is.
//!
//! quinn-proto 0.11 holds a close back like any packet while data waits behind a full window, and from then on takes no acknowledgement, so that
//! the close never leaves and the peer learns of the end by silence. Once [`Farewell::begin`] was called, the window is open: nothing but the
//! close goes out any more. Anything else is left to the controller within.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use quinn_proto::{
    RttEstimator,
    congestion::{Controller, ControllerFactory, ControllerMetrics},
};

/// Whether a connection closes; of one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Farewell(Arc<AtomicBool>);

impl Farewell {
    /// To be called right before the connection is closed.
    pub(crate) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes controllers that heed a farewell.
pub(super) struct Polite {
    pub(super) within: Arc<dyn ControllerFactory + Send + Sync>,
    pub(super) farewell: Farewell,
}

impl ControllerFactory for Polite {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let within = self.within.clone().build(now, current_mtu);
        Box::new(Heeding { within, farewell: self.farewell.clone() })
    }
}

/// More than any controller ever gives; quinn does not pace above 4 GiB.
const OPEN_BYTES: u64 = 1 << 40;

struct Heeding {
    within: Box<dyn Controller>,
    farewell: Farewell,
}

impl Controller for Heeding {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.within.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.within.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_acked: Option<u64>) {
        self.within.on_end_acks(now, in_flight, app_limited, largest_acked);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.within.on_congestion_event(now, sent, is_persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.within.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.farewell.0.load(Ordering::Relaxed) { OPEN_BYTES } else { self.within.window() }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.within.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { within: self.within.clone_box(), farewell: self.farewell.clone() })
    }

    fn initial_window(&self) -> u64 {
        self.within.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.within.into_any()
    }
}
