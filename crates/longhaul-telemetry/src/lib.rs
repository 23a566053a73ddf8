//! Metric names, the registry and the logs.
//!
//! Start with [`Metrics`]; the table of all names stands in [`names`]. The types of the `prometheus` crate stay in here.

mod log;
pub mod names;
mod registry;

pub use log::{LogError, LogFormat, OnceASecond, init_log};
pub use registry::{FlowGauges, InflowMetrics, LinkGauges, LinkMetrics, Metrics, OutflowMetrics};
