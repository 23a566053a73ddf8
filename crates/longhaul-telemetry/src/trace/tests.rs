//! Ids, sampling, what spans say, and that a full queue drops.

use bytes::Bytes;
use longhaul_event::{EventId, Headers, Identity};
use longhaul_topic::Topic;

use super::*;

const PARENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn event(id: u128, offset: u64) -> Event {
    let mut headers = Headers::builder();
    headers.push("traceparent", PARENT).expect("it fits");
    headers.push("ce_correlationid", b"c-1").expect("it fits");
    Event {
        offset,
        topic: Topic::parse("orders.new").expect("a topic"),
        key: Some(Bytes::from_static(b"secret key")),
        headers: headers.finish(),
        payload: Some(Bytes::from_static(b"secret body")),
        time_ms: 0,
        id: EventId(id),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}

fn tracer(ratio: f64) -> (FlowTracer, mpsc::Receiver<SpanData>, Arc<Metrics>) {
    let (queue, recorded) = mpsc::channel(QUEUE_SPANS_MAX);
    let (metrics, scope) = (Metrics::new(), InstrumentationScope::builder("longhaul").build());
    let tracer = Tracer { sampler: Sampler::new(ratio, false), queue, metrics: Arc::clone(&metrics), scope };
    let labels = FlowLabels {
        flow: FlowId(7),
        route: "orders",
        from: "eu/orders",
        shard: "orders/0",
        to: "us/billing",
        systems: ["kafka", "rabbitmq"],
    };
    (Arc::new(tracer).flow(labels), recorded, metrics)
}

fn now() -> During {
    let now = SystemTime::now();
    (now, now)
}

fn drain(mut recorded: mpsc::Receiver<SpanData>) -> Vec<SpanData> {
    std::iter::from_fn(|| recorded.try_recv().ok()).collect()
}

/// The two ends run in two processes and share nothing but the event and the flow.
#[test]
fn both_ends_write_into_one_trace_of_five_stages() {
    let event = event(0xabc, 3);
    let (owner, sent, _) = tracer(1.0);
    owner.sent([&event].into_iter(), 2, [now(), now(), now()]);
    let (applier, received, _) = tracer(1.0);
    let writing = applier.received(std::slice::from_ref(&event), 2, now());
    applier.written(writing, None);
    drop((owner, applier));
    let spans: Vec<_> = drain(sent).into_iter().chain(drain(received)).collect();
    assert_eq!(
        spans.iter().map(|span| &*span.name).collect::<Vec<_>>(),
        ["read", "decide", "send", "receive", "write"]
    );
    let mut parent = SpanId::INVALID;
    for span in &spans {
        assert_eq!(span.span_context.trace_id().to_string(), event.id.to_string());
        assert!(span.span_context.is_valid() && span.span_context.is_sampled());
        assert_eq!(span.parent_span_id, parent, "{}", span.name);
        parent = span.span_context.span_id();
        let said =
            |key: &str| span.attributes.iter().find(|one| one.key.as_str() == key).map(|one| one.value.to_string());
        assert_eq!(said("messaging.message.conversation_id").as_deref(), Some("c-1"));
        assert_eq!(said("longhaul.event"), Some(event.id.to_string()));
        assert_eq!(said("longhaul.route").as_deref(), Some("orders"));
        assert!(!format!("{span:?}").contains("secret"), "no key and no body");
        let linked: Vec<_> = span.links.iter().map(|link| link.span_context.trace_id().to_string()).collect();
        let expected =
            if matches!(&*span.name, "read" | "receive") { &["4bf92f3577b34da6a3ce929d0e0e4736"][..] } else { &[] };
        assert_eq!(linked, expected, "{}", span.name);
    }
}

#[test]
fn another_attempt_another_flow_and_another_event_are_other_spans() {
    let id = |event, flow, attempt| ids::span(EventId(event), FlowId(flow), attempt, Stage::Send);
    let all = [id(1, 1, 1), id(2, 1, 1), id(1, 2, 1), id(1, 1, 2), ids::span(EventId(1), FlowId(1), 1, Stage::Write)];
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
    assert_eq!(id(1, 1, 1), 0x6678_a102_3897_f084, "frozen: routers of two versions must agree");
}

#[test]
fn a_ratio_takes_that_part_and_a_larger_one_takes_the_same_and_more() {
    let events: Vec<Event> = (0..100_000).map(|n| event(EventId::of_position(1, 0, 2, n).0, n)).collect();
    let taken = |ratio| {
        let sampler = Sampler::new(ratio, false);
        events.iter().filter(|event| sampler.takes(event)).map(|event| event.id).collect::<Vec<_>>()
    };
    let (few, more) = (taken(0.001), taken(0.01));
    assert!((60..140).contains(&few.len()), "{}", few.len());
    assert!((900..1_100).contains(&more.len()), "{}", more.len());
    assert!(few.iter().all(|id| more.contains(id)));
    assert_eq!(taken(1.0).len(), events.len());
    assert_eq!(taken(1e-30).len(), 0);
    assert!(!Sampler::new(1.0, true).takes(&event(0, 1)), "no identity, no trace");
}

#[test]
fn a_creator_that_traced_is_followed_where_that_is_asked_for() {
    let traced = event(u128::MAX, 1);
    let mut not = traced.clone();
    let mut headers = Headers::builder();
    headers.push("traceparent", &PARENT[..54]).expect("it fits");
    not.headers = headers.finish();
    assert!(Sampler::new(0.1, true).takes(&traced));
    assert!(!Sampler::new(0.1, false).takes(&traced) && !Sampler::new(0.1, true).takes(&not));
}

#[test]
fn of_one_batch_a_few_are_traced() {
    let events: Vec<Event> = (1..=100).map(|n| event(n, 0)).collect();
    let (flow, recorded, _) = tracer(1.0);
    flow.sent(events.iter(), 1, [now(), now(), now()]);
    drop(flow);
    assert_eq!(drain(recorded).len(), 3 * TRACED_OF_BATCH_MAX);
}

#[test]
fn a_failed_write_and_one_set_aside_say_why() {
    let events: Vec<Event> = (1..=3).map(|n| event(n, n as u64)).collect();
    let (flow, recorded, _) = tracer(1.0);
    let mut writing = flow.received(&events, 1, now());
    let aside = set_aside(&mut writing, &[events[0].clone(), events[2].clone()]);
    flow.written(aside, Some("too large"));
    flow.written(writing, None);
    drop(flow);
    let writes: Vec<_> = drain(recorded).into_iter().filter(|span| span.name == "write").collect();
    let status = writes
        .iter()
        .map(|span| (span.span_context.trace_id().to_bytes()[15], span.status.clone()))
        .collect::<Vec<_>>();
    assert_eq!(status, [(2, Status::error("too large")), (1, Status::Unset), (3, Status::Unset)]);
}

#[test]
fn what_finds_the_queue_full_is_dropped_and_counted() {
    let (flow, recorded, metrics) = tracer(1.0);
    let event = event(1, 1);
    for _ in 0..QUEUE_SPANS_MAX.div_ceil(3) {
        flow.sent([&event].into_iter(), 1, [now(), now(), now()]);
    }
    let text = metrics.render();
    assert!(text.contains("longhaul_trace_spans_dropped_total{reason=\"queue\"} 2"), "{text}");
    drop(flow);
    assert_eq!(drain(recorded).len(), QUEUE_SPANS_MAX);
}
