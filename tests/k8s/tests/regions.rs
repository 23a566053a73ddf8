//! Three regions on a real cluster of one node, each a release of the chart with two routers, while events cross in all six directions: a
//! pod is deleted with grace and one without, a route is added, certificates are replaced, routers are upgraded one by one. At the end 0 are lost.

#![expect(clippy::print_stdout, reason = "figures are part of what is shown")]

use std::time::{Duration, Instant};

use longhaul_test_k8s::REGIONS;
use longhaul_test_k8s::installed::{Installed, Lives, routers, until};
use longhaul_test_k8s::load::Load;

/// A route that comes later: from the first region to the second.
const LATE_ROUTE: &str = r#"  - name: late
    from: {region: eu-west, broker: events, topics: ["late.>"]}
    start: earliest
    guarantee: effectively-once
    to: [{region: us-east, broker: events, topic: "eu-west.{topic}"}]
"#;
const LATE_EVENTS: u64 = 200;
const FIRST_EVENTS: u64 = 200;
/// Sent by each region after every step, beside what was sent during it.
const MORE_EVENTS: u64 = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "brings up a cluster: make test-k8s"]
async fn nothing_is_lost_whatever_is_done_to_a_region() {
    if !Installed::is_possible() {
        longhaul_test_brokers::skip("regions", "a node needs root");
        return;
    }
    let begin = Instant::now();
    let mesh = Installed::start();
    println!("installed in {} namespaces after {:.0} s", REGIONS.len(), begin.elapsed().as_secs_f64());
    let load = Load::start(&mesh).await;
    let first = load.crossed(FIRST_EVENTS).await;
    println!("the first {FIRST_EVENTS} events have crossed on each way after {:.1} s", first.as_secs_f64());
    REGIONS.iter().for_each(|region| mesh.helm_test(region));

    let took = replaced(&mesh, "eu-west", &[]);
    say(&load, "the pod that reads in eu-west was deleted, and another has its place", took).await;
    let took = replaced(&mesh, "us-east", &["--grace-period=0", "--force"]);
    say(&load, "the pod that reads in us-east was deleted without grace, and another has its place", took).await;

    let before = mesh.lives();
    say(&load, "a route was added, and all routers know it", route_added(&mesh)).await;
    load.send(0, "late.news", LATE_EVENTS).await;
    load.wait_count(1, "eu-west.late.news", LATE_EVENTS).await;
    say(&load, "all routers have other certificates", certificates_replaced(&mesh)).await;
    assert_eq!(mesh.lives(), before, "both were taken up without a restart");

    for region in REGIONS {
        say(&load, &format!("all routers of {region} were upgraded"), upgraded(&mesh, region)).await;
    }
    for ((from, to), count) in load.finish().await {
        println!("{} to {}: {count:?}", REGIONS[from], REGIONS[to]);
        assert_eq!((count.lost, count.repeated, count.disordered), (0, 0, 0));
    }
    for region in REGIONS {
        let log = mesh.logs(region);
        assert!(log.contains("\"level\"") && !log.contains("panicked"), "{region}: {log}");
    }
    assert!(mesh.lives().values().all(|life| life.restarts == 0), "{:?}", mesh.lives());
    println!("all of it took {:.0} s", begin.elapsed().as_secs_f64());
}

/// Waits until what was sent meanwhile has crossed, and says how long both took.
async fn say(load: &Load, what: &str, took: Duration) {
    let crossed = load.crossed(MORE_EVENTS).await;
    println!("{what}: {:.1} s, and {:.1} s more for its events", took.as_secs_f64(), crossed.as_secs_f64());
}

/// Deletes the pod that reads the region's broker and waits for the one in its place.
fn replaced(mesh: &Installed, region: &str, how: &[&str]) -> Duration {
    let pod = mesh.reader(region);
    let begin = Instant::now();
    let (name, before) = (format!("{region}/{pod}"), mesh.lives());
    mesh.kubectl(region, &[&["delete", "pod", &pod], how].concat());
    until("another pod", || mesh.lives().get(&name).filter(|life| **life != before[&name]).map(drop));
    mesh.wait_rolled_out(region);
    assert_eq!(changed(&before, &mesh.lives()), [name], "the others stay");
    begin.elapsed()
}

/// Changes the ConfigMap of every region.
fn route_added(mesh: &Installed) -> Duration {
    mesh.write_mesh(LATE_ROUTE);
    REGIONS.iter().for_each(|region| mesh.upgrade(region, &[]));
    let begin = Instant::now();
    for (region, pod) in routers() {
        let knows = || mesh.ask(region, &pod, "/v1/routes").ok().filter(|routes| routes.contains("\"late\"")).map(drop);
        until(&format!("{region}/{pod} knows the route"), knows);
    }
    begin.elapsed()
}

/// Changes the Secrets of every region.
fn certificates_replaced(mesh: &Installed) -> Duration {
    let expiry = |region, pod: &str| mesh.metric(region, pod, "longhaul_certificate_expiry_timestamp_seconds");
    let before: Vec<f64> = routers().map(|(region, pod)| until("an expiry", || expiry(region, &pod)).0).collect();
    mesh.certify();
    let begin = Instant::now();
    for ((region, pod), before) in routers().zip(before) {
        let later = || expiry(region, &pod).filter(|now| *now > before);
        until(&format!("{region}/{pod} has another certificate"), later);
    }
    begin.elapsed()
}

/// Has a region's routers run another image, one after the other.
fn upgraded(mesh: &Installed, region: &str) -> Duration {
    let (begin, before) = (Instant::now(), mesh.lives());
    mesh.roll(region);
    let all: Vec<_> = routers().filter(|(of, _)| *of == region).map(|(of, pod)| format!("{of}/{pod}")).collect();
    assert_eq!(changed(&before, &mesh.lives()), all, "all of the region are new, and no others");
    begin.elapsed()
}

/// Who is another, or was started again.
fn changed(before: &Lives, after: &Lives) -> Vec<String> {
    after.iter().filter(|(name, life)| before.get(*name) != Some(life)).map(|(name, _)| name.clone()).collect()
}
