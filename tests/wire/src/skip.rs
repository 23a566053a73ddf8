//! Tests that need root: where it is missing they say so, are counted, and pass.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Shape, Wire};

static SKIPPED: AtomicU32 = AtomicU32::new(0);

/// A wire, or a message on standard error that this test was skipped, with how many were in this process.
///
/// # Panics
/// Where the variable `LONGHAUL_REQUIRE_WIRE` is set, as it is where a run without the wire proves nothing.
#[must_use]
pub fn wire_or_skip(test: &str, shape: Shape) -> Option<Wire> {
    match Wire::lay(shape) {
        Ok(wire) => Some(wire),
        Err(reason) => {
            assert!(std::env::var_os("LONGHAUL_REQUIRE_WIRE").is_none(), "{test}: {reason}");
            let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
            eprintln!("SKIPPED {test} ({count} so far): it needs root, /dev/net/tun and iproute2: {reason}");
            None
        }
    }
}

/// How many tests of this process were skipped.
#[must_use]
pub fn skipped() -> u32 {
    SKIPPED.load(Ordering::Relaxed)
}
