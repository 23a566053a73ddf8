//! Certificates change while events move. Whatever is rotated (certificate, key, authority), no link goes down and nothing is lost or
//! repeated; who is revoked, or expires, is cut within 30 s and comes back only with another certificate; a file that cannot be used changes
//! nothing and says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use longhaul_link::certs::{self, Pem, RouterCert};
use longhaul_tests::audit::assert_audits;
use longhaul_tests::http::{assert_exactly, count, numbers, try_publish, wait_count};
use longhaul_tests::mesh::{MESH, Mesh};
use longhaul_tests::wait::until;

const PATIENCE: Duration = Duration::from_secs(30);
/// What the promise is: so soon is a peer cut whose certificate is good no more.
const CUT_WITHIN: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Long enough for every router to take up what there is, and to renew at three quarters of it.
const SHORT: Duration = Duration::from_secs(17);
const RELOAD_OK: &str = "longhaul_config_last_reload_successful";

/// Events go from `a` and from `c` to `b`, each under a steady load.
struct Scene {
    mesh: Mesh,
    loads: Vec<Load>,
}

struct Load {
    region: &'static str,
    destination: String,
    published: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    producer: tokio::task::JoinHandle<()>,
}

async fn produce(broker: String, published: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let next = published.load(Ordering::Relaxed);
        assert!(try_publish(&broker, "orders.new", next..next + 10, 100).await, "the source takes everything");
        published.store(next + 10, Ordering::Relaxed);
        // A steady load, not a flood.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

impl Scene {
    async fn start() -> Self {
        let mut mesh = Mesh::new(&["a", "b", "c"]);
        let mut places = Vec::new();
        for region in ["a", "c"] {
            let (with_source, source) = mesh.embedded(region, "events");
            let (with_both, destination) = with_source.embedded("b", &format!("from-{region}"));
            mesh = with_both.route(&format!(
                "name: from-{region}\nfrom: {{region: {region}, broker: events, topics: [\"orders.>\"]}}\n\
                 to: [{{region: b, broker: from-{region}, topic: \"{{topic}}\"}}]\nstart: earliest"
            ));
            places.push((region, source, destination));
        }
        mesh.start().await;
        let mut loads = Vec::new();
        for (region, source, destination) in places {
            mesh.wait_streaming(region).await;
            let (published, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
            let producer = tokio::spawn(produce(source, Arc::clone(&published), Arc::clone(&stop)));
            loads.push(Load { region, destination, published, stop, producer });
        }
        Self { mesh, loads }
    }

    /// Gives a router another certificate with another key, as whoever rotates them would: file by file.
    fn give(&self, region: &str, issuer: &Pem, life: Duration) -> Pem {
        let wanted = RouterCert::new(MESH, region, "router-1", &[]).expect("names that can stand in a certificate");
        let pem = certs::make(issuer, &RouterCert { not_after: SystemTime::now() + life, ..wanted });
        let pem = pem.expect("a certificate");
        for (ending, text, mode) in [("key", &pem.key, 0o600), ("crt", &pem.cert, 0o644)] {
            let path = self.mesh.folder().join(format!("{region}.{ending}"));
            certs::write_file(&path, text, mode).expect("a file of the certificate");
        }
        pem
    }

    /// What all routers trust.
    fn trust(&self, authorities: &[&Pem]) {
        let text: String = authorities.iter().map(|ca| ca.cert.as_str()).collect();
        certs::write_file(&self.mesh.folder().join("ca.crt"), &text, 0o644).expect("the file of the authorities");
    }

    async fn generation(&self, region: &str) -> f64 {
        self.mesh.metric(region, "longhaul_config_generation", &[]).await
    }

    /// Waits until a region has taken up what its files say now.
    async fn taken_up(&self, region: &str, after: f64) {
        until(&format!("{region} has taken its files up"), PATIENCE, async || {
            let ok = self.mesh.metric(region, RELOAD_OK, &[]).await == 1.0;
            (ok && self.generation(region).await > after).then_some(())
        })
        .await;
    }

    async fn refused(&self, reason: &str) -> f64 {
        self.mesh.metric("b", "longhaul_refused_connections_total", &[&format!("reason=\"{reason}\"")]).await
    }

    async fn link_up(&self, region: &str) -> bool {
        self.mesh.metric(region, "longhaul_link_up", &["region=\"b\""]).await == 1.0
    }

    fn renewals(&self, region: &str) -> usize {
        self.mesh.log(region).matches("a link was renewed").count()
    }

    /// Waits until a region has made its link to `b` anew.
    async fn renewed(&self, region: &str, before: usize) {
        until(&format!("{region} has renewed its link"), PATIENCE, async || {
            (self.renewals(region) > before).then_some(())
        })
        .await;
    }

    async fn connects(&self, region: &str) -> u64 {
        let links = self.mesh.links(region).await.out;
        links.iter().filter(|link| link.region == "b").map(|link| link.connects).sum()
    }

    /// Everything that was published is there, once.
    async fn end(mut self) {
        for load in &mut self.loads {
            load.stop.store(true, Ordering::Relaxed);
            (&mut load.producer).await.expect("the producer ended well");
            let all = load.published.load(Ordering::Relaxed);
            wait_count(&load.destination, all, PATIENCE).await;
            assert_exactly(&numbers(&load.destination).await, 0..all);
            eprintln!("{} events of {} arrived once each", all, load.region);
        }
        assert_audits(&self.mesh, &["a", "b", "c"]).await;
        for region in ["a", "b", "c"] {
            assert_eq!(self.mesh.metric(region, "longhaul_task_panics_total", &[]).await, 0.0, "{region}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_load_has_no_link_down_and_loses_nothing() {
    let scene = Scene::start().await;
    let (old, next) = (scene.mesh.ca().clone(), certs::make_ca(MESH).expect("an authority"));
    let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let steps = async {
        // The certificate of who dials.
        let before = scene.renewals("a");
        scene.give("a", &old, DAY);
        scene.renewed("a", before).await;
        // The authority: first both, then certificates of the new one for those who dial.
        let mut before = Vec::new();
        for region in ["a", "b", "c"] {
            before.push((region, scene.generation(region).await));
        }
        scene.trust(&[&old, &next]);
        for (region, generation) in before {
            scene.taken_up(region, generation).await;
        }
        for region in ["a", "c"] {
            let generation = scene.generation(region).await;
            scene.give(region, &next, DAY);
            scene.taken_up(region, generation).await;
        }
        // Links are renewed within a second of that; that the old ones were too, when both authorities came, hides it from the log.
        tokio::time::sleep(Duration::from_secs(3)).await;
        // Then one for who listens, which ends soon, and the new authority alone: the links that stand were made with the old one.
        let (a, c) = (scene.renewals("a"), scene.renewals("c"));
        let end = Instant::now() + SHORT;
        scene.give("b", &next, SHORT);
        scene.trust(&[&next]);
        scene.renewed("a", a).await;
        scene.renewed("c", c).await;
        // Whoever dials has seen a certificate that ends soon, and looks for a later one in time.
        scene.give("b", &next, DAY);
        let past_the_end = end + Duration::from_secs(2);
        tokio::time::sleep(past_the_end.saturating_duration_since(Instant::now())).await;
        stop.store(true, Ordering::Relaxed);
    };
    let watch = async {
        while !stop.load(Ordering::Relaxed) {
            for region in ["a", "c"] {
                assert!(scene.link_up(region).await, "the link of {region} is up all the time");
            }
            looks.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::join!(steps, watch);
    for region in ["a", "c"] {
        assert_eq!(scene.connects(region).await, 1, "the link of {region} came up once");
    }
    let cut: f64 = scene.mesh.metric("b", "longhaul_refused_connections_total", &[]).await;
    assert_eq!(cut, 0.0, "nobody was cut or refused");
    let looks = looks.load(Ordering::Relaxed);
    eprintln!("the links were up at all {looks} looks; {} and {} renewals", scene.renewals("a"), scene.renewals("c"));
    assert!(looks > 50);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_peer_is_cut_and_stays_out_until_it_has_another_certificate() {
    let scene = Scene::start().await;
    let ca = scene.mesh.ca().clone();
    let list = scene.mesh.folder().join("revoked.crl");
    let write_list = |number, revoked: &[&str]| {
        let text = certs::make_crl(&ca, number, revoked).expect("a list");
        certs::write_file(&list, &text, 0o644).expect("the file of the list");
    };
    write_list(1, &[]);
    // The list comes into the documents of running routers: of both, or `a` would go to `b` by way of `c`.
    for region in ["b", "c"] {
        let document = scene.mesh.router_document(region);
        let text = std::fs::read_to_string(&document).expect("the document");
        let generation = scene.generation(region).await;
        std::fs::write(&document, text.replace("ca: ca.crt", "ca: ca.crt, crl: revoked.crl")).expect("the document");
        scene.taken_up(region, generation).await;
    }
    // A list that is none changes nothing, and says so.
    certs::write_file(&list, "not a list\n", 0o644).expect("the file of the list");
    until("the bad list is refused", PATIENCE, async || {
        (scene.mesh.metric("b", RELOAD_OK, &[]).await == 0.0).then_some(())
    })
    .await;
    assert!(scene.mesh.log("b").contains("no PEM section X509 CRL"), "{}", scene.mesh.log("b"));
    assert!(scene.link_up("a").await && scene.link_up("c").await);
    // Now the certificate of `a` is on it.
    let revoked = std::fs::read_to_string(scene.mesh.folder().join("a.crt")).expect("the certificate");
    let began = Instant::now();
    write_list(2, &[&revoked]);
    until("the revoked peer is cut", CUT_WITHIN, async || {
        (!scene.link_up("a").await && scene.refused("certificate_revoked").await >= 1.0).then_some(())
    })
    .await;
    eprintln!("cut {:.1} s after its certificate was revoked", began.elapsed().as_secs_f64());
    // What it had sent before is written by the time that it was refused once more.
    let refused_again = async || {
        let before = scene.refused("certificate_revoked").await;
        until("it is refused when it comes again", PATIENCE, async || {
            (scene.refused("certificate_revoked").await > before).then_some(())
        })
        .await;
    };
    refused_again().await;
    let there = count(&scene.loads[0].destination).await;
    refused_again().await;
    assert_eq!(count(&scene.loads[0].destination).await, there, "nothing came from it since");
    let link = scene.mesh.links("a").await.out.into_iter().find(|link| link.region == "b").expect("a link");
    assert!(link.error.as_ref().is_some_and(|error| error.contains("Revoked")), "{link:?}");
    // Another certificate lets it in again, with everything that waited.
    scene.give("a", &ca, DAY);
    until("it is back", PATIENCE, async || scene.link_up("a").await.then_some(())).await;
    assert_eq!(scene.connects("c").await, 1, "who was not revoked did not notice");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiring_certificate_is_cut_at_its_end() {
    let scene = Scene::start().await;
    let ca = scene.mesh.ca().clone();
    let (before, life) = (scene.renewals("a"), Duration::from_secs(10));
    let end = Instant::now() + life;
    scene.give("a", &ca, life);
    scene.renewed("a", before).await;
    until("the link is cut when the certificate ends", life + CUT_WITHIN, async || {
        (!scene.link_up("a").await && scene.refused("certificate_expired").await >= 1.0).then_some(())
    })
    .await;
    let late = Instant::now().saturating_duration_since(end);
    eprintln!("cut {:.1} s after the end of the certificate", late.as_secs_f64());
    assert!(Instant::now() + Duration::from_secs(2) > end, "and not before its end");
    assert!(late < CUT_WITHIN);
    scene.give("a", &ca, DAY);
    until("it is back", PATIENCE, async || scene.link_up("a").await.then_some(())).await;
    assert_eq!(scene.connects("c").await, 1, "the other link did not notice");
    scene.end().await;
}
