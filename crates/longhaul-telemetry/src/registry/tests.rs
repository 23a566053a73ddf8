//! What is counted is what is rendered.

use super::*;

#[test]
fn what_is_counted_is_rendered_with_its_labels() {
    let metrics = Metrics::new();
    let out = metrics.outflow("orders", "eu/kafka", "us/rabbit");
    out.read(10, 1000);
    out.refused("loop", 3);
    out.gauges(FlowGauges { flows: 2, lag_events: 7, ..FlowGauges::default() });
    metrics.inflow("orders", "eu/kafka", "us/rabbit").end_to_end(3);
    metrics.link("us", "10.0.0.1:7443").connected();
    let text = metrics.render();
    for line in [
        "longhaul_read_events_total{from=\"eu/kafka\",route=\"orders\",to=\"us/rabbit\"} 10",
        "longhaul_refused_events_total{from=\"eu/kafka\",reason=\"loop\",route=\"orders\",to=\"us/rabbit\"} 3",
        "longhaul_flow_lag_events{from=\"eu/kafka\",route=\"orders\",to=\"us/rabbit\"} 7",
        "longhaul_link_up{address=\"10.0.0.1:7443\",region=\"us\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    out.remove_gauges();
    assert!(!metrics.render().contains("longhaul_flow_lag_events{"));
}

fn everything() -> Arc<Metrics> {
    let metrics = Metrics::new();
    let out = metrics.outflow("orders", "eu/kafka", "us/rabbit");
    out.read(10, 1000);
    out.sent(9, 900);
    out.refused("loop", 1);
    out.gap("purged");
    out.missing("purged", 1);
    out.reset("sink_lost");
    out.moved("gained");
    out.begun_again();
    out.faulted("source_transient");
    out.without_credit(Duration::from_millis(1500));
    out.gauges(FlowGauges::default());
    let into = metrics.inflow("orders", "eu/kafka", "us/rabbit");
    into.received(9, 900);
    into.delivered(8, 800);
    into.poisoned("too_large");
    into.parked("too_large");
    into.dropped("too_large");
    into.end_to_end(12);
    let link = metrics.link("us", "10.0.0.1:7443");
    link.connected();
    link.connected();
    link.show(LinkGauges { lost_packets: 1, sent_bytes: 2, received_bytes: 3, ..LinkGauges::default() });
    metrics.refused_connection("wrong_mesh");
    metrics.refused_message("stale_batch");
    metrics.refused_requests("admin", 400, 1);
    metrics.flow_passes("ap-south", "us-east");
    metrics.broker_up("main \"q\"\\", "kafka", true);
    // What is parked stays in its broker, and in the metric, when its route is gone.
    metrics.parked("orders", "eu/kafka", "ap/nats", 1);
    metrics.audit("orders", "eu/kafka", "us/rabbit", &[("delivered", 8)]);
    metrics.router("us", "router-1");
    metrics.reload_succeeded(1);
    metrics.task_panicked();
    metrics
}

fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.render();
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// A reader of the text format, strict about what a line may be. Returns the families that have samples.
fn parse(text: &str) -> HashMap<String, String> {
    let (mut types, mut helped) = (HashMap::new(), Vec::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped.push(help.split_once(' ').expect("a name and a text").0.to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert_eq!(helped.last().map(String::as_str), Some(name), "help stands before type");
            assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "{name} stands twice");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            value.parse::<f64>().expect("a number");
            let (name, labels) = series.split_once('{').map_or((series, ""), |(name, labels)| (name, labels));
            assert!(labels.is_empty() || labels.ends_with("\"}"), "{line}");
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(types.contains_key(family) || types.contains_key(name), "{line} has no type");
        }
    }
    types
}

#[test]
fn everything_in_the_table_is_rendered_with_its_kind() {
    let types = parse(&everything().render());
    for metric in names::ALL {
        let kind = types.get(metric.name).map(String::as_str);
        assert_eq!(kind, Some(format!("{:?}", metric.kind).to_lowercase().as_str()), "{}", metric.name);
    }
    let foreign = types.keys().filter(|name| !names::ALL.iter().any(|metric| metric.name == **name));
    assert!(foreign.clone().all(|name| name.starts_with("process_")), "{:?}", foreign.collect::<Vec<_>>());
}

#[test]
fn figures_of_a_connection_become_counters_of_a_region() {
    let metrics = Metrics::new();
    let link = metrics.link("us", "10.0.0.1:7443");
    let show = |sent_bytes| link.show(LinkGauges { sent_bytes, ..LinkGauges::default() });
    let sent = || value(&metrics, "longhaul_link_sent_bytes_total{region=\"us\"}");
    link.connected();
    show(100);
    show(150);
    assert_eq!(sent(), Some(150.0));
    link.down();
    link.connected();
    show(30);
    assert_eq!(sent(), Some(180.0));
    assert_eq!(value(&metrics, "longhaul_link_reconnects_total{region=\"us\"}"), Some(1.0));
    assert_eq!(value(&metrics, "longhaul_link_connects_total{region=\"us\"}"), Some(2.0));
    link.remove();
    assert!(!metrics.render().contains("10.0.0.1"));
    assert_eq!(sent(), Some(180.0));
}

#[test]
fn a_broker_that_stops_answering_is_counted_once() {
    let metrics = Metrics::new();
    for up in [false, false, true, true, false, false, true, false] {
        metrics.broker_up("main", "nats", up);
    }
    assert_eq!(value(&metrics, "longhaul_broker_errors_total{broker=\"main\",kind=\"nats\"}"), Some(2.0));
}

#[test]
fn a_route_that_is_gone_takes_its_series_with_it_and_no_others() {
    let metrics = everything();
    metrics.outflow("orders", "eu/kafka", "ap/nats").refused("loop", 5);
    metrics.outflow("orders", "eu/kafka", "us/rabbit").remove();
    metrics.inflow("orders", "eu/kafka", "us/rabbit").remove();
    let text = metrics.render();
    assert!(!text.contains("to=\"us/rabbit\""), "{text}");
    assert!(text.contains("reason=\"loop\",route=\"orders\",to=\"ap/nats\"} 5"), "{text}");
}
