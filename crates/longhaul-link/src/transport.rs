//! How QUIC is set up: windows, streams, times and congestion control. The numbers were measured; see the constants.

use std::{sync::Arc, time::Duration};

use quinn::{MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::{
    Congestion,
    congestion::{self, Farewell},
};

/// More than 1 MiB lets one stream grow over what quinn keeps of gaps per stream, which kills the connection.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const WINDOW_BYTES_MIN: u64 = 8 * 1024 * 1024;
const WINDOW_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Without a hint: enough for 1 Gbit/s over 80 ms.
const WINDOW_BYTES_DEFAULT: u64 = 16 * 1024 * 1024;
const PARCEL_STREAMS_MAX: u32 = 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const IDLE_MILLIS: u32 = 20_000;
const INITIAL_MTU: u16 = 1200;
/// Largest packet that is probed for. Networks inside a data centre and between some carry frames of 9,000 bytes; quinn hands ten packets to
/// the kernel at a time, which takes 64 KiB. Where 1,500 bytes are the limit, the probes beyond it are lost and cost nothing else.
pub const MTU_MAX: u16 = 6_500;
/// A packet is lost when so many later ones have come, or when it is late by an eighth of a round trip. quinn's 3 takes every packet that was
/// overtaken for lost: with 1 ms of jitter at 1 Gbit/s that is a third of all, sent again for nothing.
const REORDERED_PACKETS_MAX: u32 = 1024;
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// What is known of the path of a link, and wanted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowHint {
    /// Bits per second.
    pub bandwidth_bits: Option<u64>,
    /// Milliseconds there and back.
    pub rtt_ms: Option<u32>,
    /// How the sender finds its rate.
    pub congestion: Congestion,
}

/// Which end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Dialer,
    Listener,
}

impl WindowHint {
    /// Bytes that a connection may have under way: twice bandwidth x round trip, within 8 and 64 MiB.
    #[must_use]
    pub fn window_bytes(&self) -> u64 {
        let (Some(bits), Some(rtt_ms)) = (self.bandwidth_bits, self.rtt_ms) else { return WINDOW_BYTES_DEFAULT };
        let path_bytes = (bits / 8).saturating_mul(u64::from(rtt_ms)) / 1000;
        path_bytes.saturating_mul(2).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
    }
}

/// The transport of one end of one link. Only the listener is sent streams: one for control, and parcels.
pub(crate) fn transport(role: Role, window: WindowHint, offload: bool, farewell: &Farewell) -> Arc<TransportConfig> {
    let bytes = window.window_bytes();
    let (control, parcels) = match role {
        Role::Dialer => (0, 0),
        Role::Listener => (1, PARCEL_STREAMS_MAX),
    };
    let mut config = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_MAX);
    config
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(VarInt::from_u64(bytes).expect("64 MiB fit"))
        .send_window(bytes)
        .max_concurrent_bidi_streams(VarInt::from_u32(control))
        .max_concurrent_uni_streams(VarInt::from_u32(parcels))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_MILLIS).into()))
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(Some(discovery))
        .initial_rtt(INITIAL_RTT)
        .packet_threshold(REORDERED_PACKETS_MAX)
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(congestion::factory(window.congestion, farewell))
        .enable_segmentation_offload(offload);
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_follows_the_path_within_bounds() {
        let window = |bits, ms| {
            WindowHint { bandwidth_bits: Some(bits), rtt_ms: Some(ms), ..WindowHint::default() }.window_bytes()
        };
        assert_eq!(WindowHint::default().window_bytes(), WINDOW_BYTES_DEFAULT);
        assert_eq!(window(1_000_000_000, 80), 20_000_000);
        assert_eq!(window(1_000_000, 1), WINDOW_BYTES_MIN);
        assert_eq!(window(u64::MAX, u32::MAX), WINDOW_BYTES_MAX);
    }
}
