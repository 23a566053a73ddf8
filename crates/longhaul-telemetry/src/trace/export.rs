//! Exports spans over OTLP/HTTP: takes what was recorded, in batches, and posts it.
//!
//! The client tries a batch again with back-off, by what the receiver answers, for [`PATIENCE`] at the most; then the batch is dropped
//! and counted. Meanwhile the queue fills, and what finds it full is dropped and counted too: the mesh never waits for a collector.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::{Mutex, mpsc};

use super::Recorder;
use super::client::{Client, Collector, Fault};
use crate::Metrics;

/// Most spans in one request.
const REQUEST_SPANS_MAX: usize = 512;
/// How long spans gather before they are sent.
const GATHER: Duration = Duration::from_millis(500);
/// How long one batch is tried for.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRIES_MAX: usize = 8;
const BACK_OFF_MIN: Duration = Duration::from_millis(200);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// How long what is left may take when the router ends.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// Exports what a tracer records. It is run by a task of its own.
pub struct Export {
    exporter: SpanExporter,
    recorded: Mutex<mpsc::Receiver<SpanData>>,
    metrics: Arc<Metrics>,
    endpoint: String,
    fault: Fault,
}

impl Export {
    pub(super) fn new(
        to: Collector,
        recorder: Recorder<'_>,
        recorded: mpsc::Receiver<SpanData>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let retries = RetryPolicy::default()
            .with_max_retries(RETRIES_MAX)
            .with_initial_delay(BACK_OFF_MIN)
            .with_max_delay(BACK_OFF_MAX);
        let client = Client::new(&to, PATIENCE)?;
        let fault = client.fault();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_headers(to.headers)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(to.endpoint.as_str())
            .with_timeout(PATIENCE)
            .with_retry_policy(retries)
            .build();
        let mut exporter = exporter.map_err(|error| error.to_string())?;
        exporter.set_resource(&resource(recorder));
        Ok(Self { exporter, recorded: Mutex::new(recorded), metrics, endpoint: to.endpoint, fault })
    }

    /// Exports until `stop` resolves, then what is left.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let mut recorded = self.recorded.lock().await;
        let (mut spans, mut failing) = (Vec::new(), false);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                count = recorded.recv_many(&mut spans, REQUEST_SPANS_MAX) => if count == 0 { return },
            }
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(GATHER) => {}
            }
            fill(&mut recorded, &mut spans);
            let count = spans.len();
            tokio::select! {
                biased;
                sent = self.exporter.export(std::mem::take(&mut spans)) => failing = self.note(count, sent.err(), failing),
                () = &mut stop => {
                    failing = self.note(count, Some("the router ends"), failing);
                    break;
                }
            }
        }
        fill(&mut recorded, &mut spans);
        if !spans.is_empty() {
            let count = spans.len();
            let sent = tokio::time::timeout(LAST_PATIENCE, self.exporter.export(spans)).await;
            let error = sent.map_or_else(
                |_| Some("it has not answered in time".to_owned()),
                |sent| sent.err().map(|e| e.to_string()),
            );
            self.note(count, error, failing);
        }
    }

    /// Counts what became of a batch; says so where it is news. Returns whether exporting fails.
    fn note(&self, count: usize, error: Option<impl std::fmt::Display>, failing: bool) -> bool {
        let endpoint = self.endpoint.as_str();
        match &error {
            Some(error) => {
                let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let error = fault.unwrap_or_else(|| error.to_string());
                self.metrics.spans_not_exported(count);
                if !failing {
                    tracing::warn!(endpoint, %error, spans = count, "cannot export spans; they are dropped until it works again");
                }
            }
            None => {
                self.metrics.spans_exported(count);
                if failing {
                    tracing::info!(endpoint, "spans are exported again");
                }
            }
        }
        error.is_some()
    }
}

/// Takes what has gathered, as far as one request goes.
fn fill(recorded: &mut mpsc::Receiver<SpanData>, spans: &mut Vec<SpanData>) {
    while spans.len() < REQUEST_SPANS_MAX
        && let Ok(span) = recorded.try_recv()
    {
        spans.push(span);
    }
}

fn resource(recorder: Recorder<'_>) -> Resource {
    let Recorder { mesh, region, router } = recorder;
    Resource::builder_empty()
        .with_service_name("longhaul")
        .with_attribute(KeyValue::new("service.namespace", mesh.to_owned()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", format!("{region}/{router}")))
        .with_attribute(KeyValue::new("longhaul.region", region.to_owned()))
        .build()
}
