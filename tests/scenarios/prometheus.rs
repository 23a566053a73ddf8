//! A real Prometheus scrapes a mesh of three regions with 20 routes: every target is up, every metric has help and the right unit, series are
//! few, every rule is evaluated, every query of every dashboard returns data, and an alert sees a router that was killed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use longhaul_telemetry::alerts::alerts;
use longhaul_telemetry::dashboards::dashboards;
use longhaul_telemetry::recording::recordings;
use longhaul_test_brokers::prometheus::{Prometheus, programs};
use longhaul_tests::http::{call, publish_numbers};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::wait::until;
use serde_json::Value;

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
const ROUTES: usize = 20;
/// What three routers with 20 routes may show in all.
const SERIES_MAX: f64 = 2_000.0;
const PATIENCE: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the root of the checkout")
}

fn rule_files() -> Vec<PathBuf> {
    ["alerts.yaml", "recording.yaml"].map(|file| root().join("k8s/helm/longhaul/files").join(file)).into()
}

async fn found() -> longhaul_test_brokers::prometheus::Programs {
    tokio::task::spawn_blocking(programs).await.expect("finding works").expect("Prometheus")
}

/// Runs `promtool` with that input; what it said when it is content.
fn promtool(program: &Path, arguments: &[&str], input: Option<&str>) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    let text = tempfile::NamedTempFile::new().expect("a temporary file");
    if let Some(input) = input {
        std::fs::write(text.path(), input).expect("the file takes it");
        command.stdin(text.reopen().expect("the same file"));
    }
    let output = command.output().expect("promtool runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

/// Each alert has a case that fires and one that does not, and all are as they should be.
#[tokio::test]
async fn rules_fire_when_they_should_and_not_when_they_should_not() {
    let tool = found().await.promtool;
    for file in rule_files() {
        promtool(&tool, &["check", "rules", &file.to_string_lossy()], None);
    }
    promtool(&tool, &["test", "rules", "tests/rules/alerts.yaml"], None);
    let text = std::fs::read_to_string(root().join("tests/rules/alerts.yaml")).expect("the cases");
    let cases: Vec<_> = text.split("\n  - name: ").skip(1).collect();
    for alert in alerts() {
        let has = |begins: &str, says: &str| {
            let begins = format!("{} {begins}", alert.name);
            assert!(
                cases.iter().any(|case| case.starts_with(&begins) && case.contains(says)),
                "{begins}: no such case"
            );
        };
        has("fires", &format!("{{labels: 'ALERTS{{alertname=\"{}\", alertstate=\"firing\"", alert.name));
        has("does not fire", &format!("alertname: {}, exp_alerts: []", alert.name));
    }
}

/// A mesh whose 20 routes lead from every region to every other, with events on all of them.
async fn mesh_with_traffic() -> Mesh {
    let mut mesh = Mesh::new(&REGIONS);
    let mut brokers = Vec::new();
    for region in REGIONS {
        let (with, url) = mesh.embedded(region, "log");
        mesh = with;
        brokers.push(url);
    }
    for route in 0..ROUTES {
        let (from, to) = (route % 3, (route + 1 + route / 3 % 2) % 3);
        mesh = mesh.route(&format!(
            "name: route-{route}\nfrom: {{region: {}, broker: log, topics: [\"orders{route}.>\"]}}\nto:\n  - {{region: {}, broker: log}}",
            REGIONS[from], REGIONS[to]
        ));
    }
    mesh.start().await;
    for region in REGIONS {
        mesh.wait_streaming(region).await;
    }
    for route in 0..ROUTES {
        publish_numbers(&brokers[route % 3], &format!("orders{route}.new"), 0..50).await;
    }
    mesh
}

async fn ask(prometheus: &Prometheus, path: &str) -> Value {
    let url = format!("{}/api/v1/{path}", prometheus.url());
    let (status, body) = call("GET", &url, &[], "").await.unwrap_or_else(|| panic!("{url} does not answer"));
    assert_eq!(status, 200, "{url}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{url}: {error}: {body}"))
}

/// The samples that a query finds now.
async fn query(prometheus: &Prometheus, expr: &str) -> Vec<Value> {
    let encoded: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = ask(prometheus, &format!("query?query={encoded}")).await;
    answer["data"]["result"].as_array().cloned().unwrap_or_default()
}

async fn number(prometheus: &Prometheus, expr: &str) -> f64 {
    let found = query(prometheus, expr).await;
    let value = found.first().and_then(|sample| sample["value"][1].as_str()?.parse().ok());
    value.unwrap_or_else(|| panic!("{expr} finds nothing"))
}

/// As Grafana sends it: everything is chosen, and rates are over half a minute.
fn as_sent(expr: &str) -> String {
    let chosen = ["$region", "$route", "$from", "$to"];
    chosen.iter().fold(expr.replace("$__rate_interval", "30s"), |expr, name| expr.replace(name, ".*"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_sees_the_whole_mesh() {
    let tool = found().await.promtool;
    let mut mesh = mesh_with_traffic().await;
    let targets: Vec<_> = REGIONS.map(|region| mesh.admin_url(region).replace("http://", "")).into();
    let start = {
        let targets = targets.clone();
        move || Prometheus::start(&targets, &rule_files())
    };
    let prometheus = tokio::task::spawn_blocking(start).await.expect("starting works").expect("Prometheus starts");

    for target in &targets {
        let (_, text) = call("GET", &format!("http://{target}/metrics"), &[], "").await.expect("metrics");
        let complaints = promtool(&tool, &["check", "metrics"], Some(&text));
        assert!(complaints.is_empty(), "promtool check metrics: {complaints}");
    }
    until("every target is up", PATIENCE, async || {
        let up = query(&prometheus, "up == 1").await;
        (up.len() == REGIONS.len()).then_some(())
    })
    .await;
    let asked = every_query_returns_data(&prometheus).await;
    println!("{asked} queries of the dashboards return data");
    every_rule_is_evaluated(&prometheus).await;

    let of_mesh = number(&prometheus, "count({job=\"longhaul\"})").await;
    for target in &targets {
        let of_router = number(&prometheus, &format!("count({{job=\"longhaul\", instance=\"{target}\"}})")).await;
        println!("{target}: {of_router} series");
    }
    println!("three routers with {ROUTES} routes: {of_mesh} series");
    assert!(of_mesh < SERIES_MAX, "{of_mesh} series");
    let delivered = number(&prometheus, "sum(longhaul_delivered_events_total)").await;
    assert!(delivered >= 50.0 * 20.0, "{delivered} events of 20 routes");

    mesh.kill("us");
    for alert in ["LonghaulRouterDown", "LonghaulLinkDown", "LonghaulRegionUnreachable"] {
        until(&format!("{alert} sees that a router is gone"), PATIENCE, async || {
            let seen = query(&prometheus, &format!("ALERTS{{alertname=\"{alert}\"}}")).await;
            (!seen.is_empty()).then_some(())
        })
        .await;
    }
}

/// Rates need two scrapes, and what is recorded needs them too: so each is asked for until it is there. Returns how many there are.
async fn every_query_returns_data(prometheus: &Prometheus) -> usize {
    let mut asked = 0;
    for board in dashboards() {
        for panel in board.panels {
            for (expr, _) in panel.queries {
                let what = format!("{} / {}: {expr} returns data", board.name, panel.title);
                until(&what, PATIENCE, async || (!query(prometheus, &as_sent(&expr)).await.is_empty()).then_some(()))
                    .await;
                asked += 1;
            }
        }
    }
    asked
}

async fn every_rule_is_evaluated(prometheus: &Prometheus) {
    let expected = alerts().len() + recordings().len();
    let rules = until("every rule is evaluated", PATIENCE, async || {
        let groups = ask(prometheus, "rules").await["data"]["groups"].take();
        let rules: Vec<_> =
            groups.as_array()?.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    })
    .await;
    assert_eq!(rules.len(), expected, "{}", prometheus.log());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    for rule in recordings() {
        assert!(!query(prometheus, rule.name).await.is_empty(), "{} records nothing", rule.name);
    }
    let firing = query(prometheus, "ALERTS{alertstate=\"firing\"}").await;
    assert!(firing.is_empty(), "all is well, and yet: {firing:?}");
}
