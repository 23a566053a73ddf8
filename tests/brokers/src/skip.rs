//! Tests that cannot run here: they say so where it is seen, are counted, and pass.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

static SKIPPED: AtomicU32 = AtomicU32::new(0);

/// Says on standard error that a test, or a part of one, was skipped and why, with how many were so far in this process. Returns that count.
///
/// Written past the macros: what they print, the test harness keeps for itself as long as a test passes.
pub fn skip(test: &str, why: &str) -> u32 {
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // Nobody to tell is no reason to fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test} ({count} so far): {why}");
    count
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::skip;

    #[test]
    fn what_is_skipped_is_counted() {
        let first = skip("a test of skipping", "it is one");
        assert!(skip("another test of skipping", "it is one too") > first);
    }

    /// Runs the test above in a process of its own, as anybody would.
    #[test]
    fn what_is_skipped_is_seen_though_the_test_passes() {
        let name = "skip::tests::what_is_skipped_is_counted";
        let me = std::env::current_exe().expect("a test knows its own path");
        let out = Command::new(me).args(["--exact", name]).output().expect("it runs again");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success() && said.contains("SKIPPED another test of skipping (2 so far): it is one too"),
            "{said}"
        );
    }
}
