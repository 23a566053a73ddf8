//! Logs of real routers in JSON: every line is one object, has the four names that every line has, and otherwise only those of `docs/logs.md`. An
//! event that cannot be sent is found by its correlation id.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use longhaul_tests::http::{call, publish_numbers};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::wait::until;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const ALWAYS: [&str; 4] = ["timestamp", "level", "target", "message"];
const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

/// The fields that are documented.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/logs.md");
    let text = std::fs::read_to_string(path).expect("the table of names");
    let row = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    text.lines().filter_map(row).collect()
}

fn lines(mesh: &Mesh, region: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    // A line that is being written is looked at next time.
    let log = mesh.log(region);
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole.lines().map(parse).collect()
}

async fn wait_for(mesh: &Mesh, region: &str, message: &str) -> Value {
    until(&format!("{region} logs: {message}"), PATIENCE, async || {
        lines(mesh, region).into_iter().find(|line| line["message"].as_str().is_some_and(|said| said.contains(message)))
    })
    .await
}

fn assert_names(region: &str, lines: &[Value], documented: &BTreeSet<String>) {
    assert!(lines.len() > 5, "{region} has said too little: {lines:?}");
    for line in lines {
        let object = line.as_object().expect("one object a line");
        for name in ALWAYS {
            assert!(object.get(name).is_some_and(Value::is_string), "no `{name}` in {line}");
        }
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        assert!(LEVELS.contains(&text("level")), "{line}");
        let (time, is_utc) = (text("timestamp"), text("timestamp").ends_with('Z'));
        assert!(is_utc && time.as_bytes().get(10) == Some(&b'T') && time.len() == 27, "{line}");
        let ours = text("target").starts_with("longhaul");
        let strange = object.keys().find(|name| !ALWAYS.contains(&name.as_str()) && !documented.contains(*name));
        assert!(!ours || strange.is_none(), "`{strange:?}` is not documented: {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_has_the_documented_names() {
    let (mesh, source) = Mesh::new(&["a", "b"]).json_logs().embedded("a", "local");
    let (mesh, _) = mesh.embedded("b", "local");
    let mut mesh = mesh.route(
        "name: keyed\nfrom: {region: a, broker: local, topics: [\"orders.>\"]}\nstart: earliest\n\
         to: [{region: b, broker: local, topic: \"in.{key}\"}]",
    );
    mesh.start().await;
    mesh.wait_streaming("a").await;
    publish_numbers(&source, "orders.new", 0..10).await;

    // An event without a key has no place under `in.{key}`: the flow halts before it, and the log says which one it is.
    let event = r#"{"specversion": "1.0", "id": "1", "source": "/test", "type": "t", "correlationid": "order-4711", "data": {}}"#;
    let url = format!("{source}/v1/topics/orders.new/events");
    let published = call("POST", &url, &[("content-type", "application/cloudevents+json")], event).await;
    assert_eq!(published.map(|(status, _)| status), Some(200));
    let said = wait_for(&mesh, "a", "an event cannot be sent").await;
    assert_eq!(
        (&said["correlation_id"], &said["level"], &said["reason"]),
        (&"order-4711".into(), &"WARN".into(), &"topic".into())
    );
    assert_eq!(said["event"].as_str().map(str::len), Some(32), "{said}");
    assert!(said["flow"].as_str().is_some_and(|flow| flow.starts_with("keyed: a/local/")), "{said}");

    // A document that is wrong, one that is right again, a neighbour that dies and comes back, and the end.
    let routes = mesh.routes().to_owned();
    mesh.set_routes("  - {name: keyed, form: nowhere}\n");
    wait_for(&mesh, "a", "the documents were not taken up").await;
    mesh.set_routes(&routes);
    wait_for(&mesh, "a", "the documents are in force").await;
    mesh.kill("b");
    wait_for(&mesh, "a", "a link is down").await;
    mesh.start_router("b");
    mesh.wait_ready("b").await;
    for region in ["a", "b"] {
        let ended = mesh.terminate(region);
        assert!(ended.is_some(), "{}", mesh.log(region));
        wait_for(&mesh, region, "drained").await;
        assert_names(region, &lines(&mesh, region), &documented());
    }
}
