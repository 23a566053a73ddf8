//! What both ends of a link have in common: the connection, the control stream, the reason of its end, and the tasks that end with it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use longhaul_wire::{Frame, Hello, Limits, encode_frame};
use quinn::{Connection, VarInt};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use crate::{congestion::Farewell, error::LinkError};

/// Longest reason that is sent in a close; a QUIC packet must hold it.
const REASON_BYTES_MAX: usize = 512;

/// Measures of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Smoothed round trip of the path.
    pub rtt: Duration,
    /// Round trip of the last heartbeat, through both processes; zero before the first.
    pub heartbeat_rtt: Duration,
    /// Packets lost since the link came up.
    pub lost_packets: u64,
    /// Packets sent since the link came up.
    pub sent_packets: u64,
    /// Congestion window in bytes.
    pub cwnd: u64,
    /// Bytes in parcels that the peer has not acknowledged.
    pub in_flight: u64,
    /// Bytes queued and not yet in a parcel.
    pub queued: u64,
    /// UDP bytes sent.
    pub bytes_sent: u64,
    /// UDP bytes received.
    pub bytes_received: u64,
}

/// A connection and why it ended; shared by the tasks of a link.
pub(crate) struct Wire {
    pub(crate) connection: Connection,
    pub(crate) peer_expiry: SystemTime,
    pub(crate) began: Instant,
    pub(crate) heartbeat_rtt_micros: AtomicU64,
    pub(crate) open_bytes: AtomicU64,
    farewell: Farewell,
    end: OnceLock<LinkError>,
}

impl Wire {
    pub(crate) fn new(connection: Connection, peer_expiry: SystemTime, farewell: Farewell) -> Arc<Self> {
        Arc::new(Self {
            connection,
            peer_expiry,
            began: Instant::now(),
            heartbeat_rtt_micros: AtomicU64::new(0),
            open_bytes: AtomicU64::new(0),
            farewell,
            end: OnceLock::new(),
        })
    }

    /// Ends the link; the first reason counts, and the peer is told it.
    pub(crate) fn fail(&self, error: LinkError) {
        if self.connection.close_reason().is_some() {
            return;
        }
        let (code, mut text) = (error.close_code(), error.close_text());
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
        if self.end.set(error).is_ok() {
            self.farewell.begin();
            self.connection.close(VarInt::from_u32(code), text.as_bytes());
        }
    }

    /// Why the link ended, once it has.
    pub(crate) fn ended(&self) -> LinkError {
        match (self.end.get(), self.connection.close_reason()) {
            (Some(error), _) => error.clone(),
            (None, Some(reason)) => reason.into(),
            (None, None) => LinkError::Closed("the link is coming down".into()),
        }
    }

    pub(crate) async fn closed(&self) -> LinkError {
        let reason = self.connection.closed().await;
        self.end.get().cloned().unwrap_or_else(|| reason.into())
    }
}

/// All that a link is; when the last handle goes, the connection and its tasks go.
pub(crate) struct Core {
    pub(crate) wire: Arc<Wire>,
    peer: Hello,
    limits: Limits,
    frames: mpsc::Sender<Bytes>,
    /// Dropping it aborts the tasks.
    tasks: Mutex<JoinSet<()>>,
}

impl Core {
    pub(crate) fn new(
        wire: Arc<Wire>,
        peer: Hello,
        limits: Limits,
        frames: mpsc::Sender<Bytes>,
        tasks: JoinSet<()>,
    ) -> Arc<Self> {
        Arc::new(Self { wire, peer, limits, frames, tasks: Mutex::new(tasks) })
    }

    pub(crate) fn peer(&self) -> &Hello {
        &self.peer
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Runs a task that ends with the link.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.wire.fail(LinkError::Closed("nobody uses the link any more".into()));
        if let Ok(tasks) = self.tasks.get_mut() {
            tasks.abort_all();
        }
    }
}

/// A handle of a link, cheap to clone. The link lives as long as any of its handles or receivers.
#[derive(Clone)]
pub struct LinkHandle {
    pub(crate) core: Arc<Core>,
}

impl LinkHandle {
    /// What the peer said of itself; its mesh, region and router are those of its certificate.
    #[must_use]
    pub fn peer(&self) -> &Hello {
        self.core.peer()
    }

    /// What both ends accept.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.core.limits()
    }

    /// The address of the peer.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.core.wire.connection.remote_address()
    }

    /// When the certificate of the peer ends, and the link with it.
    #[must_use]
    pub fn peer_expiry(&self) -> SystemTime {
        self.core.wire.peer_expiry
    }

    /// Sends a control frame; waits while the peer does not take the ones before.
    ///
    /// # Errors
    /// [`LinkError::Unsendable`] for a frame that is too long; else why the link ended.
    pub async fn send(&self, frame: Frame) -> Result<(), LinkError> {
        let bytes = encode(&frame)?;
        self.check_open()?;
        self.core.frames.send(bytes).await.map_err(|_| self.core.wire.ended())
    }

    /// Sends a control frame if there is room for it now; `false` when there is none. For what the next one makes good, such as
    /// cumulative acknowledgements.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn try_send(&self, frame: &Frame) -> Result<bool, LinkError> {
        let bytes = encode(frame)?;
        self.check_open()?;
        match self.core.frames.try_send(bytes) {
            Ok(()) => Ok(true),
            Err(mpsc::error::TrySendError::Full(_)) => Ok(false),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.core.wire.ended()),
        }
    }

    /// The writer notices the end of the connection only when it writes next.
    fn check_open(&self) -> Result<(), LinkError> {
        if self.is_closed() { Err(self.core.wire.ended()) } else { Ok(()) }
    }

    /// Closes the link at once; the peer sees the reason. What it has not acknowledged may be lost to it.
    pub fn close(&self, reason: &str) {
        self.core.wire.fail(LinkError::Closed(reason.to_owned()));
    }

    /// Closes the link because the peer broke the protocol.
    pub fn violate(&self, violation: crate::Violation) {
        self.core.wire.fail(violation.into());
    }

    /// Whether the link has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.core.wire.connection.close_reason().is_some()
    }

    /// Waits for the end of the link, and says why it ended.
    pub async fn closed(&self) -> LinkError {
        self.core.wire.closed().await
    }

    /// Measures of the link.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let wire = &self.core.wire;
        let stats = wire.connection.stats();
        LinkStats {
            rtt: stats.path.rtt,
            heartbeat_rtt: Duration::from_micros(wire.heartbeat_rtt_micros.load(Ordering::Relaxed)),
            lost_packets: stats.path.lost_packets,
            sent_packets: stats.path.sent_packets,
            cwnd: stats.path.cwnd,
            in_flight: wire.open_bytes.load(Ordering::Relaxed),
            queued: 0,
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
        }
    }
}

/// The one receiver of a link's control frames. Heartbeats are not among them. Dropping it closes the link: without it nobody would
/// hear the peer.
pub struct FrameReceiver {
    pub(crate) core: Arc<Core>,
    pub(crate) frames: mpsc::Receiver<Frame>,
}

impl FrameReceiver {
    /// The next frame. Cancel safe.
    ///
    /// # Errors
    /// Why the link ended.
    pub async fn recv(&mut self) -> Result<Frame, LinkError> {
        match self.frames.recv().await {
            Some(frame) => Ok(frame),
            None => Err(self.core.wire.closed().await),
        }
    }
}

impl Drop for FrameReceiver {
    fn drop(&mut self) {
        self.core.wire.fail(LinkError::Closed("the link is not served any more".into()));
    }
}

pub(crate) fn encode(frame: &Frame) -> Result<Bytes, LinkError> {
    let mut bytes = BytesMut::new();
    encode_frame(frame, &mut bytes).map_err(LinkError::Unsendable)?;
    Ok(bytes.freeze())
}
