//! The anchor of the link: bare quinn between two processes, one stream for each parcel, windows and socket buffers as a link has them,
//! packets as large as asked for.
//! Nothing is encoded, checked or looked at.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use socket2::{Domain, Protocol, Socket, Type};

use crate::child;
use crate::figures::Random;
use crate::router::prepare;

/// As a link makes them.
const PARCEL_BYTES: usize = 256 * 1024;
const SOCKET_BUFFER_BYTES: usize = 16 * 1024 * 1024;
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Largest packet of quinn as it comes.
pub const PACKET_BYTES: u16 = 1_452;
const STREAMS_MAX: u32 = 1024;
/// Streams that are written at the same time.
const WRITERS: usize = 16;
/// As large as the generator's.
const POOL_PARCELS: usize = 256;

/// Makes a certificate for both roles, below that folder.
///
/// # Panics
/// When it cannot be written.
pub fn write_certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(folder.join("anchor.crt"), made.cert.der()).expect("a certificate's file");
    std::fs::write(folder.join("anchor.key"), made.signing_key.serialize_der()).expect("a key's file");
}

/// The role that receives: says its address, then counts bytes.
///
/// # Panics
/// When it cannot listen.
pub fn receive(folder: &Path, packet_bytes: u16) {
    let runtime = prepare();
    let _guard = runtime.enter();
    let key = PrivatePkcs8KeyDer::from(read(folder, "anchor.key"));
    let mut config =
        quinn::ServerConfig::with_single_cert(vec![certificate(folder)], key.into()).expect("a certificate");
    config.transport_config(transport(packet_bytes));
    let endpoint = endpoint(Some(config), packet_bytes);
    let taken = Arc::new(AtomicU64::new(0));
    let address = endpoint.local_addr().expect("a bound socket has an address");
    tokio::spawn(accept(endpoint, Arc::clone(&taken)));
    child::serve(&address.to_string(), || taken.load(Ordering::Relaxed));
    runtime.shutdown_background();
}

async fn accept(endpoint: Endpoint, taken: Arc<AtomicU64>) {
    let incoming = endpoint.accept().await.expect("the sender comes");
    let connection = incoming.await.expect("the sender knows the certificate");
    while let Ok(mut stream) = connection.accept_uni().await {
        let taken = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
                taken.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
            }
        });
    }
}

/// The role that sends to that address, until its parent is gone.
///
/// # Panics
/// When it cannot connect.
pub fn send(folder: &Path, to: SocketAddr, packet_bytes: u16) {
    let runtime = prepare();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate(folder)).expect("a certificate");
    let mut config = quinn::ClientConfig::with_root_certificates(Arc::new(roots)).expect("a root");
    config.transport_config(transport(packet_bytes));
    let connection = runtime.block_on(async {
        let connecting = endpoint(None, packet_bytes).connect_with(config, to, "localhost").expect("an address");
        connecting.await.expect("the receiver answers")
    });
    let pool = Random(1).bytes(POOL_PARCELS * PARCEL_BYTES);
    for writer in 0..WRITERS {
        runtime.spawn(write(connection.clone(), pool.clone(), writer));
    }
    child::serve("ready", || 0);
    runtime.shutdown_background();
}

async fn write(connection: Connection, pool: Bytes, mut nth: usize) {
    while let Ok(mut stream) = connection.open_uni().await {
        let at = nth % POOL_PARCELS * PARCEL_BYTES;
        nth += WRITERS;
        if stream.write_chunk(pool.slice(at..at + PARCEL_BYTES)).await.is_err() || stream.finish().is_err() {
            return;
        }
    }
}

fn transport(packet_bytes: u16) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(packet_bytes);
    config
        .mtu_discovery_config(Some(discovery))
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(WINDOW_BYTES.into())
        .send_window(WINDOW_BYTES.into())
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .keep_alive_interval(Some(Duration::from_secs(5)));
    Arc::new(config)
}

fn endpoint(server: Option<quinn::ServerConfig>, packet_bytes: u16) -> Endpoint {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has a free port");
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(packet_bytes).expect("more than the least that QUIC allows");
    let endpoint = Endpoint::new(config, server, UdpSocket::from(socket), Arc::new(TokioRuntime));
    endpoint.expect("an endpoint")
}

fn certificate(folder: &Path) -> CertificateDer<'static> {
    CertificateDer::from(read(folder, "anchor.crt"))
}

fn read(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).expect("the certificate was made")
}
