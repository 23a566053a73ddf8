//! A loop made on purpose through routes is refused before anything starts, and the routes are named.

use std::path::Path;
use std::process::{Command, Output};

use longhaul_tests::mesh::{Mesh, program};

fn validate(document: &Path) -> Output {
    Command::new(program()).arg("validate").arg(document).env("NO_COLOR", "1").output().expect("the program runs")
}

/// What a person reads, without the line breaks of the rendering.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn mesh() -> Mesh {
    let mesh = Mesh::new(&["a", "b", "c"]);
    ["a", "b", "c"].iter().fold(mesh, |mesh, region| mesh.embedded(region, "events").0)
}

fn route(name: &str, from: &str, topics: &str, to: &str, topic: &str) -> String {
    format!(
        "name: {name}\nfrom: {{region: {from}, broker: events, topics: [\"{topics}\"]}}\nto: [{{region: {to}, broker: events, topic: \"{topic}\"}}]"
    )
}

#[test]
fn two_routes_that_carry_events_back_are_refused_by_name() {
    let mesh = mesh()
        .route(&route("there", "a", "orders.>", "b", "{topic}"))
        .route(&route("back", "b", "orders.*", "a", "{topic}"));
    mesh.write_all();
    for document in [mesh.mesh_document(), mesh.router_document("a")] {
        let output = validate(&document);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let text = said(&output);
        assert!(text.contains("route `there` and route `back` form a cycle"), "{text}");
        assert!(text.contains("a/events -> b/events -> a/events"), "{text}");
    }
    let run = Command::new(program()).args(["run", "--config"]).arg(mesh.router_document("a")).output();
    let run = run.expect("the program runs");
    assert_eq!(run.status.code(), Some(1));
    assert!(said(&run).contains("form a cycle"), "{}", said(&run));
}

#[test]
fn a_loop_over_three_regions_is_refused_and_one_prefix_breaks_it() {
    let ring = |last: &str| {
        mesh()
            .route(&route("one", "a", "orders.>", "b", "{topic}"))
            .route(&route("two", "b", "orders.>", "c", "{topic}"))
            .route(&route("three", "c", "orders.>", "a", last))
    };
    let closed = ring("{topic}");
    closed.write_all();
    let output = validate(&closed.mesh_document());
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    for name in ["`one`", "`two`", "`three`", "form a cycle"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    let open = ring("from-c.{topic}");
    open.write_all();
    let output = validate(&open.mesh_document());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}
