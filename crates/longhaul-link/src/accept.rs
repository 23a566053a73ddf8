//! Listening: the side that applies events. Handshakes run side by side, bounded in number and in time; a peer that is refused is
//! reported and harms nobody else.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use longhaul_wire::{Frame, Hello};
use quinn::{Connection, Endpoint, Incoming, ServerConfig};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use crate::{
    BatchHandler, Carrier, LinkConfig, LinkError,
    congestion::Farewell,
    control::{Opening, refuse, watch_certificate},
    dial::{HANDSHAKE_TIMEOUT, certified},
    endpoint::{endpoint, endpoint_over},
    link::{FrameReceiver, LinkHandle, Wire},
    parcel::receive,
    strangers::Strangers,
    tls::Loaded,
    transport::{Role, transport},
    verify::{Peer, PeerVerifier},
};

/// Handshakes at a time; more are turned away.
const HANDSHAKES_MAX: usize = 64;
/// From here on, a peer must first prove that it receives at its address.
const HANDSHAKES_WITHOUT_PROOF_MAX: usize = 16;
/// Links of one listener.
const CONNECTIONS_MAX: usize = 1024;
const RESULTS_QUEUED_MAX: usize = 16;
/// How often datagrams that belong to no link are told of, at most.
const NOISE_TOLD_EVERY: Duration = Duration::from_secs(1);
/// What the secrets of its endpoint are derived for.
const LABEL: &str = "listener";

/// Accepts links. Dropping it ends no link.
pub struct Listener {
    endpoint: Endpoint,
    results: mpsc::Receiver<Result<InLink, LinkError>>,
    task: JoinHandle<()>,
}

/// What a handshake needs.
struct Doorman {
    config: LinkConfig,
}

impl Listener {
    /// Listens at an address; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`LinkError::Socket`], or what TLS says.
    pub fn bind(addr: SocketAddr, config: &LinkConfig) -> Result<Self, LinkError> {
        Self::on(config, |own, server, strangers| endpoint(addr, own, LABEL, Some(server), strangers))
    }

    /// Listens on what carries packets in place of a socket.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn over(carrier: Carrier, config: &LinkConfig) -> Result<Self, LinkError> {
        Self::on(config, |own, server, strangers| endpoint_over(carrier, own, LABEL, Some(server), strangers))
    }

    fn on(
        config: &LinkConfig,
        make: impl FnOnce(&Loaded, ServerConfig, &Strangers) -> Result<Endpoint, LinkError>,
    ) -> Result<Self, LinkError> {
        let doorman = Arc::new(Doorman { config: config.clone() });
        let own = config.identity.current();
        let (server, _) = doorman.server(&own, &Farewell::default())?;
        let strangers = Strangers::default();
        let endpoint = make(&own, server, &strangers)?;
        let (sender, results) = mpsc::channel(RESULTS_QUEUED_MAX);
        let task = tokio::spawn(doorman.run(endpoint.clone(), strangers, sender));
        Ok(Self { endpoint, results, task })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// [`LinkError::Socket`] when the system does not say.
    pub fn local_addr(&self) -> Result<SocketAddr, LinkError> {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        self.endpoint.local_addr().map_err(|error| LinkError::Socket { addr: nowhere, text: error.to_string() })
    }

    /// The next link, or the next peer that was refused, with the reason; `None` when the endpoint has ended. Cancel safe.
    pub async fn accept(&mut self) -> Option<Result<InLink, LinkError>> {
        self.results.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.endpoint.set_server_config(None);
        self.task.abort();
    }
}

impl Doorman {
    async fn run(
        self: Arc<Self>,
        endpoint: Endpoint,
        strangers: Strangers,
        results: mpsc::Sender<Result<InLink, LinkError>>,
    ) {
        let mut handshakes = JoinSet::new();
        let mut look = tokio::time::interval(NOISE_TOLD_EVERY);
        loop {
            tokio::select! {
                biased;
                Some(_) = handshakes.join_next(), if !handshakes.is_empty() => {}
                _ = look.tick() => match strangers.take() {
                    0 => {}
                    // Nobody is kept waiting for this; what finds no room is heard of another time.
                    datagrams => drop(results.try_send(Err(LinkError::Noise { datagrams }))),
                },
                incoming = endpoint.accept() => match incoming {
                    None => return,
                    Some(incoming) if handshakes.len() >= HANDSHAKES_MAX || endpoint.open_connections() > CONNECTIONS_MAX => {
                        incoming.refuse();
                    }
                    Some(incoming) if handshakes.len() >= HANDSHAKES_WITHOUT_PROOF_MAX && incoming.may_retry() => {
                        // An error would say that it was validated already, which was just asked.
                        let _ = incoming.retry();
                    }
                    Some(incoming) => drop(handshakes.spawn(self.clone().receive(incoming, results.clone()))),
                },
            }
        }
    }

    async fn receive(self: Arc<Self>, incoming: Incoming, results: mpsc::Sender<Result<InLink, LinkError>>) {
        let remote = incoming.remote_address();
        let link = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.handshake(incoming))
            .await
            .unwrap_or(Err(LinkError::TimedOut))
            .map_err(|error| error.at(remote));
        // An error means that the listener is gone, and the link with it.
        let _ = results.send(link).await;
    }

    async fn handshake(&self, incoming: Incoming) -> Result<InLink, LinkError> {
        // Read anew for every handshake, so that a reload holds from the next one on.
        let farewell = Farewell::default();
        let (server, verifier) = self.server(&self.config.identity.current(), &farewell)?;
        let connecting = incoming.accept_with(Arc::new(server))?;
        let connection = connecting.await.map_err(|error| match verifier.verdict().fault {
            Some(fault) => LinkError::Certificate(fault),
            None => error.into(),
        })?;
        debug_assert!(verifier.verdict().judged > 0, "no handshake without the verifier");
        let greeted = self.greet(&connection, farewell).await;
        greeted.inspect_err(|error| refuse(&connection, error))
    }

    async fn greet(&self, connection: &Connection, farewell: Farewell) -> Result<InLink, LinkError> {
        let (chain, peer, peer_expiry) = certified(connection)?;
        let here = self.config.hello();
        let (send, recv) = connection.accept_bi().await?;
        let mut opening = Opening::new(send, recv);
        let hello = opening.exchange(connection, Role::Listener, &here, &peer).await?;
        let wire = Wire::new(connection.clone(), peer_expiry, farewell);
        let judged = Peer { chain, role: Role::Listener, region: None };
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_certificate(wire.clone(), judged, self.config.identity.watch()));
        let receiver = opening.start(wire, &here, hello, tasks);
        Ok(InLink { receiver: InReceiver { frames: receiver, reading: false } })
    }

    fn server(&self, own: &Loaded, farewell: &Farewell) -> Result<(ServerConfig, Arc<PeerVerifier>), LinkError> {
        let (tls, verifier) = own.server().map_err(LinkError::Handshake)?;
        let mut server = ServerConfig::with_crypto(Arc::new(tls));
        let mut tokens = quinn_proto::ValidationTokenConfig::default();
        tokens.sent(0);
        let LinkConfig { window, segmentation_offload, .. } = self.config;
        let transport = transport(Role::Listener, window, segmentation_offload, farewell);
        server.transport_config(transport).migration(false).validation_token_config(tokens);
        Ok((server, verifier))
    }
}

/// A link that was accepted: receives batches and control frames, sends control frames.
pub struct InLink {
    receiver: InReceiver,
}

/// The sending half of an accepted link.
pub type InSender = LinkHandle;

/// The one receiving half of an accepted link. Dropping it closes the link.
pub struct InReceiver {
    frames: FrameReceiver,
    reading: bool,
}

impl InLink {
    /// The sending half, to be cloned, and the one receiving half.
    #[must_use]
    pub fn split(self) -> (InSender, InReceiver) {
        (LinkHandle { core: self.receiver.frames.core.clone() }, self.receiver)
    }

    /// What the peer said of itself; its mesh, region and router are those of its certificate.
    #[must_use]
    pub fn peer(&self) -> &Hello {
        self.receiver.frames.core.peer()
    }
}

impl InReceiver {
    /// Starts reading parcels, beside the caller, until the link ends. Until then parcels wait, and soon the sender with them. To be
    /// called once: any later call is ignored, since two handlers would tear flows apart.
    pub fn run_parcels(&mut self, handler: Arc<dyn BatchHandler>) {
        if !std::mem::replace(&mut self.reading, true) {
            let core = &self.frames.core;
            core.spawn(receive(core.wire.clone(), core.limits(), handler));
        }
    }

    /// The next control frame. Cancel safe.
    ///
    /// # Errors
    /// Why the link ended.
    pub async fn recv(&mut self) -> Result<Frame, LinkError> {
        self.frames.recv().await
    }
}
