//! A link of two real endpoints, one at each end of a wire or both on loopback, that carries as much as it can.
//!
//! Start with [`Load::over`]. The batches are real and are decoded at the far end; no router, no broker, no flow protocol.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use longhaul_event::{Event, EventId, Headers, Identity as EventIdentity};
use longhaul_link::{
    BatchHandler, Class, Congestion, Dialer, FrameReceiver, Identity, LinkConfig, LinkStats, Listener, OutSender,
    Violation, WindowHint, certs,
};
use longhaul_topic::Topic;
use longhaul_wire::{BatchEncoder, BatchHeader, Chain, Compression, Limits};
use tokio::task::JoinSet;

use crate::Wire;

const MESH: &str = "wire";
/// Flows that send at the same time.
const FLOWS: u32 = 16;
const PAYLOAD_BYTES: usize = 60 * 1024;

/// Counts what arrives.
#[derive(Default)]
struct Arrived(AtomicU64);

impl BatchHandler for Arrived {
    fn handle_batch(&self, _header: BatchHeader, _events: Vec<Event>, wire_bytes: usize) -> Result<(), Violation> {
        self.0.fetch_add(wire_bytes as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// A link under full load, in one direction.
pub struct Load {
    sender: OutSender,
    _frames: FrameReceiver,
    _dialer: Dialer,
    arrived: Arc<Arrived>,
    /// Dropping it ends them.
    _tasks: JoinSet<()>,
}

/// What had happened by some instant.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Bytes that arrived in whole batches.
    pub bytes: u64,
    /// Of the sender.
    pub link: LinkStats,
}

impl Load {
    /// A link from the near end of a wire to its far end, or on loopback where there is none. It sends as soon as it stands.
    ///
    /// # Errors
    /// In words.
    pub async fn over(wire: Option<&Wire>, congestion: Congestion, window: WindowHint) -> Result<Self, String> {
        let hint = WindowHint { congestion, ..window };
        let mesh = Certificates::new();
        let (near, far) = (mesh.config("near", hint), mesh.config("far", hint));
        let runtime = tokio::runtime::Handle::current();
        let address = wire.map_or(IpAddr::from(Ipv4Addr::LOCALHOST), |wire| wire.far().address());
        let bind = || {
            let _guard = runtime.enter();
            Listener::bind(SocketAddr::from((address, 0)), &far)
        };
        let listener = wire.map_or_else(bind, |wire| wire.far().within(bind));
        let mut listener = listener.map_err(|error| error.to_string())?;
        let dial = || {
            let _guard = runtime.enter();
            Dialer::new(&near)
        };
        let dialer = wire.map_or_else(dial, |wire| wire.near().within(dial)).map_err(|error| error.to_string())?;
        let to = listener.local_addr().map_err(|error| error.to_string())?;
        let arrived = Arc::new(Arrived::default());
        let mut tasks = JoinSet::new();
        let handler = Arc::clone(&arrived);
        tasks.spawn(async move {
            while let Some(incoming) = listener.accept().await {
                let Ok(incoming) = incoming else { continue };
                let (_sender, mut receiver) = incoming.split();
                receiver.run_parcels(handler.clone());
                while receiver.recv().await.is_ok() {}
            }
        });
        let link = dialer.dial(to, "far", hint).await.map_err(|error| error.to_string())?;
        let (sender, frames) = link.split();
        for flow in 0..FLOWS {
            let (sender, batch) = (sender.clone(), batch(flow));
            tasks.spawn(async move { while sender.submit(flow, Class::Normal, batch.clone()).await.is_ok() {} });
        }
        Ok(Self { sender, _frames: frames, _dialer: dialer, arrived, _tasks: tasks })
    }

    /// What has happened so far.
    #[must_use]
    pub fn read(&self) -> Reading {
        Reading { bytes: self.arrived.0.load(Ordering::Relaxed), link: self.sender.stats() }
    }

    /// Whether the link has ended.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.sender.is_closed()
    }

    /// Megabits per second that arrive within that time.
    pub async fn mbit_over(&self, time: Duration) -> f64 {
        let (before, began) = (self.read().bytes, tokio::time::Instant::now());
        tokio::time::sleep(time).await;
        (self.read().bytes - before) as f64 * 8e-6 / began.elapsed().as_secs_f64()
    }
}

struct Certificates {
    ca: certs::Pem,
    folder: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let ca = certs::make_ca(MESH).expect("a name of letters makes a CA");
        Self { ca, folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn config(&self, region: &str, window: WindowHint) -> LinkConfig {
        let pem = certs::make_router(&self.ca, MESH, region, region, &[]).expect("names of letters make a certificate");
        let folder = self.folder.path().join(region);
        std::fs::create_dir_all(&folder).expect("a folder below a temporary one");
        let files = certs::write(&folder, region, &self.ca.cert, &pem).expect("files in a temporary folder");
        let identity = Identity::load(files).expect("what was just made is good");
        LinkConfig { window, ..LinkConfig::new(Arc::new(identity), 1) }
    }
}

/// A batch of a flow, with nothing to compress.
fn batch(handle: u32) -> Bytes {
    let mut state = u64::from(handle) + 1;
    let payload: Vec<u8> = (0..PAYLOAD_BYTES)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    let event = Event {
        offset: 1,
        topic: Topic::parse("load").expect("a topic"),
        key: None,
        headers: Headers::default(),
        payload: Some(payload.into()),
        time_ms: 0,
        id: EventId(1),
        identity: EventIdentity::Unique,
        provenance: Bytes::new(),
    };
    let mut encoder = BatchEncoder::new(Limits::new(u32::MAX, 64));
    encoder.push(&event, "load", b"").expect("one event fits a batch");
    let chain = Chain { handle, path_epoch: 1, start: false, incarnation: 1, prev: 0, last: 1 };
    encoder.finish(chain, Compression::None)
}
