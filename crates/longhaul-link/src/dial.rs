//! Dialling: the side that owns flows and sends events.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Deref,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use longhaul_wire::Frame;
use quinn::{ClientConfig, Connection, Endpoint};
use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;

use crate::{
    Carrier, CertificateFault, Class, Identity, LinkConfig, LinkError, LinkStats, RouterName, WindowHint,
    congestion::Farewell,
    control::{Opening, refuse, watch_certificate},
    endpoint::{endpoint, endpoint_over},
    link::{FrameReceiver, LinkHandle, Wire},
    outbox::Outbox,
    parcel::pump,
    strangers::Strangers,
    tls::inspect,
    transport::{Role, transport},
    verify::Peer,
};

/// QUIC, TLS and the Hellos must be through by then.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Routers are known by the URI name in their certificate; TLS wants some name all the same, and it is not sent.
pub(crate) const SERVER_NAME: &str = "longhaul";

/// Dials routers of other regions, all from one socket.
pub struct Dialer {
    endpoint: Endpoint,
    config: LinkConfig,
}

impl Dialer {
    /// A dialler on a port that the system chooses, for IPv6 and IPv4 where there are both.
    ///
    /// # Errors
    /// [`LinkError::Socket`].
    pub fn new(config: &LinkConfig) -> Result<Self, LinkError> {
        let own = config.identity.current();
        let endpoint =
            endpoint(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), &own, "dialler", None, &Strangers::default())
                .or_else(|_| {
                    endpoint(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), &own, "dialler", None, &Strangers::default())
                })?;
        Ok(Self { endpoint, config: config.clone() })
    }

    /// A dialler on what carries packets in place of a socket.
    ///
    /// # Errors
    /// [`LinkError::Socket`].
    pub fn over(carrier: Carrier, config: &LinkConfig) -> Result<Self, LinkError> {
        let endpoint = endpoint_over(carrier, &config.identity.current(), "dialler", None, &Strangers::default())?;
        Ok(Self { endpoint, config: config.clone() })
    }

    /// Dials a router of a region. Ready when both Hellos are exchanged and found good.
    ///
    /// # Errors
    /// [`LinkError::Peer`] with the reason.
    pub async fn dial(&self, addr: SocketAddr, peer_region: &str, window: WindowHint) -> Result<OutLink, LinkError> {
        tokio::time::timeout(HANDSHAKE_TIMEOUT, self.connect(addr, peer_region, window))
            .await
            .unwrap_or(Err(LinkError::TimedOut))
            .map_err(|error| error.at(addr))
    }

    async fn connect(&self, addr: SocketAddr, region: &str, window: WindowHint) -> Result<OutLink, LinkError> {
        let own = self.config.identity.current();
        let (tls, verifier) = own.client(region).map_err(LinkError::Handshake)?;
        let mut client = ClientConfig::new(Arc::new(tls));
        let LinkConfig { segmentation_offload, .. } = self.config;
        let farewell = Farewell::default();
        client.transport_config(transport(Role::Dialer, window, segmentation_offload, &farewell));
        let connecting = self
            .endpoint
            .connect_with(client, addr, SERVER_NAME)
            .map_err(|error| LinkError::Handshake(error.to_string()))?;
        let connection = connecting.await.map_err(|error| match verifier.verdict().fault {
            Some(fault) => LinkError::Certificate(fault),
            None => error.into(),
        })?;
        debug_assert!(verifier.verdict().judged > 0, "no handshake without the verifier");
        let greeted = self.greet(&connection, region, farewell).await;
        greeted.inspect_err(|error| refuse(&connection, error))
    }

    async fn greet(&self, connection: &Connection, region: &str, farewell: Farewell) -> Result<OutLink, LinkError> {
        let (chain, peer, peer_expiry) = certified(connection)?;
        let here = self.config.hello();
        let (send, recv) = connection.open_bi().await?;
        let mut opening = Opening::new(send, recv);
        let hello = opening.exchange(connection, Role::Dialer, &here, &peer).await?;
        let judged = Peer { chain, role: Role::Dialer, region: Some(region.to_owned()) };
        let wire = Wire::new(connection.clone(), peer_expiry, farewell);
        let outbox = Arc::new(Outbox::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(pump(wire.clone(), outbox.clone()));
        tasks.spawn(watch_certificate(wire.clone(), judged, self.config.identity.watch()));
        let receiver = opening.start(wire, &here, hello, tasks);
        let sender = OutSender { link: LinkHandle { core: receiver.core.clone() }, outbox };
        Ok(OutLink { sender, receiver })
    }

    /// The identity that it shows.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.config.identity
    }
}

/// A link that was dialled: sends batches and control frames, receives control frames.
pub struct OutLink {
    sender: OutSender,
    receiver: FrameReceiver,
}

/// The sending half of a dialled link; cheap to clone.
#[derive(Clone)]
pub struct OutSender {
    link: LinkHandle,
    outbox: Arc<Outbox>,
}

impl OutLink {
    /// The sending half, to be cloned, and the one receiving half.
    #[must_use]
    pub fn split(self) -> (OutSender, FrameReceiver) {
        (self.sender, self.receiver)
    }

    /// The sending half.
    #[must_use]
    pub fn sender(&self) -> &OutSender {
        &self.sender
    }

    /// The next control frame; see [`FrameReceiver::recv`].
    ///
    /// # Errors
    /// Why the link ended.
    pub async fn recv(&mut self) -> Result<Frame, LinkError> {
        self.receiver.recv().await
    }
}

impl Deref for OutLink {
    type Target = OutSender;

    fn deref(&self) -> &OutSender {
        &self.sender
    }
}

impl Deref for OutSender {
    type Target = LinkHandle;

    fn deref(&self) -> &LinkHandle {
        &self.link
    }
}

impl OutSender {
    /// Queues an encoded batch of a flow. Waits only while that flow has 256 KiB or more queued, whatever
    /// other flows do. Dropping the future before it is ready queues nothing.
    ///
    /// # Errors
    /// [`LinkError::Cancelled`] when the flow was cancelled meanwhile; else why the link ended.
    pub async fn submit(&self, handle: u32, class: Class, batch: Bytes) -> Result<(), LinkError> {
        match self.outbox.submit(handle, class, batch).await {
            Err(LinkError::Closed(_)) => Err(self.link.core.wire.ended()),
            other => other,
        }
    }

    /// Drops what a flow has queued, and says how many bytes that were. What is in a parcel already arrives, with its old path epoch.
    pub fn cancel(&self, handle: u32) -> usize {
        self.outbox.cancel(handle)
    }

    /// Measures of the link, its queue included.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let queued = u64::try_from(self.outbox.queued_bytes()).unwrap_or(u64::MAX);
        LinkStats { queued, ..self.link.stats() }
    }
}

/// The certificates that the peer has proven to hold, with the name and the end of its own.
pub(crate) fn certified(
    connection: &Connection,
) -> Result<(Vec<CertificateDer<'static>>, RouterName, SystemTime), LinkError> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or(LinkError::Certificate(CertificateFault::Missing))?;
    let first = chain.first().ok_or(LinkError::Certificate(CertificateFault::Missing))?;
    let (name, expiry) = inspect(first)?;
    Ok((*chain, name, expiry))
}
