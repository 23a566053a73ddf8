//! One link that is up, and the flows that use it: what comes back over it finds its flow by number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_event::Position;
use longhaul_flow::{Credit, ResetCode};
use longhaul_link::{LinkError, OutSender, Violation};
use longhaul_topology::Class;
use longhaul_wire::{Frame, Hello, Limits};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::misdeeds;

/// One link that is up.
pub(super) struct Link {
    pub(super) peer: Hello,
    pub(super) sender: OutSender,
    pub(super) limits: Limits,
    pub(super) handles: AtomicU32,
    pub(super) ports: Mutex<HashMap<u32, PortSender>>,
    pub(super) closed: CancellationToken,
    pub(super) since: Instant,
}

pub(super) struct PortSender {
    pub(super) frames: mpsc::Sender<PortEvent>,
    pub(super) acks: watch::Sender<Option<PortEvent>>,
}

/// What the applier says to a flow.
#[derive(Debug, Clone)]
pub(crate) enum PortEvent {
    /// It is open.
    Accept { path_epoch: u32, resume: Option<Position>, credit: Credit },
    /// It is durable up to there.
    Ack { path_epoch: u32, durable: u64, credit: Credit },
    /// It must be opened again.
    Reset { path_epoch: u32, code: ResetCode, text: String, retry: Duration },
}

/// A flow's use of a link; ends it when dropped.
pub(crate) struct Port {
    pub(super) link: Arc<Link>,
    pub(super) handle: u32,
    pub(super) frames: mpsc::Receiver<PortEvent>,
    pub(super) acks: watch::Receiver<Option<PortEvent>>,
}

impl Link {
    pub(super) fn is_up(&self) -> bool {
        !self.closed.is_cancelled()
    }

    pub(super) fn ports(&self) -> MutexGuard<'_, HashMap<u32, PortSender>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a frame on to its flow. Never waits.
    pub(super) fn dispatch(&self, frame: Frame) -> Result<(), LinkError> {
        let (handle, event) = match frame {
            Frame::Accept { handle, path_epoch, resume, events_limit, bytes_limit } => {
                (handle, PortEvent::Accept { path_epoch, resume, credit: Credit { events_limit, bytes_limit } })
            }
            Frame::Ack { handle, path_epoch, durable, events_limit, bytes_limit } => {
                (handle, PortEvent::Ack { path_epoch, durable, credit: Credit { events_limit, bytes_limit } })
            }
            Frame::Reset { handle, path_epoch, code, text, retry_ms } => {
                let code = ResetCode::ALL.get(usize::from(code)).copied().unwrap_or(ResetCode::BadChain);
                let retry = Duration::from_millis(u64::from(retry_ms));
                (handle, PortEvent::Reset { path_epoch, code, text, retry })
            }
            Frame::Goodbye { text } => return Err(LinkError::Goodbye(text)),
            // What only an owner says.
            _ => return Err(misdeeds::WRONG_WAY.into()),
        };
        if handle >= self.handles.load(Ordering::Relaxed) {
            return Err(misdeeds::NEVER_OPENED.into());
        }
        let ports = self.ports();
        // The flow has left, and its last answers were under way.
        let Some(port) = ports.get(&handle) else { return Ok(()) };
        if let PortEvent::Ack { .. } = event {
            port.acks.send_replace(Some(event));
            return Ok(());
        }
        match port.frames.try_send(event) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(misdeeds::FLOODED.into()),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Ends the link; a peer that broke the protocol is told what it did.
    pub(super) fn end(&self, error: &LinkError) {
        match error.cause() {
            LinkError::Protocol { code, text } => self.sender.violate(Violation { code: *code, text: text.clone() }),
            other => self.sender.close(&other.to_string()),
        }
    }
}

impl Port {
    /// The flow's number on this link.
    #[must_use]
    pub(crate) fn handle(&self) -> u32 {
        self.handle
    }

    /// The region that the link leads to.
    #[must_use]
    pub(crate) fn hop(&self) -> &str {
        &self.link.peer.region
    }

    /// What the peer takes.
    #[must_use]
    pub(crate) fn limits(&self) -> &Limits {
        &self.link.limits
    }

    /// Whether the link is gone.
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        self.link.closed.is_cancelled()
    }

    /// Sends a control frame. One that cannot be sent means that the link is gone, which shows by itself.
    pub(crate) async fn send(&self, frame: Frame) {
        let _ = self.link.sender.send(frame).await;
    }

    /// Queues a batch; resolves when there is room for it.
    pub(crate) fn submit(&self, class: Class, batch: Bytes) -> BoxFuture<'static, ()> {
        let (link, handle) = (Arc::clone(&self.link), self.handle);
        async move {
            // A link that is gone takes nothing; the flow notices by its token.
            let _ = link.sender.submit(handle, class, batch).await;
        }
        .boxed()
    }

    /// The destination has said what cannot be. Whoever only handed it on is not to blame.
    pub(crate) fn lied(&self, destination: &str) {
        if self.hop() == destination {
            self.link.sender.violate(misdeeds::FALSE_ACK.into());
        }
    }

    /// Throws away what is queued and not yet sent.
    pub(crate) fn cancel(&self) {
        self.link.sender.cancel(self.handle);
    }

    /// What the applier says next; `None` when the link is gone.
    pub(crate) async fn event(&mut self) -> Option<PortEvent> {
        tokio::select! {
            biased;
            event = self.frames.recv() => event,
            Ok(()) = self.acks.changed() => self.acks.borrow_and_update().clone(),
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.link.ports().remove(&self.handle);
        self.link.sender.cancel(self.handle);
    }
}
