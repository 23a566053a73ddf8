//! What a link hands to an applying flow: never blocks the link, bounded by the credit that was given.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use longhaul_event::Event;
use longhaul_flow::Span;
use longhaul_link::InSender;
use longhaul_wire::{BatchHeader, FlowOpen, Frame};
use tokio::sync::Notify;

use crate::egress::Plan;
use crate::ledger::{Charge, Ledger};

/// Bytes beyond which a peer has ignored its credit: the largest credit, and one event of the largest size.
const MAILBOX_BYTES_MAX: u64 = (16 << 20) + (64 << 20);
/// Entries beyond which a peer floods.
const MAILBOX_ENTRIES_MAX: usize = 128 << 10;

/// The owner's end of a flow as the applier sees it: which connection, which handle.
#[derive(Clone)]
pub(crate) struct Attachment {
    id: u64,
    handle: u32,
    sender: InSender,
    ledger: Arc<Ledger>,
}

impl Attachment {
    /// An attachment over a connection; `id` is unique in this router.
    #[must_use]
    pub(crate) fn new(id: u64, open: &FlowOpen, sender: InSender) -> Self {
        Self { id, handle: open.handle, sender, ledger: Arc::new(Ledger::of(open)) }
    }

    /// Unique in this router.
    #[must_use]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The flow's handle on its connection.
    #[must_use]
    pub(crate) fn handle(&self) -> u32 {
        self.handle
    }

    /// The round trip of the connection as it is measured now.
    #[must_use]
    pub(crate) fn rtt(&self) -> Duration {
        self.sender.stats().rtt
    }

    /// What a batch of this attachment is by its header: within what was granted, or not.
    pub(crate) fn charge(&self, header: &BatchHeader) -> Charge {
        self.ledger.charge(header)
    }

    /// Sends a frame to the owner; one that cannot be sent means that the connection is gone, which shows by itself. An owner that reads
    /// nothing loses its connection for it.
    pub(crate) async fn send(&self, frame: Frame) {
        self.ledger.note(&frame);
        let _ = self.sender.send(frame).await;
    }
}

/// The events of a batch, and which batch it was, for traces.
pub(crate) struct Received {
    /// In order.
    pub events: Vec<Event>,
    /// The path epoch that it was sent in.
    pub path_epoch: u32,
    /// When it came in.
    pub at: SystemTime,
}

/// What comes in for a flow.
pub(crate) enum Inbound {
    /// An owner opens the flow, which follows this plan from now on.
    Open { attachment: Attachment, owner_epoch: u64, path_epoch: u32, partition: Option<u32>, plan: Plan },
    /// A batch of that attachment.
    Batch { attachment: u64, start: bool, incarnation: u64, span: Span, batch: Received },
    /// The connection of that attachment is gone, or the owner closed the flow.
    Gone { attachment: u64, closed: bool },
}

/// The mailbox of one applying flow.
#[derive(Default)]
pub(crate) struct Mailbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Inbound>,
    bytes: u64,
    closed: bool,
}

/// Why a mailbox takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The peer sent more than it was granted.
    Flooded,
    /// The flow has ended; a new one must be made.
    Closed,
}

impl Mailbox {
    /// Puts something in.
    ///
    /// # Errors
    /// [`Refused`] gives nothing back: a flood ends the connection, a closed mailbox is replaced.
    pub(crate) fn put(&self, inbound: Inbound) -> Result<(), Refused> {
        let mut queue = self.lock();
        if queue.closed {
            return Err(Refused::Closed);
        }
        if let Inbound::Batch { span, .. } = &inbound {
            queue.bytes += u64::from(span.bytes);
        }
        // The end of an attachment is always heard; there is one for each.
        let ends = matches!(inbound, Inbound::Gone { .. });
        if !ends && (queue.bytes > MAILBOX_BYTES_MAX || queue.entries.len() >= MAILBOX_ENTRIES_MAX) {
            return Err(Refused::Flooded);
        }
        queue.entries.push_back(inbound);
        drop(queue);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits until something is there and takes all of it. Cancel safe.
    pub(crate) async fn take(&self) -> VecDeque<Inbound> {
        loop {
            {
                let mut queue = self.lock();
                if !queue.entries.is_empty() {
                    queue.bytes = 0;
                    return std::mem::take(&mut queue.entries);
                }
            }
            self.filled.notified().await;
        }
    }

    /// Takes no more from now on. Returns false, and stays open, when something has come in meanwhile.
    pub(crate) fn close(&self) -> bool {
        let mut queue = self.lock();
        queue.closed = queue.entries.is_empty();
        queue.closed
    }

    /// Takes no more from now on, and drops what is there: nobody will look at it.
    pub(crate) fn shut(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.entries.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
