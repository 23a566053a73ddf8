//! What the benchmarks share: measured processes, the roles that they play, and how figures are said.
//!
//! Every benchmark starts itself again as other processes ([`child::Child`]), each in one role ([`router`], [`quic`], [`pipe`]), so
//! that CPU time and memory can be told apart. A benchmark measures its anchor in the same run, in turns, and prints ratios: absolute
//! figures say more about the machine than about the router.

pub mod child;
pub mod discard;
pub mod figures;
pub mod generator;
pub mod pipe;
pub mod quic;
pub mod router;
