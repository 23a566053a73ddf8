//! What is generated names what exists, and the committed files are what is generated.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use longhaul_telemetry::names::{self, Kind};
use longhaul_telemetry::{alerts, dashboards, grafana, recording, rules};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn committed(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn everything() -> Vec<(String, String)> {
    let files = "k8s/helm/longhaul/files";
    let mut all = vec![
        (format!("{files}/alerts.yaml"), rules::alerts_file(&alerts::alerts(), "docs/runbooks")),
        (format!("{files}/recording.yaml"), rules::recording_file(&recording::recordings())),
    ];
    let board =
        |board: &dashboards::Dashboard| (format!("{files}/dashboards/{}.json", board.name), grafana::render(board));
    all.extend(dashboards::dashboards().iter().map(board));
    all
}

/// Words of a text that look like a metric of ours, those of recording rules included.
fn words(text: &str) -> BTreeSet<&str> {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !of_name(c)).filter(|word| word.starts_with("longhaul_") || word.starts_with("longhaul:")).collect()
}

fn exists(word: &str) -> bool {
    let part = ["_bucket", "_count", "_sum"].iter().find_map(|part| word.strip_suffix(part));
    let is_histogram =
        |name: &str| names::ALL.iter().any(|metric| metric.name == name && metric.kind == Kind::Histogram);
    let is_plain = |name: &str| names::ALL.iter().any(|metric| metric.name == name && metric.kind != Kind::Histogram);
    recording::recordings().iter().any(|rule| rule.name == word) || is_plain(word) || part.is_some_and(is_histogram)
}

#[test]
fn committed_files_are_what_is_generated() {
    for (path, text) in everything() {
        assert!(
            committed(&path) == text,
            "{path} is not what `longhaul generate` makes; make it again: make generated"
        );
    }
}

#[test]
fn what_is_generated_asks_for_metrics_that_exist() {
    for (path, text) in everything() {
        let text = text.replace("longhaul_alerts", "").replace("longhaul-", "");
        let unknown: Vec<_> = words(&text).into_iter().filter(|word| !exists(word)).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
    assert!(!exists("longhaul_no_such_metric_total") && !exists("longhaul_end_to_end_seconds"));
}

/// Whoever adds a metric decides where it is looked at.
#[test]
fn every_metric_is_looked_at_somewhere() {
    let all: String = everything().into_iter().map(|(_, text)| text).collect();
    let missing = names::ALL.iter().filter(|metric| !all.contains(metric.name)).map(|metric| metric.name);
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&str>::new());
}

/// Label names in queries are labels of the metric that stands before them.
#[test]
fn what_is_generated_asks_for_labels_that_exist() {
    for (path, text) in everything() {
        let text = text.replace("\\\"", "'");
        for (at, _) in text.match_indices("longhaul_") {
            let rest = &text[at..];
            let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let family = ["_bucket", "_count", "_sum"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(&name);
            let Some(metric) = names::ALL.iter().find(|metric| metric.name == family) else { continue };
            let Some(selector) = rest[name.len()..].strip_prefix('{').and_then(|rest| rest.split('}').next()) else {
                continue;
            };
            for label in selector.split(", ").filter_map(|matcher| matcher.split('=').next()) {
                assert!(metric.labels.contains(&label) || label == "le", "{path}: {name} has no label {label}");
            }
        }
    }
}

#[test]
fn every_alert_has_its_page_and_every_page_its_alert() {
    let folder = root().join("docs/runbooks");
    let pages: BTreeSet<_> = std::fs::read_dir(folder)
        .expect("the folder of runbooks")
        .map(|page| page.expect("a page").file_name().to_string_lossy().into_owned())
        .filter(|page| page != "README.md")
        .collect();
    let alerts = alerts::alerts();
    assert_eq!(pages, alerts.iter().map(|alert| format!("{}.md", alert.name)).collect());
    for alert in alerts {
        let page = committed(&format!("docs/runbooks/{}.md", alert.name));
        for part in [
            format!("# {}\n", alert.name).as_str(),
            "\n## What it means\n",
            "\n## What to look at\n",
            "\n## What to do\n",
        ] {
            assert!(page.contains(part), "{}.md has no {part:?}", alert.name);
        }
    }
}
