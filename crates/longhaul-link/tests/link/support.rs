//! A mesh with its own CA, links between its routers, and an inbox for batches.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use longhaul_event::{Event, EventId, Headers, Identity as EventIdentity};
use longhaul_link::{
    BatchHandler, Dialer, Identity, InLink, LinkConfig, LinkError, Listener, OutLink, TlsFiles, Violation, WindowHint,
    certs::{self, Pem, RouterCert},
};
use longhaul_topic::Topic;
use longhaul_wire::{BatchEncoder, BatchHeader, Chain, Compression, Limits};
use tempfile::TempDir;
use tokio::sync::Notify;

/// Long enough for anything that is going to happen at all on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A mesh: a CA and a folder for certificates.
pub(crate) struct Mesh {
    pub(crate) name: String,
    pub(crate) ca: Pem,
    pub(crate) folder: TempDir,
}

impl Mesh {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ca: certs::make_ca(name).unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn cert(&self, region: &str, router: &str) -> RouterCert {
        RouterCert::new(&self.name, region, router, &[]).unwrap()
    }

    /// Writes a certificate that says what is wanted, signed by this CA, trusting `ca`.
    pub(crate) fn write(&self, stem: &str, wanted: &RouterCert, ca: &Pem) -> TlsFiles {
        let pem = certs::make(&self.ca, wanted).unwrap();
        let folder = self.folder.path().join(stem);
        std::fs::create_dir_all(&folder).unwrap();
        certs::write(&folder, stem, &ca.cert, &pem).unwrap()
    }

    pub(crate) fn config(&self, region: &str, router: &str) -> LinkConfig {
        self.config_of(router, &self.cert(region, router))
    }

    pub(crate) fn config_of(&self, stem: &str, wanted: &RouterCert) -> LinkConfig {
        LinkConfig::new(Arc::new(Identity::load(self.write(stem, wanted, &self.ca)).unwrap()), 1)
    }
}

pub(crate) fn listen(config: &LinkConfig) -> (Listener, SocketAddr) {
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), config).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Dials once, as the router of `config`, and says what both ends came to.
pub(crate) async fn meet(
    config: &LinkConfig,
    region: &str,
    listener: &mut Listener,
) -> (Result<OutLink, LinkError>, Result<InLink, LinkError>) {
    let dialer = Dialer::new(config).unwrap();
    let addr = listener.local_addr().unwrap();
    let dial = dialer.dial(addr, region, WindowHint::default());
    let (out, accepted) = tokio::join!(dial, within(listener.accept()));
    (out, accepted.expect("the listener lives"))
}

/// A link from region eu to region us that stands.
pub(crate) struct Pair {
    pub(crate) out: OutLink,
    pub(crate) incoming: InLink,
    pub(crate) mesh: Mesh,
    pub(crate) listener: Listener,
}

pub(crate) async fn pair() -> Pair {
    pair_with(|_, _| {}).await
}

pub(crate) async fn pair_with(change: impl FnOnce(&mut LinkConfig, &mut LinkConfig)) -> Pair {
    let mesh = Mesh::new("earth");
    let (mut dialling, mut listening) = (mesh.config("eu", "eu-1"), mesh.config("us", "us-1"));
    change(&mut dialling, &mut listening);
    let (mut listener, _) = listen(&listening);
    let (out, incoming) = meet(&dialling, "us", &mut listener).await;
    Pair { out: out.unwrap(), incoming: incoming.unwrap(), mesh, listener }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// What arrived: header, number of events, bytes on the wire.
#[derive(Default)]
pub(crate) struct Inbox {
    seen: Mutex<Vec<(BatchHeader, usize, usize)>>,
    arrived: Notify,
    /// A batch of this flow is a violation.
    forbidden: Option<u32>,
}

impl Inbox {
    pub(crate) fn forbidding(handle: u32) -> Self {
        Self { forbidden: Some(handle), ..Self::default() }
    }

    pub(crate) fn seen(&self) -> Vec<(BatchHeader, usize, usize)> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn last_of(&self, handle: u32) -> Vec<u64> {
        self.seen().iter().filter(|(header, ..)| header.handle == handle).map(|(header, ..)| header.last).collect()
    }

    /// Waits until what has arrived is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&[(BatchHeader, usize, usize)]) -> bool) {
        within(async {
            loop {
                let arrived = self.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if wanted(&self.seen.lock().unwrap()) {
                    return;
                }
                arrived.await;
            }
        })
        .await;
    }
}

impl BatchHandler for Inbox {
    fn handle_batch(&self, header: BatchHeader, events: Vec<Event>, wire_bytes: usize) -> Result<(), Violation> {
        if self.forbidden == Some(header.handle) {
            return Err(Violation { code: 0x200, text: "this flow was never opened".into() });
        }
        self.seen.lock().unwrap().push((header, events.len(), wire_bytes));
        self.arrived.notify_waiters();
        Ok(())
    }
}

/// A batch with one event of that many payload bytes.
pub(crate) fn batch(handle: u32, offset: u64, payload: usize) -> Bytes {
    let event = Event {
        offset,
        topic: Topic::parse("orders").unwrap(),
        key: None,
        headers: Headers::default(),
        payload: Some(vec![7; payload].into()),
        time_ms: 0,
        id: EventId(1),
        identity: EventIdentity::Unique,
        provenance: Bytes::new(),
    };
    let mut encoder = BatchEncoder::new(Limits::new(u32::MAX, 64));
    encoder.push(&event, "orders", b"").unwrap();
    let prev = offset.wrapping_sub(1);
    let chain = Chain { handle, path_epoch: 1, start: false, incarnation: 1, prev, last: offset };
    encoder.finish(chain, Compression::None)
}
