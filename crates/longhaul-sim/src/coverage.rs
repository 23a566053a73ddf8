//! What a run has seen: faults, transitions, outputs, answers. Counts only, so that runs can be added up.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::fault::Fault;

/// What must have been seen: the kinds of things, and their names.
const TRANSITIONS: [(&str, &[&str]); 2] = [
    (
        "owner",
        &[
            "idle>opening",
            "idle>faulted",
            "opening>idle",
            "opening>seeking",
            "opening>faulted",
            "seeking>idle",
            "seeking>streaming",
            "seeking>faulted",
            "streaming>idle",
            "streaming>faulted",
            "faulted>idle",
            "faulted>opening",
        ],
    ),
    (
        "applier",
        &[
            "closed>opening",
            "closed>drained",
            "opening>abandoned",
            "opening>serving",
            "opening>closed",
            "opening>drained",
            "abandoned>opening",
            "abandoned>severed",
            "abandoned>closed",
            "serving>severed",
            "serving>closed",
            "serving>draining",
            "severed>serving",
            "severed>closed",
            "severed>draining",
            "draining>drained",
        ],
    ),
];

/// Counts by kind and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<(&'static str, String), u64>,
    /// Runs that were added up.
    pub runs: u64,
    /// The longest time from the end of the faults until everything was delivered.
    pub longest_drain: Duration,
}

impl Coverage {
    pub(crate) fn count(&mut self, kind: &'static str, name: &str) {
        if let Some(count) = self.counts.get_mut(&(kind, name.to_owned())) {
            *count += 1;
        } else {
            self.counts.insert((kind, name.to_owned()), 1);
        }
    }

    /// How many times something was seen.
    #[must_use]
    pub fn get(&self, kind: &'static str, name: &str) -> u64 {
        self.counts.get(&(kind, name.to_owned())).copied().unwrap_or_default()
    }

    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        for (key, count) in &other.counts {
            *self.counts.entry(key.clone()).or_default() += count;
        }
        self.runs += other.runs;
        self.longest_drain = self.longest_drain.max(other.longest_drain);
    }

    /// Faults and transitions that were never seen.
    #[must_use]
    pub fn holes(&self) -> Vec<String> {
        let seen = |kind, name: &str| self.counts.contains_key(&(kind, name.to_owned()));
        let faults = Fault::NAMES.iter().filter(|name| !seen("fault", name)).map(|name| format!("fault: {name}"));
        let steps = TRANSITIONS.iter().flat_map(|(kind, names)| names.iter().map(move |name| (*kind, *name)));
        faults
            .chain(steps.filter(|(kind, name)| !seen(kind, name)).map(|(kind, name)| format!("{kind}: {name}")))
            .collect()
    }

    /// The table, a line for each count.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for ((kind, name), count) in &self.counts {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{kind:<10} {name:<34} {count:>12}");
        }
        text
    }
}
