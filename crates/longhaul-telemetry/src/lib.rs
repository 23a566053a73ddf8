//! Metric names, the registry, the logs, and spans of sampled events; and what is made of the names: alerts, recording rules and dashboards.
//!
//! Start with [`Metrics`]; the table of all names stands in [`names`]. The types of the `prometheus` and `opentelemetry` crates stay in
//! here. [`alerts`], [`recording`] and [`dashboards`] are tables over it, [`rules`] and [`grafana`] the files that are made of them.

pub mod alerts;
pub mod dashboards;
pub mod grafana;
mod log;
pub mod names;
pub mod recording;
mod registry;
pub mod rules;
mod trace;

pub use log::{LogError, LogFormat, OnceASecond, init_log};
pub use registry::{FlowGauges, InflowMetrics, LinkGauges, LinkMetrics, Metrics, OutflowMetrics};
pub use trace::{
    Collector, During, Export, FlowLabels, FlowTracer, Recorder, Sampler, Stage, Tracer, Writing, set_aside,
};
