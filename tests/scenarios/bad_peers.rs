//! Peers that must not come in: of another mesh, another region, another authority, expired, without a certificate; noise; and members that
//! break the protocol. Each is refused with a line in the log and a count by reason; a healthy flow does not notice; and what could not be
//! sent because of one is still in its source, and arrives when the right peer is there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use longhaul_link::certs::{self, Pem, RouterCert};
use longhaul_link::{Dialer, Identity, LinkConfig, LinkError, Listener, WindowHint};
use longhaul_tests::audit::assert_audits;
use longhaul_tests::http::{assert_exactly, count, get_status, numbers, publish_numbers, publish_steadily, wait_count};
use longhaul_tests::mesh::{MESH, Mesh};
use longhaul_tests::relay::Relay;
use longhaul_tests::wait::until;
use longhaul_wire::{FlowOpen, Frame, Hello, PROTOCOL_VERSION, encode_frame};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A mesh whose flow from `c` to `b` is healthy and under load, with a bad peer on its way to `b`.
struct Scene {
    mesh: Mesh,
    destination: String,
    published: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    producer: tokio::task::JoinHandle<()>,
    folder: TempDir,
}

fn route(name: &str, from: &str, to: &str, broker: &str) -> String {
    format!(
        "name: {name}\nfrom: {{region: {from}, broker: events, topics: [\"orders.>\"]}}\n\
         to: [{{region: {to}, broker: {broker}, topic: \"{{topic}}\"}}]\nstart: earliest"
    )
}

impl Scene {
    async fn start() -> Self {
        let (mesh, source) = Mesh::new(&["b", "c"]).embedded("c", "events");
        let (mesh, destination) = mesh.embedded("b", "events");
        let mut mesh = mesh.route(&route("healthy", "c", "b", "events"));
        mesh.start().await;
        mesh.wait_streaming("c").await;
        let (published, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let producer = tokio::spawn(publish_steadily(source, Arc::clone(&published), Arc::clone(&stop)));
        let folder = tempfile::Builder::new().prefix("longhaul-test-").tempdir().expect("a temporary folder");
        Self { mesh, destination, published, stop, producer, folder }
    }

    fn listener(&self) -> SocketAddr {
        self.mesh.link_address("b").parse().expect("an address")
    }

    async fn refused(&self, reason: &str) -> f64 {
        self.mesh.metric("b", "longhaul_refused_connections_total", &[&format!("reason=\"{reason}\"")]).await
    }

    async fn refused_in_all(&self) -> f64 {
        self.mesh.metric("b", "longhaul_refused_connections_total", &[]).await
    }

    /// Waits until one more connection was refused for that reason, and the log says it in words.
    async fn wait_refused(&self, reason: &str, before: f64, says: &str) {
        until(&format!("one more is refused as {reason}"), PATIENCE, async || {
            (self.refused(reason).await >= before + 1.0).then_some(())
        })
        .await;
        let says = says.replace('\\', "");
        let log = async || self.mesh.log("b").replace('\\', "");
        until(&format!("the log says {says}"), PATIENCE, async || log().await.contains(&says).then_some(())).await;
        let refused = self.mesh.links("b").await.refused;
        let found = refused.iter().any(|refusal| refusal.reason == reason && refusal.text.contains(&says));
        assert!(found, "the API says {says}: {refused:?}");
    }

    /// The healthy flow moved all the time, lost nothing and repeated nothing; the router is as it was.
    async fn end(mut self) {
        for path in ["livez", "readyz", "v1/flows", "v1/links"] {
            let url = format!("{}/{path}", self.mesh.admin_url("b"));
            assert_eq!(get_status(&url).await, Some(200), "{path}");
        }
        let seen = count(&self.destination).await;
        wait_count(&self.destination, seen + 50, PATIENCE).await;
        self.stop.store(true, Ordering::Relaxed);
        (&mut self.producer).await.expect("the producer ended well");
        let all = self.published.load(Ordering::Relaxed);
        wait_count(&self.destination, all, PATIENCE).await;
        assert_exactly(&numbers(&self.destination).await, 0..all);
        assert_eq!(self.mesh.metric("b", "longhaul_task_panics_total", &[]).await, 0.0);
        assert_eq!(self.mesh.links("c").await.out[0].connects, 1, "the healthy link never went");
        assert_audits(&self.mesh, &["b", "c"]).await;
    }
}

/// A proper certificate of that router.
fn proper(mesh: &str, region: &str) -> RouterCert {
    RouterCert::new(mesh, region, "router-9", &[]).expect("names that can stand in a certificate")
}

fn expired(region: &str) -> RouterCert {
    let now = SystemTime::now();
    RouterCert { not_before: now - 2 * DAY, not_after: now - DAY, ..proper(MESH, region) }
}

/// Files of a certificate, in a folder of their own; `trusts` is the authority that this peer believes in.
fn identity(folder: &TempDir, issuer: &Pem, wanted: &RouterCert, trusts: &Pem) -> Arc<Identity> {
    let own = tempfile::tempdir_in(folder.path()).expect("a folder").keep();
    let pem = certs::make(issuer, wanted).expect("a certificate");
    let files = certs::write(&own, "peer", &trusts.cert, &pem).expect("its files");
    Arc::new(Identity::load(files).expect("an identity"))
}

async fn dial(config: &LinkConfig, to: SocketAddr) -> Result<longhaul_link::OutLink, LinkError> {
    Dialer::new(config).expect("a socket").dial(to, "b", WindowHint::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_make_no_peer_are_refused_by_reason() {
    let scene = Scene::start().await;
    let (ours, foreign) = (scene.mesh.ca().clone(), certs::make_ca(MESH).expect("an authority"));
    let nameless = RouterCert { uris: Vec::new(), ..proper(MESH, "c") };
    let cases = [
        ("certificate_wrong_mesh", "it is of mesh \"elsewhere\"", &ours, proper("elsewhere", "c")),
        ("certificate_expired", "it has expired", &ours, expired("c")),
        ("certificate_foreign_ca", "it was not issued by the CA of this mesh", &foreign, proper(MESH, "c")),
        ("certificate_name", "it has no URI name", &ours, nameless),
    ];
    for (reason, says, issuer, wanted) in cases {
        let before = scene.refused(reason).await;
        // By hand: a router with such a certificate would itself refuse the mesh that it dials, or not start.
        let pem = certs::make(issuer, &wanted).expect("a certificate");
        assert_refused(by_hand(&scene, Some(&pem)).await).await;
        scene.wait_refused(reason, before, says).await;
    }
    // Its certificate says one region, its Hello another.
    let before = scene.refused("hello").await;
    let mut config = LinkConfig::new(identity(&scene.folder, &ours, &proper(MESH, "d"), &ours), 1);
    config.region = "c".into();
    let refused = dial(&config, scene.listener()).await.err().expect("refused").to_string();
    assert!(refused.contains("it says region \"c\", its certificate says \"d\""), "{refused}");
    scene.wait_refused("hello", before, "it says region \"c\", its certificate says").await;
    // No certificate at all.
    let before = scene.refused("certificate_missing").await;
    assert_refused(by_hand(&scene, None).await).await;
    scene.wait_refused("certificate_missing", before, "none was presented").await;
    scene.end().await;
}

/// A router of one region that opens a flow of another region's events: the link is good, the flow is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_may_not_send_what_comes_from_another_region() {
    let scene = Scene::start().await;
    let ours = scene.mesh.ca().clone();
    let config = LinkConfig::new(identity(&scene.folder, &ours, &proper(MESH, "d"), &ours), 1);
    let mut link = dial(&config, scene.listener()).await.expect("a member of the mesh");
    let open = FlowOpen {
        handle: 1,
        mesh: MESH.into(),
        route: "healthy".into(),
        from: ("c".into(), "events".into(), "log".into()),
        to: ("b".into(), "events".into()),
        partition: None,
        owner_epoch: u64::MAX,
        path_epoch: 1,
        route_hash: 0,
        class: 1,
        links: 1,
    };
    link.send(Frame::Open(open)).await.expect("sent");
    let answer = tokio::time::timeout(PATIENCE, link.recv()).await.expect("an answer").expect("a frame");
    let Frame::Reset { text, .. } = answer else { panic!("{answer:?}") };
    assert!(text.contains("a router of d may not send what comes from c"), "{text}");
    assert!(scene.mesh.log("b").contains("may not send what comes from c"));
    let refused = scene.mesh.metric("b", "longhaul_refused_messages_total", &["reason=\"open\""]).await;
    assert!(refused >= 1.0, "it is counted");
    scene.end().await;
}

/// A connection with our ALPN made by hand.
async fn by_hand(scene: &Scene, pem: Option<&Pem>) -> Result<quinn::Connection, quinn::ConnectionError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut tls = match pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let cert = CertificateDer::from_pem_slice(pem.cert.as_bytes()).expect("a certificate");
            let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(vec![cert], key).expect("a pair")
        }
    };
    tls.alpn_protocols = vec![b"longhaul/1".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("a TLS configuration for QUIC");
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint.connect(scene.listener(), "longhaul").expect("a configuration").await
}

/// Refused in the handshake, or closed right after it: a client is through with its handshake before the server has judged it.
async fn assert_refused(connection: Result<quinn::Connection, quinn::ConnectionError>) {
    let reason = match connection {
        Err(reason) => reason,
        Ok(connection) => tokio::time::timeout(PATIENCE, connection.closed()).await.expect("it is closed"),
    };
    eprintln!("the peer is told: {reason}");
    assert!(!matches!(reason, quinn::ConnectionError::TimedOut), "{reason}");
}

/// Takes any server: the one under test is the router.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn bytes_of(frame: &Frame) -> Bytes {
    let mut bytes = BytesMut::new();
    encode_frame(frame, &mut bytes).expect("a frame");
    bytes.freeze()
}

fn hello() -> Bytes {
    bytes_of(&Frame::Hello(Hello {
        version: PROTOCOL_VERSION,
        mesh: MESH.into(),
        region: "d".into(),
        router: "router-9".into(),
        instance: 1,
        event_bytes_max: 1 << 20,
        headers_max: 64,
        features: 0,
    }))
}

/// What a member of the mesh does after a proper Hello.
enum Misdeed {
    /// Says that on the control stream.
    Control(Vec<u8>),
    /// Sends that as a parcel.
    Parcel(Vec<u8>),
    /// Says that instead of a Hello.
    Instead(Vec<u8>),
}

/// A batch header that says what it likes, with a checksum that does not fit.
fn batch(version: u8, count: u32, raw_len: u32, body: &[u8], body_len: u32) -> Vec<u8> {
    let mut bytes = b"LH".to_vec();
    bytes.extend([version, 0]);
    bytes.extend([1_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat());
    bytes.extend([0; 4]);
    bytes.extend([1_u64.to_le_bytes(), 0_u64.to_le_bytes(), u64::from(count).to_le_bytes()].concat());
    bytes.extend([count, raw_len, body_len, 0xdead_beef].map(u32::to_le_bytes).concat());
    bytes.extend(body);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_break_the_protocol_lose_their_link_alone() {
    let scene = Scene::start().await;
    let pem = certs::make(scene.mesh.ca(), &proper(MESH, "d")).expect("a certificate");
    let oversize = [&(10_u32 << 20).to_le_bytes()[..], &[3], &[0; 100]].concat();
    let huge = batch(1, 10, u32::MAX, &[0; 64], 64);
    let cases = [
        ("a frame that declares 10 MiB", Misdeed::Control(oversize.clone())),
        ("a frame of an unknown kind", Misdeed::Control([&1_u32.to_le_bytes()[..], &[40]].concat())),
        ("a frame whose fields end early", Misdeed::Control([&2_u32.to_le_bytes()[..], &[3, 0xff]].concat())),
        ("an empty frame", Misdeed::Control(vec![0; 4])),
        ("a parcel of noise", Misdeed::Parcel(vec![0x5a; 5_000])),
        ("a batch of another version", Misdeed::Parcel(batch(9, 1, 64, &[0; 64], 64))),
        ("a batch that declares 4 GiB", Misdeed::Parcel(huge)),
        ("a batch with a wrong checksum", Misdeed::Parcel(batch(1, 1, 64, &[0; 64], 64))),
        ("a batch that is cut short", Misdeed::Parcel(batch(1, 1, 64, &[0; 10], 64))),
        ("a heartbeat before the Hello", Misdeed::Instead(bytes_of(&Frame::Heartbeat { at_micros: 1 }).to_vec())),
        ("an oversize Hello", Misdeed::Instead(oversize)),
    ];
    for (what, misdeed) in cases {
        let before = scene.refused_in_all().await;
        let connection = by_hand(&scene, Some(&pem)).await.expect("a member comes in");
        let (mut send, _recv) = connection.open_bi().await.expect("a control stream");
        let first = if let Misdeed::Instead(bytes) = &misdeed { Bytes::from(bytes.clone()) } else { hello() };
        send.write_all(&first).await.expect("written");
        match misdeed {
            Misdeed::Control(bytes) => send.write_all(&bytes).await.expect("written"),
            Misdeed::Parcel(bytes) => {
                let mut parcel = connection.open_uni().await.expect("a stream");
                parcel.write_all(&bytes).await.expect("written");
                let _ = parcel.finish();
            }
            Misdeed::Instead(_) => {}
        }
        let closed = tokio::time::timeout(PATIENCE, connection.closed()).await;
        let closed = closed.unwrap_or_else(|_| panic!("{what}: the link stays open"));
        eprintln!("{what}: {closed}");
        let quinn::ConnectionError::ApplicationClosed(reason) = closed else { panic!("{what}: {closed}") };
        assert!(!reason.reason.is_empty() && reason.error_code.into_inner() != 0, "{what}: {reason:?}");
        let said = String::from_utf8_lossy(&reason.reason).into_owned();
        until(&format!("{what}: the log says {said}"), PATIENCE, async || {
            scene.mesh.log("b").contains(&said).then_some(())
        })
        .await;
        until(&format!("{what}: it is counted"), PATIENCE, async || {
            (scene.refused_in_all().await > before).then_some(())
        })
        .await;
        let refused = scene.mesh.links("b").await.refused;
        assert!(refused.iter().any(|refusal| refusal.text.contains(&said)), "{what}: the API says {said}: {refused:?}");
    }
    scene.end().await;
}

/// Datagrams that are no QUIC, and some that begin like it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_at_the_link_port_harms_nobody() {
    let scene = Scene::start().await;
    let before = scene.refused("noise").await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let mut state = 0x1234_5678_9abc_def0_u64;
    for number in 0..5_000_usize {
        let mut datagram: Vec<u8> = (0..number % 1_400 + 1)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state.to_be_bytes()[0]
            })
            .collect();
        // Every second one looks like the first packet of a connection, of this or of an unknown version.
        if number % 2 == 0 && datagram.len() > 7 {
            let version: u32 = if number % 4 == 0 { 1 } else { 0xbad_cafe };
            datagram[0] = 0xc3;
            datagram[1..5].copy_from_slice(&version.to_be_bytes());
            datagram[5] = 8;
        }
        let sent = socket.send_to(&datagram, scene.listener()).await.expect("loopback takes datagrams");
        assert_eq!(sent, datagram.len());
    }
    scene.wait_refused("noise", before, "datagrams came that belong to no link").await;
    let refused = scene.mesh.links("b").await.refused;
    assert!(refused.iter().any(|refusal| refusal.reason == "noise"), "the API says so: {refused:?}");
    scene.end().await;
}

/// The other direction: a router dials what it takes for its peer, and finds somebody else there. The reason shows in log, metric and API,
/// the data stays in the source, and arrives when the right one is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_finds_somebody_else_keeps_its_data() {
    let (mesh, source) = Mesh::new(&["a", "b", "c"]).embedded("a", "events");
    let (mesh, destination) = mesh.embedded("b", "events");
    let (mesh, other) = mesh.embedded("c", "events");
    let relay = Relay::start(&mesh.link_address("b")).await;
    let right: SocketAddr = mesh.link_address("b").parse().expect("an address");
    let mut mesh = mesh
        .via("a", "b", &relay.address())
        .route(&route("disturbed", "a", "b", "events"))
        .route(&route("healthy", "a", "c", "events"));
    let folder = tempfile::Builder::new().prefix("longhaul-test-").tempdir().expect("a temporary folder");
    let (ours, foreign) = (mesh.ca().clone(), certs::make_ca(MESH).expect("an authority"));
    let cases = [
        ("certificate_wrong_region", "it is of region \"d\", expected region \"b\"", &ours, proper(MESH, "d")),
        (
            "certificate_wrong_mesh",
            "it is of mesh \"elsewhere\", expected mesh \"test\"",
            &ours,
            proper("elsewhere", "b"),
        ),
        ("certificate_expired", "it has expired", &ours, expired("b")),
        ("certificate_foreign_ca", "it was not issued by the CA of this mesh", &foreign, proper(MESH, "b")),
    ];
    // The first one is there before the router comes.
    let impostor = |issuer: &Pem, wanted: &RouterCert| {
        let identity = identity(&folder, issuer, wanted, &ours);
        Listener::bind("127.0.0.1:0".parse().expect("an address"), &LinkConfig::new(identity, 1)).expect("a listener")
    };
    let mut published = 0;
    for (round, (reason, says, issuer, wanted)) in cases.iter().enumerate() {
        let listener = impostor(issuer, wanted);
        relay.lead_to(listener.local_addr().expect("an address"));
        if round == 0 {
            mesh.start().await;
        }
        let link = until(&format!("the link says {says}"), PATIENCE, async || {
            let links = mesh.links("a").await.out;
            links.into_iter().find(|link| !link.up && link.error.as_ref().is_some_and(|error| error.contains(says)))
        })
        .await;
        assert_eq!(link.region, "b");
        assert!(mesh.log("a").replace('\\', "").contains(says), "{}", mesh.log("a"));
        assert_eq!(mesh.metric("a", "longhaul_link_up", &["region=\"b\""]).await, 0.0);
        let label = format!("reason=\"{reason}\"");
        assert!(mesh.metric("a", "longhaul_refused_connections_total", &[&label]).await >= 1.0, "{reason}");
        publish_numbers(&source, "orders.new", published..published + 100).await;
        published += 100;
        wait_count(&other, published, PATIENCE).await;
        assert_eq!(
            (count(&source).await, count(&destination).await),
            (published, 0),
            "the data is in its source alone"
        );
    }
    relay.lead_to(right);
    wait_count(&destination, published, PATIENCE).await;
    assert_exactly(&numbers(&destination).await, 0..published);
    assert_exactly(&numbers(&other).await, 0..published);
    assert_audits(&mesh, &["a", "b", "c"]).await;
}
