//! `amqps`: the server is checked against the given authority, and the client shows its certificate.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Raw, access, context, down, event, flow, open, to_queue, up};
use longhaul_broker::Connector;
use longhaul_config::{RabbitMq as Access, Secret, Tls};
use longhaul_rabbitmq::RabbitMqConnector;
use longhaul_test_brokers::rabbitmq::RabbitMq;
use longhaul_test_brokers::{free_port, skip};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// An authority and what it signed, as PEM files.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn make() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for authority in ["ca", "foreign"] {
            let mut params = CertificateParams::new(Vec::new()).expect("parameters");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, authority);
            let issuer =
                CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
            fs::write(dir.path().join(format!("{authority}.pem")), issuer.pem()).expect("a file");
            if authority == "ca" {
                for name in ["server", "client"] {
                    let key = KeyPair::generate().expect("a key");
                    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
                    // Erlang takes a certificate for self-signed whose subject is its issuer.
                    params.distinguished_name.push(DnType::CommonName, name);
                    let cert = params.signed_by(&key, &issuer).expect("a certificate");
                    fs::write(dir.path().join(format!("{name}.pem")), cert.pem()).expect("a file");
                    fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).expect("a file");
                }
            }
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tls(&self, authority: &str, client: Option<&Path>) -> Tls {
        Tls {
            ca: Some(self.path(authority)),
            cert: client.map(Path::to_owned),
            key: client.map(|cert| cert.with_extension("key")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_checks_both_sides() {
    if std::env::var_os("LONGHAUL_TEST_RABBITMQ").is_some() {
        skip("tls_checks_both_sides", "an external broker has other certificates");
        return;
    }
    let certificates = Certificates::make();
    let port = free_port();
    let path = |name: &str| certificates.path(name).display().to_string();
    let node = RabbitMq::start_with(&format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
         ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true",
        path("ca.pem"),
        path("server.pem"),
        path("server.key"),
    ))
    .expect("RabbitMQ starts");
    Raw::connect(node.uri()).await.queue("safe", "quorum").await;
    let connector = |tls| {
        let uri = Secret::new(format!("amqps://guest:guest@localhost:{port}/%2f"));
        let cfg = Access { uri, tls: Some(tls), ..access("") };
        RabbitMqConnector::new(cfg, context()).expect("a good configuration")
    };
    let client = certificates.path("client.pem");

    let good = connector(certificates.tls("ca.pem", Some(&client)));
    up(&good).await;
    let sink = good.sink(to_queue("safe")).expect("a sink");
    let mut writer = open(&*sink, &flow("tls")).await.writer;
    writer.write(vec![event(1, "t", 100)]).await.expect("written");

    let distrusting = connector(certificates.tls("foreign.pem", Some(&client)));
    let reason = down(&distrusting).await;
    assert!(reason.to_lowercase().contains("certificate"), "{reason}");
    let nameless = connector(certificates.tls("ca.pem", None));
    down(&nameless).await;
    let unreadable = connector(certificates.tls("nowhere.pem", None));
    let reason = down(&unreadable).await;
    assert!(reason.contains("nowhere.pem"), "{reason}");
}
