//! Tests that need root: where it is missing they say so, are counted, and pass.

use longhaul_test_brokers::skip;

use crate::{Shape, Wire};

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
            skip(test, &format!("it needs root, /dev/net/tun and iproute2: {reason}"));
            None
        }
    }
}
