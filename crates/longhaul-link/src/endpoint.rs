//! UDP sockets and QUIC endpoints: one for dialling, one for listening, never the same.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use longhaul_event::HEADER_COUNT_MAX;
use longhaul_wire::{EVENT_BYTES_DEFAULT, Hello, PROTOCOL_VERSION};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Identity, WindowHint, error::LinkError, strangers::Strangers, tls::Loaded, transport::MTU_MAX};

/// What the kernel is asked to buffer for a socket, each way.
const SOCKET_BUFFER_BYTES: usize = 16 * 1024 * 1024;

/// What a router brings to its links.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Name of the mesh, as in the certificate.
    pub mesh: String,
    /// Name of the region, as in the certificate.
    pub region: String,
    /// Name of the router, as in the certificate.
    pub router: String,
    /// Which life of the router this is.
    pub instance: u64,
    /// Certificate, key and CA.
    pub identity: Arc<Identity>,
    /// Largest event that this router takes.
    pub event_bytes_max: u32,
    /// What is known of the paths on which others dial this router.
    pub window: WindowHint,
    /// Whether the kernel or the network card cuts datagrams (GSO). Off for drivers that do it wrong.
    pub segmentation_offload: bool,
}

impl LinkConfig {
    /// A configuration with all names taken from the certificate, and defaults for the rest.
    #[must_use]
    pub fn new(identity: Arc<Identity>, instance: u64) -> Self {
        let name = identity.name();
        Self {
            mesh: name.mesh,
            region: name.region,
            router: name.router,
            instance,
            identity,
            event_bytes_max: EVENT_BYTES_DEFAULT,
            window: WindowHint::default(),
            segmentation_offload: true,
        }
    }

    /// What this router says of itself.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            version: PROTOCOL_VERSION,
            mesh: self.mesh.clone(),
            region: self.region.clone(),
            router: self.router.clone(),
            instance: self.instance,
            event_bytes_max: self.event_bytes_max,
            headers_max: u16::try_from(HEADER_COUNT_MAX).expect("the most headers of an event fit 16 bits"),
            features: 0,
        }
    }
}

/// What carries packets in place of a UDP socket of the system: a network that is simulated.
#[derive(Debug, Clone)]
pub struct Carrier {
    /// Sends and receives.
    pub socket: Arc<dyn AsyncUdpSocket>,
    /// What QUIC leaves to chance beside its secrets follows from this.
    pub seed: [u8; 32],
}

/// Makes an endpoint on a socket of its own.
pub(crate) fn endpoint(
    addr: SocketAddr,
    own: &Loaded,
    label: &str,
    server: Option<quinn::ServerConfig>,
    strangers: &Strangers,
) -> Result<Endpoint, LinkError> {
    let failed = |error: io::Error| LinkError::Socket { addr, text: error.to_string() };
    let socket = socket(addr).and_then(|socket| TokioRuntime.wrap_udp_socket(socket)).map_err(failed)?;
    Endpoint::new_with_abstract_socket(settings(own, label, strangers), server, socket, Arc::new(TokioRuntime))
        .map_err(failed)
}

/// Makes an endpoint on what carries packets in place of a socket.
pub(crate) fn endpoint_over(
    carrier: Carrier,
    own: &Loaded,
    label: &str,
    server: Option<quinn::ServerConfig>,
    strangers: &Strangers,
) -> Result<Endpoint, LinkError> {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let addr = carrier.socket.local_addr().unwrap_or(nowhere);
    let failed = |error: io::Error| LinkError::Socket { addr, text: error.to_string() };
    let mut config = settings(own, label, strangers);
    config.rng_seed(Some(carrier.seed));
    Endpoint::new_with_abstract_socket(config, server, carrier.socket, Arc::new(TokioRuntime)).map_err(failed)
}

/// Connection ids and stateless resets come from secrets that outlive the process, so that a router that was started anew can tell its
/// peers at once that it does not know their links.
fn settings(own: &Loaded, label: &str, strangers: &Strangers) -> EndpointConfig {
    let reset = aws_lc_rs::hmac::Key::new(
        aws_lc_rs::hmac::HMAC_SHA256,
        own.derive(&format!("longhaul stateless reset, {label}")).as_ref(),
    );
    let ids = own.derive(&format!("longhaul connection ids, {label}"));
    let ids = u64::from_le_bytes(*ids.as_ref().first_chunk().expect("an HMAC has 32 bytes"));
    let mut config = EndpointConfig::new(Arc::new(reset));
    let strangers = strangers.clone();
    config.max_udp_payload_size(MTU_MAX).expect("more than the least that QUIC allows");
    config.cid_generator(move || strangers.generator(ids));
    config
}

fn socket(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        // Where the system cannot do both, IPv6 alone is still worth having.
        let _ = socket.set_only_v6(false);
    }
    // Linux caps what it gives without an error, others refuse: either way the answer is what was got.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    warn_of_small_buffers(&socket);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Once per process: the kernel's limit is the same for every socket.
fn warn_of_small_buffers(socket: &Socket) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    let receive = socket.recv_buffer_size().unwrap_or(0);
    let send = socket.send_buffer_size().unwrap_or(0);
    if receive.min(send) < SOCKET_BUFFER_BYTES && !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            asked_bytes = SOCKET_BUFFER_BYTES,
            receive_bytes = receive,
            send_bytes = send,
            "the kernel gives UDP sockets smaller buffers than asked for; bursts will be lost on fast links, raise net.core.rmem_max and net.core.wmem_max"
        );
    }
}
