//! Who is let in, who is not, and what both ends are told.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use longhaul_link::{
    CertificateFault, Dialer, Identity, IdentityError, LinkConfig, LinkError, RouterName, TlsFiles, WindowHint, certs,
};

use crate::support::{Mesh, PATIENCE, listen, meet, within};

fn certificate(error: &LinkError) -> &CertificateFault {
    match error.cause() {
        LinkError::Certificate(fault) => fault,
        other => panic!("expected a certificate fault, found {other:?}"),
    }
}

fn refused_by_peer(error: &LinkError, text: &str) {
    match error.cause() {
        LinkError::RefusedByPeer { text: said, .. } => assert!(said.contains(text), "{said:?} says {text:?}"),
        other => panic!("expected a refusal by the peer, found {other:?}"),
    }
}

/// The dialler's certificate is wrong: the listener says why, and the dialler is told.
async fn listener_refuses(mesh: &Mesh, dialling: &LinkConfig, text: &str) -> CertificateFault {
    let (mut listener, _) = listen(&mesh.config("us", "us-1"));
    let (out, incoming) = meet(dialling, "us", &mut listener).await;
    let (Err(out), Err(incoming)) = (out, incoming) else { panic!("the link is refused") };
    refused_by_peer(&out, text);
    let good = meet(&mesh.config("eu", "eu-9"), "us", &mut listener).await;
    assert!(good.0.is_ok() && good.1.is_ok(), "and others are let in all the same");
    certificate(&incoming).clone()
}

/// The listener's certificate is wrong for who dials: the dialler says why, and the listener is told.
async fn dialler_refuses(mesh: &Mesh, listening: &LinkConfig, text: &str) -> CertificateFault {
    let (mut listener, _) = listen(listening);
    let (out, incoming) = meet(&mesh.config("eu", "eu-1"), "us", &mut listener).await;
    let (Err(out), Err(incoming)) = (out, incoming) else { panic!("the link is refused") };
    refused_by_peer(&incoming, text);
    certificate(&out).clone()
}

fn expired(mesh: &Mesh, region: &str, router: &str) -> LinkConfig {
    let now = SystemTime::now();
    let mut wanted = mesh.cert(region, router);
    wanted.not_before = now - Duration::from_secs(7200);
    wanted.not_after = now - Duration::from_secs(3600);
    mesh.config_of("expired", &wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_certificates_are_let_in_and_named() {
    let mesh = Mesh::new("earth");
    let (mut listener, _) = listen(&mesh.config("us", "us-1"));
    let (out, incoming) = meet(&mesh.config("eu", "eu-1"), "us", &mut listener).await;
    let (out, incoming) = (out.unwrap(), incoming.unwrap());
    assert_eq!((out.peer().region.as_str(), out.peer().router.as_str()), ("us", "us-1"));
    assert_eq!((incoming.peer().region.as_str(), incoming.peer().router.as_str()), ("eu", "eu-1"));
    assert!(out.peer_expiry() > SystemTime::now() + Duration::from_secs(300 * 24 * 3600));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialler_of_another_mesh_of_the_same_ca_is_refused() {
    let mesh = Mesh::new("earth");
    let mut wanted = mesh.cert("eu", "eu-1");
    wanted.uris = vec!["longhaul://mars/eu/eu-1".into()];
    // It would take the listener for its own, so that only the listener can object.
    let other = mesh.config_of("mars", &wanted);
    let (mut listener, _) = listen(&mesh.config("us", "us-1"));
    let (out, incoming) = meet(&other, "us", &mut listener).await;
    let fault = CertificateFault::WrongMesh { expected: "mars".into(), found: "earth".into() };
    assert_eq!(certificate(&out.err().unwrap()), &fault, "the dialler sees it first");
    refused_by_peer(&incoming.err().unwrap(), "mesh");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_of_another_mesh_is_refused() {
    let mesh = Mesh::new("earth");
    let mut wanted = mesh.cert("us", "us-1");
    wanted.uris = vec!["longhaul://mars/us/us-1".into()];
    let fault = dialler_refuses(&mesh, &mesh.config_of("mars", &wanted), "mesh").await;
    assert_eq!(fault, CertificateFault::WrongMesh { expected: "earth".into(), found: "mars".into() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_of_another_region_is_refused() {
    let mesh = Mesh::new("earth");
    let fault = dialler_refuses(&mesh, &mesh.config("ap", "ap-1"), "region").await;
    assert_eq!(fault, CertificateFault::WrongRegion { expected: "us".into(), found: "ap".into() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_differs_from_the_certificate_is_refused() {
    let mesh = Mesh::new("earth");
    type Change = fn(&mut LinkConfig);
    let changes: [(&str, Change); 3] = [
        ("mesh", |config| config.mesh = "mars".into()),
        ("region", |config| config.region = "ap".into()),
        ("router", |config| config.router = "eu-2".into()),
    ];
    for (what, change) in changes {
        let mut lying = mesh.config("eu", "eu-1");
        change(&mut lying);
        let (mut listener, _) = listen(&mesh.config("us", "us-1"));
        let (out, incoming) = meet(&lying, "us", &mut listener).await;
        let (out, incoming) = (out.err().unwrap(), incoming.err().unwrap());
        assert!(matches!(incoming.cause(), LinkError::Hello(text) if text.contains(what)), "{incoming}");
        assert!(matches!(out.cause(), LinkError::ClosedByPeer { code: 0x10, text } if text.contains(what)), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_whose_hello_lies_is_refused() {
    let mesh = Mesh::new("earth");
    let mut lying = mesh.config("us", "us-1");
    lying.region = "ap".into();
    let (mut listener, _) = listen(&lying);
    let (out, incoming) = meet(&mesh.config("eu", "eu-1"), "us", &mut listener).await;
    let error = out.err().unwrap();
    assert!(matches!(error.cause(), LinkError::Hello(text) if text.contains("region")), "{error}");
    // The listener had said its Hello and took the link for good; it learns the reason when the link ends.
    let (_, mut receiver) = incoming.unwrap().split();
    let ended = within(receiver.recv()).await.unwrap_err();
    assert!(matches!(ended, LinkError::ClosedByPeer { code: 0x10, .. }), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_ca_is_refused_at_both_ends() {
    let (mesh, stranger) = (Mesh::new("earth"), Mesh::new("earth"));
    // Signed by the stranger, but trusting us: only the listener objects.
    let files = stranger.write("eu-1", &stranger.cert("eu", "eu-1"), &mesh.ca);
    let dialling = LinkConfig::new(Arc::new(Identity::load(files).unwrap()), 1);
    assert_eq!(listener_refuses(&mesh, &dialling, "certificate").await, CertificateFault::ForeignCa);
    let fault = dialler_refuses(&mesh, &stranger.config("us", "us-1"), "certificate").await;
    assert_eq!(fault, CertificateFault::ForeignCa);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_certificates_are_refused_at_both_ends() {
    let mesh = Mesh::new("earth");
    assert_eq!(listener_refuses(&mesh, &expired(&mesh, "eu", "eu-1"), "expired").await, CertificateFault::Expired);
    assert_eq!(dialler_refuses(&mesh, &expired(&mesh, "us", "us-1"), "expired").await, CertificateFault::Expired);
}

/// A QUIC client that is not Longhaul's: with or without a certificate, with resumption left on.
fn foreign_client(mesh: &Mesh, own: Option<&TlsFiles>) -> quinn::ClientConfig {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(mesh.ca.cert.as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut tls = match own {
        None => builder.with_no_client_auth(),
        Some(files) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&files.cert).unwrap()],
                PrivateKeyDer::from_pem_file(&files.key).unwrap(),
            )
            .unwrap(),
    };
    tls.alpn_protocols = vec![b"longhaul/1".to_vec()];
    tls.enable_early_data = true;
    quinn::ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap()))
}

/// A listener's configuration with a DNS name, for clients that want one.
fn named_listener(mesh: &Mesh) -> LinkConfig {
    let mut wanted = mesh.cert("us", "us-1");
    wanted.names = vec!["localhost".into()];
    mesh.config_of("us-1", &wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_is_refused() {
    let mesh = Mesh::new("earth");
    let (mut listener, addr) = listen(&named_listener(&mesh));
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let connecting = endpoint.connect_with(foreign_client(&mesh, None), addr, "localhost").unwrap();
    let incoming = within(listener.accept()).await.unwrap().err().unwrap();
    assert_eq!(certificate(&incoming), &CertificateFault::Missing);
    assert_eq!(incoming.label(), "certificate_missing");
    if let Ok(connection) = connecting.await {
        let reason = within(connection.closed()).await.to_string();
        assert!(reason.contains("certificate"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_name_no_router_are_refused() {
    let mesh = Mesh::new("earth");
    let (mut listener, addr) = listen(&named_listener(&mesh));
    let cases: [(&[&str], CertificateFault); 4] = [
        (&[], CertificateFault::NoName),
        (&["spiffe://earth/eu/eu-1"], CertificateFault::NoName),
        (&["longhaul://earth/eu/eu-1", "longhaul://earth/eu/eu-2"], CertificateFault::ManyNames),
        (&["longhaul://earth/eu"], CertificateFault::BadName("longhaul://earth/eu".into())),
    ];
    for (uris, fault) in cases {
        let mut wanted = mesh.cert("eu", "eu-1");
        wanted.uris = uris.iter().map(|&uri| uri.to_owned()).collect();
        let files = mesh.write("nameless", &wanted, &mesh.ca);
        let own = Identity::load(files.clone()).unwrap_err();
        assert!(
            matches!(&own, IdentityError::Name { fault: found, .. } if *found == fault),
            "its own router says so: {own}"
        );
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let connecting = endpoint.connect_with(foreign_client(&mesh, Some(&files)), addr, "localhost").unwrap();
        let incoming = within(listener.accept()).await.unwrap().err().unwrap();
        assert_eq!(certificate(&incoming), &fault);
        drop(connecting);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_handshake_is_resumed() {
    let (mesh, next) = (Mesh::new("earth"), Mesh::new("earth"));
    let listening = named_listener(&mesh);
    let (mut listener, addr) = listen(&listening);
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let files = mesh.write("eu-1", &mesh.cert("eu", "eu-1"), &mesh.ca);
    // One configuration for both handshakes: it would keep a ticket, if it were given one.
    let client = foreign_client(&mesh, Some(&files));
    let first = endpoint.connect_with(client.clone(), addr, "localhost").unwrap().await.unwrap();
    // A ticket would come right behind the handshake; a round trip on a stream comes later than that.
    let (mut send, mut recv) = first.open_bi().await.unwrap();
    send.write_all(&hello_of(&mesh.config("eu", "eu-1"))).await.unwrap();
    let _link = within(listener.accept()).await.unwrap().unwrap();
    recv.read_chunk(1, true).await.unwrap();
    // From now on, the listener trusts another CA.
    std::fs::write(&listening.identity.files().ca, &next.ca.cert).unwrap();
    listening.identity.reload().unwrap();
    let second = endpoint.connect_with(client, addr, "localhost").unwrap();
    let second = second.into_0rtt().err().expect("there is no early data without a ticket");
    let incoming = within(listener.accept()).await.unwrap().err().expect("the verifier is asked again, and refuses");
    assert_eq!(certificate(&incoming), &CertificateFault::ForeignCa);
    drop(second);
}

fn hello_of(config: &LinkConfig) -> bytes::Bytes {
    let mut out = bytes::BytesMut::new();
    longhaul_wire::encode_frame(&longhaul_wire::Frame::Hello(config.hello()), &mut out).unwrap();
    out.freeze()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_holds_from_the_next_handshake_on() {
    let mesh = Mesh::new("earth");
    let (dialling, listening) = (mesh.config("eu", "eu-1"), mesh.config("us", "us-1"));
    let (mut listener, addr) = listen(&listening);
    let dialer = Dialer::new(&dialling).unwrap();
    let (first, accepted) = tokio::join!(dialer.dial(addr, "us", WindowHint::default()), within(listener.accept()));
    let (first, _accepted) = (first.unwrap(), accepted.unwrap().unwrap());
    let mut wanted = mesh.cert("us", "us-1");
    wanted.not_after = SystemTime::now() + Duration::from_secs(3600);
    mesh.write("us-1", &wanted, &mesh.ca);
    listening.identity.reload().unwrap();
    assert!(listening.identity.expiry() < SystemTime::now() + Duration::from_secs(3601));
    let (second, accepted) = tokio::join!(dialer.dial(addr, "us", WindowHint::default()), within(listener.accept()));
    let (second, _accepted) = (second.unwrap(), accepted.unwrap().unwrap());
    assert!(second.peer_expiry() < first.peer_expiry());
    assert!(!first.is_closed(), "what stands is left alone");
    // A reload that fails changes nothing.
    std::fs::write(&listening.identity.files().key, "nothing").unwrap();
    let error = listening.identity.reload().unwrap_err().to_string();
    assert!(error.contains("key"), "{error}");
    let (third, _accepted) = tokio::join!(dialer.dial(addr, "us", WindowHint::default()), within(listener.accept()));
    assert!(third.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_ends_with_the_certificate_of_its_peer() {
    let mesh = Mesh::new("earth");
    let mut wanted = mesh.cert("us", "us-1");
    // Certificates end at whole seconds; this one lives for two to three.
    wanted.not_after = SystemTime::now() + Duration::from_secs(3);
    let (mut listener, _) = listen(&mesh.config_of("us-1", &wanted));
    let (out, incoming) = meet(&mesh.config("eu", "eu-1"), "us", &mut listener).await;
    let (out, incoming) = (out.unwrap(), incoming.unwrap());
    let (_, mut receiver) = incoming.split();
    let ended = tokio::time::timeout(PATIENCE, out.closed()).await.unwrap();
    assert_eq!(ended, LinkError::Expired);
    let told = within(receiver.recv()).await.unwrap_err();
    assert!(matches!(told, LinkError::ClosedByPeer { code: 0x12, .. }), "{told}");
    let (again, _) = meet(&mesh.config("eu", "eu-1"), "us", &mut listener).await;
    assert_eq!(certificate(&again.err().unwrap()), &CertificateFault::Expired);
}

#[test]
fn files_that_cannot_be_used_are_named_in_a_sentence() {
    let mesh = Mesh::new("earth");
    let files = mesh.write("eu-1", &mesh.cert("eu", "eu-1"), &mesh.ca);
    let other = mesh.write("eu-2", &mesh.cert("eu", "eu-2"), &mesh.ca);
    let identity = Identity::load(files.clone()).unwrap();
    let name = RouterName { mesh: "earth".into(), region: "eu".into(), router: "eu-1".into() };
    assert_eq!(identity.name(), name);
    let says = |files: TlsFiles, words: &[&str]| {
        let error = Identity::load(files).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error:?} says {words:?}");
    };
    let missing = mesh.folder.path().join("missing");
    says(TlsFiles { key: missing.clone(), ..files.clone() }, &["cannot read key", "missing"]);
    says(TlsFiles { ca: missing, ..files.clone() }, &["cannot read CA", "missing"]);
    says(TlsFiles { cert: files.key.clone(), ..files.clone() }, &["eu-1.key", "certificate"]);
    says(TlsFiles { key: other.key, ..files.clone() }, &["eu-1.crt", "key"]);
    says(TlsFiles { ca: files.key.clone(), ..files }, &["CA", "eu-1.key"]);
}

#[cfg(unix)]
#[test]
fn keys_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let mesh = Mesh::new("earth");
    let files = mesh.write("eu-1", &mesh.cert("eu", "eu-1"), &mesh.ca);
    assert_eq!(std::fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn names_that_would_break_the_uri_are_refused() {
    for name in ["", "a/b", "a b", "é"] {
        assert!(matches!(certs::RouterCert::new("earth", name, "r", &[]), Err(certs::CertsError::Name(_))));
    }
}
