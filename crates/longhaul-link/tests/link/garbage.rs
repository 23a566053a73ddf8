//! Peers that break the protocol, and things that are no peers: each harms itself only.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use longhaul_link::{InReceiver, LinkConfig, LinkError};
use longhaul_wire::{BATCH_HEADER_BYTES, Frame, encode_frame};

use crate::support::{Inbox, Mesh, batch, listen, meet, pair, within};

/// A QUIC client with a good certificate that says what it likes.
pub(crate) fn foreign(own: &LinkConfig) -> (quinn::Endpoint, quinn::ClientConfig) {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let files = own.identity.files();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(&files.cert).unwrap()],
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    tls.alpn_protocols = vec![b"longhaul/1".to_vec()];
    let client = quinn::ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap()));
    (quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap(), client)
}

/// A QUIC server with a good certificate that takes any client and says what it likes.
pub(crate) fn foreign_listener(own: &LinkConfig) -> quinn::Endpoint {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let files = own.identity.files();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&files.cert).unwrap()],
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    tls.alpn_protocols = vec![b"longhaul/1".to_vec()];
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    quinn::Endpoint::server(server, ([127, 0, 0, 1], 0).into()).unwrap()
}

/// Takes any server: it is the listener that is tested.
#[derive(Debug)]
struct Trusting;

impl rustls::client::danger::ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub(crate) fn hello(config: &LinkConfig) -> Bytes {
    let mut out = BytesMut::new();
    encode_frame(&Frame::Hello(config.hello()), &mut out).unwrap();
    out.freeze()
}

/// A good link and a bad peer on the same listener.
struct Scene {
    bad: quinn::Connection,
    control: quinn::SendStream,
    // Dropping it would stop the listener's side of the control stream, which is another fault than those of these tests.
    _answers: quinn::RecvStream,
    _endpoint: quinn::Endpoint,
    judged: InReceiver,
    good: crate::support::Pair,
}

impl Scene {
    async fn new() -> Self {
        let mut good = pair().await;
        let own = good.mesh.config("eu", "eu-bad");
        let (endpoint, client) = foreign(&own);
        let addr = good.listener.local_addr().unwrap();
        let bad = endpoint.connect_with(client, addr, "longhaul").unwrap().await.unwrap();
        let (mut control, answers) = bad.open_bi().await.unwrap();
        control.write_all(&hello(&own)).await.unwrap();
        let (_, mut judged) = within(good.listener.accept()).await.unwrap().unwrap().split();
        judged.run_parcels(Arc::new(Inbox::forbidding(13)));
        Self { bad, control, _answers: answers, _endpoint: endpoint, judged, good }
    }

    async fn parcel(&self, bytes: &[u8]) {
        let mut stream = self.bad.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.finish().unwrap();
    }

    /// Both ends name the fault, and the good link stands.
    async fn ends_with(mut self, code: u32, text: &str) {
        let ended = within(self.judged.recv()).await.unwrap_err();
        assert!(
            matches!(&ended, LinkError::Protocol { code: said, text: t } if *said == code && t.contains(text)),
            "{ended:?}"
        );
        match within(self.bad.closed()).await {
            quinn::ConnectionError::ApplicationClosed(closed) => {
                assert_eq!(closed.error_code, code.into());
                let reason = String::from_utf8_lossy(&closed.reason);
                assert!(reason.contains(text), "{reason:?} says {text:?}");
            }
            other => panic!("expected a close with a reason, found {other}"),
        }
        let (sender, _receiver) = self.good.incoming.split();
        sender.send(Frame::Close { handle: 1, path_epoch: 1 }).await.unwrap();
        assert!(within(self.good.out.recv()).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversize_control_frame_ends_its_link_only() {
    let mut scene = Scene::new().await;
    scene.control.write_all(&(64 * 1024 + 1_u32).to_le_bytes()).await.unwrap();
    scene.ends_with(0x112, "over the limit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_control_frame_ends_its_link_only() {
    let mut scene = Scene::new().await;
    scene.control.write_all(&[1, 0, 0, 0, 50]).await.unwrap();
    scene.ends_with(0x113, "kind 50").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hello_ends_its_link_only() {
    let mut scene = Scene::new().await;
    let own = scene.good.mesh.config("eu", "eu-bad");
    scene.control.write_all(&hello(&own)).await.unwrap();
    scene.ends_with(0x13, "second Hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_a_flipped_bit_ends_its_link_only() {
    let scene = Scene::new().await;
    let mut bytes = batch(1, 1, 5000).to_vec();
    bytes[BATCH_HEADER_BYTES + 1000] ^= 1;
    scene.parcel(&bytes).await;
    scene.ends_with(0x108, "checksum").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_that_ends_inside_a_batch_ends_its_link_only() {
    let scene = Scene::new().await;
    scene.parcel(&batch(1, 1, 5000)[..3000]).await;
    scene.ends_with(0x100, "end before").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_over_the_limit_is_refused_by_its_header_alone() {
    let scene = Scene::new().await;
    // Only the header is sent: nothing else is waited for.
    let bytes = batch(1, 1, 5 * 1024 * 1024);
    let mut stream = scene.bad.open_uni().await.unwrap();
    stream.write_all(&bytes[..BATCH_HEADER_BYTES]).await.unwrap();
    scene.ends_with(0x105, "over the limit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_instead_of_a_batch_ends_its_link_only() {
    let scene = Scene::new().await;
    scene.parcel(&[0xee; 200]).await;
    scene.ends_with(0x101, "begins with other bytes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_handler_refuses_ends_its_link_only() {
    let scene = Scene::new().await;
    scene.parcel(&batch(13, 1, 10)).await;
    scene.ends_with(0x200, "never opened").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_that_is_reset_is_no_fault() {
    let scene = Scene::new().await;
    let mut stream = scene.bad.open_uni().await.unwrap();
    stream.write_all(&batch(1, 1, 5000)[..3000]).await.unwrap();
    stream.reset(1_u32.into()).unwrap();
    // Had the reset counted, this would not be what the link ends with.
    scene.parcel(&batch(13, 1, 10)).await;
    scene.ends_with(0x200, "never opened").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_first_frame_than_hello_is_refused() {
    let mesh = Mesh::new("earth");
    let (mut listener, addr) = listen(&mesh.config("us", "us-1"));
    let (endpoint, client) = foreign(&mesh.config("eu", "eu-1"));
    let connection = endpoint.connect_with(client, addr, "longhaul").unwrap().await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let mut frame = BytesMut::new();
    encode_frame(&Frame::Heartbeat { at_micros: 1 }, &mut frame).unwrap();
    send.write_all(&frame).await.unwrap();
    let error = within(listener.accept()).await.unwrap().err().unwrap();
    assert!(matches!(error.cause(), LinkError::Hello(_)), "{error}");
    assert!(within(connection.closed()).await.to_string().contains("before the Hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_port_harms_nobody() {
    let mesh = Mesh::new("earth");
    let (mut listener, addr) = listen(&mesh.config("us", "us-1"));
    let (out, _incoming) = meet(&mesh.config("eu", "eu-1"), "us", &mut listener).await;
    let out = out.unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for nth in 0..2000_u32 {
        let mut noise = BytesMut::new();
        // Short and long headers of QUIC, and neither.
        noise.put_u8([0x40, 0xc0, 0x00, 0xff][nth as usize % 4]);
        noise.extend((0..nth % 1400).map(|at| (at * 31 + nth) as u8));
        socket.send_to(&noise, addr).unwrap();
    }
    assert!(!out.is_closed());
    let (again, incoming) = meet(&mesh.config("eu", "eu-2"), "us", &mut listener).await;
    assert!(again.is_ok() && incoming.is_ok());
}
