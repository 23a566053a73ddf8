//! Flows that pass through this router, from a neighbour to a neighbour: their frames and batches are handed on under another handle.
//!
//! It keeps no state but the two handles and what is on its way to the next link, opens no batch, and never acknowledges or grants credit:
//! that is between owner and applier. Whatever goes wrong here ends with a Reset to the owner, which finds another way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use longhaul_flow::ResetCode;
use longhaul_link::{InSender, Violation, class_from_wire};
use longhaul_telemetry::Metrics;
use longhaul_topology::{FlowKey, Graph, Guarantee, Mesh, WAY_LINKS_MAX};
use longhaul_wire::{BatchHeader, FlowOpen, Frame, Limits, frame_len, readdress};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::egress::reset_frame;
use crate::links::{Links, Port, PortEvent};
use crate::live::Live;
use crate::supervise::Supervisor;
use crate::waiting::wait_for;

/// Batches of one flow that wait for its next link.
const BATCHES_MAX: usize = 4096;
/// An owner that is told that there is no way here asks another neighbour first.
const RETRY: Duration = Duration::from_millis(100);
/// Close code of a link over which a damaged batch came.
const DAMAGED: u32 = 0x202;

/// What flows need to pass through.
pub(crate) struct Transit {
    live: Arc<Live>,
    links: Arc<Links>,
    supervisor: Supervisor,
    metrics: Arc<Metrics>,
    queue: Arc<Queue>,
}

/// What all passing flows have on their way to their next links.
struct Queue {
    bytes: AtomicUsize,
    bytes_max: usize,
}

/// A flow that passes through. Dropping it ends that.
pub(crate) struct Passing {
    handle: u32,
    /// What the next link takes.
    limits: Limits,
    batches: mpsc::Sender<Bytes>,
    queue: Arc<Queue>,
    /// More came than there is room for, or larger than the next link takes.
    overrun: CancellationToken,
    _stop: DropGuard,
}

/// The task of one passing flow.
struct Course {
    open: FlowOpen,
    back: InSender,
    port: Port,
    batches: mpsc::Receiver<Bytes>,
    queue: Arc<Queue>,
    overrun: CancellationToken,
    stop: CancellationToken,
}

impl Transit {
    /// Nothing passes yet. At most so many bytes wait for their next links at any time, or one batch that is larger.
    pub(crate) fn new(
        live: Arc<Live>,
        links: Arc<Links>,
        supervisor: Supervisor,
        metrics: Arc<Metrics>,
        bytes_max: usize,
    ) -> Self {
        Self { live, links, supervisor, metrics, queue: Arc::new(Queue { bytes: AtomicUsize::new(0), bytes_max }) }
    }

    /// Whether a flow's frames may come from that neighbour: its own region, or one that lies on a way from there by the mesh document.
    pub(crate) fn admits(&self, open: &FlowOpen, neighbour: &str) -> bool {
        let world = self.live.load();
        Graph::of(&world.mesh).may_come_over(&open.from.0, neighbour, self.live.region(), usize::from(open.links))
    }

    /// Lets a flow pass, over the best neighbour that has a link up.
    ///
    /// # Errors
    /// The code and the sentence for its owner.
    pub(crate) fn pass(&self, open: FlowOpen, neighbour: &str, back: InSender) -> Result<Passing, (ResetCode, String)> {
        let world = self.live.load();
        let of = self.check(&world.mesh, &open)?;
        let region = self.live.region();
        let graph = Graph::of(&world.mesh);
        let hops = graph.onward(region, &open.to.0, &open.from.0, neighbour, usize::from(open.links));
        let FlowOpen { mesh, route, from, to, .. } = open.clone();
        let key = FlowKey { mesh, route, from, to };
        let port = hops.iter().find_map(|hop| self.links.attach_over(hop, &key, of));
        let Some(port) = port else {
            let (to, come) = (&open.to.0, open.links);
            let text = format!(
                "{region} has no link up on a way to {to}, {WAY_LINKS_MAX} links long at most and {come} behind it"
            );
            return Err((ResetCode::NoPath, text));
        };
        tracing::info!(route = key.route, from = key.from.0, to = key.to.0, over = port.hop(), "a flow passes through");
        self.metrics.flow_passes(&key.from.0, &key.to.0);
        let (batches, batches_in) = mpsc::channel(BATCHES_MAX);
        let (overrun, stop) = (CancellationToken::new(), self.supervisor.stop_token().child_token());
        let passing = Passing {
            handle: port.handle(),
            limits: *port.limits(),
            batches,
            queue: Arc::clone(&self.queue),
            overrun: overrun.clone(),
            _stop: stop.clone().drop_guard(),
        };
        let queue = Arc::clone(&self.queue);
        let course = Course { open, back, port, batches: batches_in, queue, overrun, stop: stop.clone() };
        let course = std::sync::Mutex::new(Some(course));
        self.supervisor.spawn("a passing flow", stop, move || {
            let course = course.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            async move {
                // After a panic its link is given back already, and the owner hears nothing more: it opens anew.
                if let Some(course) = course {
                    course.run().await;
                }
            }
        });
        Ok(passing)
    }

    /// A flow passes only if this router knows its route in the same words. Returns what it promises.
    fn check(&self, mesh: &Mesh, open: &FlowOpen) -> Result<Guarantee, (ResetCode, String)> {
        let region = self.live.region();
        let world = self.live.load();
        let known = world.table.route(&open.route).filter(|route| {
            let from = (&route.route().from.region, &route.route().from.broker);
            let to = route.route().to.iter().position(|to| to.region == open.to.0 && to.broker == open.to.1);
            from == (&open.from.0, &open.from.1) && to.is_some_and(|to| route.hash_to(to) == open.route_hash)
        });
        let known = known.filter(|_| open.mesh == mesh.name).map(|route| route.route().guarantee);
        known.ok_or_else(|| {
            let route = &open.route;
            let text =
                format!("{region} does not know the route {route} in these words; its mesh document is another one");
            (ResetCode::NoPath, text)
        })
    }
}

impl Passing {
    /// Hands a batch on. Never waits: what does not fit ends the flow here, and its owner finds another way.
    ///
    /// # Errors
    /// [`Violation`] when the batch is damaged: ends the link over which it came.
    pub(crate) fn take(&self, header: &BatchHeader, batch: Bytes) -> Result<(), Violation> {
        if frame_len(header, &self.limits).is_err() {
            self.overrun.cancel();
            return Ok(());
        }
        let bytes = batch.len();
        let batch = readdress(batch, self.handle)
            .map_err(|error| Violation { code: DAMAGED, text: format!("a batch that passes through: {error}") })?;
        let queued = self.queue.bytes.fetch_add(bytes, Ordering::AcqRel);
        // What finds nothing before it is taken whatever its size, or the largest events would never get through.
        let fits = queued == 0 || queued + bytes <= self.queue.bytes_max;
        if !fits || self.batches.try_send(batch).is_err() {
            self.queue.bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.overrun.cancel();
        }
        Ok(())
    }
}

impl Course {
    async fn run(mut self) {
        let open =
            FlowOpen { handle: self.port.handle(), links: self.open.links.saturating_add(1), ..self.open.clone() };
        let class = class_from_wire(open.class);
        let path_epoch = open.path_epoch;
        self.port.send(Frame::Open(open)).await;
        let mut submitting = None;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = self.overrun.cancelled() => {
                    break self.give_up("a router on the way has no room for what waits for its next link, or that link does not take it").await;
                }
                event = self.port.event() => match event {
                    Some(event) => { let _ = self.back.send(self.answer(event)).await; }
                    None => break self.give_up("the next link on the way is down").await,
                },
                () = wait_for(&mut submitting), if submitting.is_some() => submitting = None,
                Some(batch) = self.batches.recv(), if submitting.is_none() => {
                    self.queue.bytes.fetch_sub(batch.len(), Ordering::AcqRel);
                    submitting = Some(self.port.submit(class, batch));
                }
            }
        }
        self.port.cancel();
        self.port.send(Frame::Close { handle: self.port.handle(), path_epoch }).await;
    }

    async fn give_up(&self, text: &str) {
        let reset = reset_frame(self.open.handle, self.open.path_epoch, ResetCode::NoPath, text, RETRY);
        let _ = self.back.send(reset).await;
    }

    /// What the applier says, as the owner knows the flow.
    fn answer(&self, event: PortEvent) -> Frame {
        let handle = self.open.handle;
        match event {
            PortEvent::Accept { path_epoch, resume, credit } => {
                let (events_limit, bytes_limit) = (credit.events_limit, credit.bytes_limit);
                Frame::Accept { handle, path_epoch, resume, events_limit, bytes_limit }
            }
            PortEvent::Ack { path_epoch, durable, credit } => {
                let (events_limit, bytes_limit) = (credit.events_limit, credit.bytes_limit);
                Frame::Ack { handle, path_epoch, durable, events_limit, bytes_limit }
            }
            PortEvent::Reset { path_epoch, code, text, retry } => reset_frame(handle, path_epoch, code, &text, retry),
        }
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        self.batches.close();
        while let Ok(batch) = self.batches.try_recv() {
            self.queue.bytes.fetch_sub(batch.len(), Ordering::AcqRel);
        }
    }
}
