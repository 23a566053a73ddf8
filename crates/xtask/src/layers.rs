//! The layer test: a crate may depend only on crates of a smaller row.
//!
//! Asks cargo for the direct dependencies of every member, so that nothing hides behind another crate, and refuses a member that has no row.

use std::process::Command;

use serde_json::Value;

/// The rows of ARCHITECTURE.md.
const ROWS: &[(u8, &[&str])] = &[
    (0, &["longhaul-topic"]),
    (1, &["longhaul-event"]),
    (2, &["longhaul-topology"]),
    (3, &["longhaul-route", "longhaul-config"]),
    (4, &["longhaul-wire", "longhaul-flow"]),
    (5, &["longhaul-broker", "longhaul-telemetry", "longhaul-http"]),
    (6, &["longhaul-link", "longhaul-kafka", "longhaul-rabbitmq", "longhaul-nats", "longhaul-embedded"]),
    (7, &["longhaul-router"]),
    (8, &["longhaul-admin"]),
    (9, &["longhaul"]),
    (
        10,
        &[
            "longhaul-test-brokers",
            "longhaul-test-cluster",
            "longhaul-test-k8s",
            "longhaul-test-simulated",
            "longhaul-test-wire",
            "longhaul-tests",
            "longhaul-benches",
            "longhaul-bench-congestion",
            "longhaul-sim",
            "xtask",
        ],
    ),
];
/// Members whose kind of dependency is no concern of layers: they test the others.
const DEV_ROW: u8 = 10;
/// What the pure rows must never reach, by whatever way.
const IMPURE: &[&str] =
    &["tokio", "quinn", "rdkafka", "lapin", "async-nats", "redb", "axum", "hyper", "socket2", "mio", "rand"];
const PURE_ROW_MAX: u8 = 4;

/// Checks every member; returns a line for each violation.
///
/// # Errors
/// When cargo cannot be asked.
pub(crate) fn check() -> Result<Vec<String>, String> {
    let metadata = metadata(&["--no-deps"])?;
    let members = metadata["packages"].as_array().ok_or("cargo metadata has no packages")?;
    let mut wrong = Vec::new();
    for member in members {
        let name = member["name"].as_str().unwrap_or_default();
        let Some(row) = row(name) else {
            wrong.push(format!("{name} has no row: add it to the table of layers"));
            continue;
        };
        for dependency in dependencies(member) {
            if let Some(below) = row_of_member(&dependency)
                && below >= row
                && row < DEV_ROW
            {
                wrong.push(format!("{name} (row {row}) must not depend on {dependency} (row {below})"));
            }
        }
        if row <= PURE_ROW_MAX {
            wrong.extend(impure(name)?);
        }
    }
    Ok(wrong)
}

fn row(name: &str) -> Option<u8> {
    ROWS.iter().find_map(|(row, names)| names.contains(&name).then_some(*row))
}

fn row_of_member(name: &str) -> Option<u8> {
    (name.starts_with("longhaul") || name == "xtask").then(|| row(name)).flatten()
}

/// Direct dependencies, those for tests left out.
fn dependencies(member: &Value) -> Vec<String> {
    let all = member["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let normal = all.iter().filter(|dependency| dependency["kind"].as_str() != Some("dev"));
    normal.filter_map(|dependency| dependency["name"].as_str().map(str::to_owned)).collect()
}

/// What a pure crate links that it must not, however far below.
fn impure(name: &str) -> Result<Vec<String>, String> {
    let tree = run(&["tree", "--package", name, "--edges", "normal", "--prefix", "none", "--no-dedupe"])?;
    let linked = tree.lines().filter_map(|line| line.split(' ').next());
    let found: std::collections::BTreeSet<&str> = linked.filter(|linked| IMPURE.contains(linked)).collect();
    Ok(found.into_iter().map(|linked| format!("{name} is pure and must not link {linked}")).collect())
}

fn metadata(arguments: &[&str]) -> Result<Value, String> {
    let text = run(&[&["metadata", "--format-version", "1"], arguments].concat())?;
    serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))
}

fn run(arguments: &[&str]) -> Result<String, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).output().map_err(|error| format!("cargo: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
