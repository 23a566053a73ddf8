//! What a link shows: gauges of the present connection, and counters over all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::{Metrics, remove, set};

/// Handles of a link.
#[derive(Clone)]
pub struct LinkMetrics {
    pub(super) labels: [String; 2],
    pub(super) metrics: Arc<Metrics>,
    pub(super) seen: Arc<Seen>,
}

/// What a link has shown, so that figures which begin at 0 with every connection become counters.
#[derive(Default)]
pub(super) struct Seen {
    was_up: AtomicBool,
    /// Lost packets, bytes sent, bytes received, of the present connection.
    counts: [AtomicU64; 3],
}

/// What a link shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkGauges {
    /// Smoothed.
    pub rtt_seconds: f64,
    /// Since it came up.
    pub lost_packets: u64,
    /// Congestion window.
    pub window_bytes: u64,
    /// In parcels that are not acknowledged.
    pub in_flight_bytes: u64,
    /// Since it came up.
    pub sent_bytes: u64,
    /// Since it came up.
    pub received_bytes: u64,
}

impl LinkMetrics {
    /// The link came up.
    pub fn connected(&self) {
        let (metrics, region) = (&self.metrics, &self.labels[..1]);
        metrics.link_connects.with_label_values(region).inc();
        if self.seen.was_up.swap(true, Relaxed) {
            metrics.link_reconnects.with_label_values(region).inc();
        }
        self.seen.counts.iter().for_each(|count| count.store(0, Relaxed));
        metrics.link_gauges[0].with_label_values(&self.labels).set(1.0);
    }

    /// The link is down.
    pub fn down(&self) {
        set(&self.metrics.link_gauges, &self.labels, &[0.0; 4]);
    }

    /// What the link shows while it is up. From one connection to the next, what came after the last call is not counted.
    pub fn show(&self, gauges: LinkGauges) {
        let values = [1.0, gauges.rtt_seconds, gauges.window_bytes as f64, gauges.in_flight_bytes as f64];
        set(&self.metrics.link_gauges, &self.labels, &values);
        let counts = [gauges.lost_packets, gauges.sent_bytes, gauges.received_bytes];
        for ((count, seen), metric) in counts.into_iter().zip(&self.seen.counts).zip(&self.metrics.link_counters) {
            let before = seen.swap(count, Relaxed);
            metric.with_label_values(&self.labels[..1]).inc_by(count.saturating_sub(before));
        }
    }

    /// The link is not dialled any more. What it counted stays with its region.
    pub fn remove(&self) {
        remove(&self.metrics.link_gauges, &self.labels);
    }
}
