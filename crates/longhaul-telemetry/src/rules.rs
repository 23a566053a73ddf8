//! Alerts and recording rules as one file of rules that Prometheus reads.
//!
//! Pure: the tables stand in [`alerts`](crate::alerts) and [`recording`](crate::recording), here they become YAML. Strings are written as JSON
//! writes them, which YAML reads, so that nothing in a query or a sentence needs an escape of its own.

use serde_json::Value;

use crate::alerts::{Alert, Severity};
use crate::recording::Recording;

/// The file of alerts. `runbooks` is where the pages of `docs/runbooks` are found: a folder or an address, without a slash at its end.
#[must_use]
pub fn alerts_file(alerts: &[Alert], runbooks: &str) -> String {
    file("longhaul-alerts", alerts.iter().map(|alert| alert_rule(alert, runbooks)))
}

/// The file of recording rules.
#[must_use]
pub fn recording_file(recordings: &[Recording]) -> String {
    file("longhaul-recording", recordings.iter().map(recording_rule))
}

fn file(group: &str, rules: impl Iterator<Item = String>) -> String {
    format!("groups:\n  - name: {group}\n    rules:\n{}", rules.collect::<String>())
}

fn alert_rule(alert: &Alert, runbooks: &str) -> String {
    let Alert { name, expr, pending, severity, summary, description } = alert;
    let severity = match severity {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
    };
    format!(
        "      - alert: {name}\n        expr: {}\n        for: {pending}\n        labels:\n          severity: {severity}\n        \
         annotations:\n          summary: {}\n          description: {}\n          runbook_url: {}\n",
        quoted(expr),
        quoted(summary),
        quoted(description),
        quoted(&format!("{runbooks}/{name}.md")),
    )
}

fn recording_rule(rule: &Recording) -> String {
    format!("      - record: {}\n        expr: {}\n", rule.name, quoted(&rule.expr))
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
