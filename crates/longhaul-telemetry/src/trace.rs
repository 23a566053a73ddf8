//! Spans of sampled events, for OpenTelemetry: read, decide, send, receive, write.
//!
//! ```text
//! trace   = identity of the event: the same at every router, so nothing about it travels
//! span    = hash of (event, flow, path epoch, stage): each end knows the ids of the other
//! parent  = the stage before: read <- decide <- send | <- receive <- write
//! ```
//! The creator's `traceparent` is not touched; the first span of each end is linked to it. Which events are traced is a function of their
//! identity ([`Sampler`]), decided over the events of a batch that is on its way anyhow. Recording never waits: a span that finds
//! the queue full is dropped and counted. Keys and payloads are never attributes. Start with [`Tracer`], then [`FlowTracer`].

mod client;
mod export;
mod ids;

use std::sync::Arc;
use std::time::SystemTime;

use longhaul_event::{Event, FlowId, TraceParent, correlation};
use opentelemetry::trace::{Link, SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;

pub use client::Collector;
pub use export::Export;
pub use ids::{Sampler, Stage};

use crate::Metrics;

/// Most events of one batch that are traced: a batch of thousands says nothing more by more of them.
const TRACED_OF_BATCH_MAX: usize = 16;
/// Spans that wait to be exported.
const QUEUE_SPANS_MAX: usize = 4096;

/// Who records: what every span of a router says of it.
#[derive(Debug, Clone, Copy)]
pub struct Recorder<'a> {
    /// Name of the mesh.
    pub mesh: &'a str,
    /// The router's region.
    pub region: &'a str,
    /// The router's name.
    pub router: &'a str,
}

/// Records spans of the events that its sampler takes.
pub struct Tracer {
    sampler: Sampler,
    queue: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
    scope: InstrumentationScope,
}

/// What the spans of a flow say, beside what its events say.
#[derive(Debug, Clone, Copy)]
pub struct FlowLabels<'a> {
    /// Its identity.
    pub flow: FlowId,
    /// The route.
    pub route: &'a str,
    /// `region/broker` of the source.
    pub from: &'a str,
    /// The shard there.
    pub shard: &'a str,
    /// `region/broker` of the destination.
    pub to: &'a str,
    /// Kinds of the two brokers.
    pub systems: [&'static str; 2],
}

/// Records the spans of one flow. Cloning shares the tracer.
#[derive(Clone)]
pub struct FlowTracer {
    tracer: Arc<Tracer>,
    flow: FlowId,
    about: Vec<KeyValue>,
    systems: [&'static str; 2],
}

/// From when to when something was done with a batch.
pub type During = (SystemTime, SystemTime);

/// A write that is under way, of an event that is traced.
#[derive(Debug)]
pub struct Writing {
    offset: u64,
    span: SpanData,
}

impl Tracer {
    /// A tracer, and the task that exports what it records to that collector.
    ///
    /// # Errors
    /// When its URL is none or a file is not what it must be, in words.
    pub fn new(
        collector: Collector,
        sampler: Sampler,
        recorder: Recorder<'_>,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Self>, Export), String> {
        let (queue, recorded) = mpsc::channel(QUEUE_SPANS_MAX);
        let export = Export::new(collector, recorder, recorded, Arc::clone(&metrics))?;
        let scope = InstrumentationScope::builder("longhaul").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok((Arc::new(Self { sampler, queue, metrics, scope }), export))
    }

    /// Records spans of a flow.
    #[must_use]
    pub fn flow(self: &Arc<Self>, labels: FlowLabels<'_>) -> FlowTracer {
        let FlowLabels { flow, route, from, shard, to, systems } = labels;
        let about = vec![
            KeyValue::new("longhaul.route", route.to_owned()),
            KeyValue::new("longhaul.from", from.to_owned()),
            KeyValue::new("longhaul.shard", shard.to_owned()),
            KeyValue::new("longhaul.to", to.to_owned()),
            KeyValue::new("longhaul.flow", flow.to_string()),
        ];
        FlowTracer { tracer: Arc::clone(self), flow, about, systems }
    }

    fn record(&self, span: SpanData) {
        if self.queue.try_send(span).is_err() {
            self.metrics.span_not_queued();
        }
    }
}

impl FlowTracer {
    /// Records how a batch was read, decided and sent; `attempt` is the path epoch that it was sent in.
    pub fn sent<'a>(&self, events: impl Iterator<Item = &'a Event>, attempt: u32, done: [During; 3]) {
        for event in self.picked(events) {
            for (stage, during) in [Stage::Read, Stage::Decide, Stage::Send].into_iter().zip(done) {
                self.tracer.record(self.span(event, attempt, stage, during));
            }
        }
    }

    /// Records that a batch came in and is about to be written; the writes end with [`written`](Self::written).
    #[must_use]
    pub fn received(&self, events: &[Event], attempt: u32, waited: During) -> Vec<Writing> {
        let writing = |event: &Event| {
            self.tracer.record(self.span(event, attempt, Stage::Receive, waited));
            let span = self.span(event, attempt, Stage::Write, (waited.1, waited.1));
            Writing { offset: event.offset, span }
        };
        self.picked(events.iter()).map(writing).collect()
    }

    /// Records that writes have ended: well, or with that error.
    pub fn written(&self, writing: Vec<Writing>, error: Option<&str>) {
        let end_time = SystemTime::now();
        for Writing { mut span, .. } in writing {
            span.end_time = end_time;
            if let Some(error) = error {
                span.status = Status::error(error.to_owned());
            }
            self.tracer.record(span);
        }
    }

    fn picked<'a>(&self, events: impl Iterator<Item = &'a Event>) -> impl Iterator<Item = &'a Event> {
        events.filter(move |event| self.tracer.sampler.takes(event)).take(TRACED_OF_BATCH_MAX)
    }

    fn span(&self, event: &Event, attempt: u32, stage: Stage, (start_time, end_time): During) -> SpanData {
        let id = |stage| ids::span(event.id, self.flow, attempt, stage);
        let parent = stage.parent();
        SpanData {
            span_context: context(event.id.0, id(stage), TraceFlags::SAMPLED, false),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(id(parent).to_be_bytes())),
            parent_span_is_remote: stage == Stage::Receive,
            span_kind: stage.kind(),
            name: stage.as_str().into(),
            start_time,
            end_time,
            attributes: self.attributes(event, stage),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: links(event, stage),
            status: Status::Unset,
            instrumentation_scope: self.tracer.scope.clone(),
        }
    }

    /// By OpenTelemetry's conventions for messaging where there is one.
    fn attributes(&self, event: &Event, stage: Stage) -> Vec<KeyValue> {
        let mut all = self.about.clone();
        all.push(KeyValue::new("longhaul.event", event.id.to_string()));
        all.push(KeyValue::new("longhaul.offset", i64::try_from(event.offset).unwrap_or(i64::MAX)));
        all.push(KeyValue::new("messaging.destination.name", event.topic.as_str().to_owned()));
        let size = event.payload.as_ref().map_or(0, bytes::Bytes::len);
        all.push(KeyValue::new("messaging.message.body.size", i64::try_from(size).unwrap_or(i64::MAX)));
        if let Some(id) = correlation(&event.headers) {
            all.push(KeyValue::new("messaging.message.conversation_id", id.into_owned()));
        }
        let operation = match stage {
            Stage::Read => Some((self.systems[0], "receive")),
            Stage::Write => Some((self.systems[1], "send")),
            Stage::Decide | Stage::Send | Stage::Receive => None,
        };
        if let Some((system, operation)) = operation {
            all.push(KeyValue::new("messaging.system", system));
            all.push(KeyValue::new("messaging.operation.type", operation));
        }
        all
    }
}

/// Takes the writes out whose events were set aside: they are not among `events` any more, which are in order.
#[must_use]
pub fn set_aside(writing: &mut Vec<Writing>, events: &[Event]) -> Vec<Writing> {
    let is_gone = |one: &mut Writing| events.binary_search_by_key(&one.offset, |event| event.offset).is_err();
    writing.extract_if(.., is_gone).collect()
}

/// The first span of each end is linked to the span that the event was created in.
fn links(event: &Event, stage: Stage) -> SpanLinks {
    let mut links = SpanLinks::default();
    if let (Stage::Read | Stage::Receive, Some(parent)) = (stage, TraceParent::of(&event.headers)) {
        let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        links.links.push(Link::with_context(context(parent.trace, parent.span, flags, true)));
    }
    links
}

fn context(trace: u128, span: u64, flags: TraceFlags, is_remote: bool) -> SpanContext {
    let (trace, span) = (TraceId::from_bytes(trace.to_be_bytes()), SpanId::from_bytes(span.to_be_bytes()));
    SpanContext::new(trace, span, flags, is_remote, TraceState::default())
}

#[cfg(test)]
mod tests;
