//! Every broken document of the repository, through the program itself: exit code 1, and each error that the document announces (`# expect:`)
//! on stderr, with its place.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use longhaul_tests::mesh::{Mesh, program};

fn broken(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let files = std::fs::read_dir(folder).expect("a folder of documents").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> =
        files.filter(|path| name(path).starts_with("broken-") && name(path).ends_with(".yaml")).collect();
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn longhaul(arguments: &[&str], document: &Path) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).arg(document).env("NO_COLOR", "1").output().expect("the program runs")
}

/// Whether one of the errors on stderr has that sentence at that place.
fn says(stderr: &str, sentence: &str, place: &str) -> bool {
    let in_one_line = |text: &str| text.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let sentence = in_one_line(sentence);
    stderr.split('×').any(|error| in_one_line(error).contains(&sentence) && error.contains(&format!(".yaml:{place}]")))
}

fn check(document: &Path, arguments: &[&str]) -> Result<(), String> {
    let text = std::fs::read_to_string(document).expect("a document");
    let output = longhaul(arguments, document);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(1) {
        return Err(format!("{}: exit {:?}\n{stderr}", name(document), output.status.code()));
    }
    let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# expect: ")).collect();
    assert!(!expected.is_empty(), "{} does not say what to expect", name(document));
    for expect in expected {
        let (place, sentence) = expect.split_once(": ").expect("LINE:COLUMN: SENTENCE");
        if !says(&stderr, sentence, place) {
            return Err(format!("{}: not said: {expect}\n{stderr}", name(document)));
        }
    }
    Ok(())
}

fn check_all(documents: &[PathBuf]) {
    assert!(documents.len() >= 15, "only {} documents", documents.len());
    let failed: Vec<_> = documents.iter().filter_map(|document| check(document, &["validate"]).err()).collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), documents.len(), failed.join("\n"));
}

#[test]
fn every_broken_mesh_document_is_refused_with_its_sentence() {
    check_all(&broken("topology"));
}

#[test]
fn every_broken_router_document_is_refused_with_its_sentence() {
    check_all(&broken("configs"));
}

/// `run` says the same as `validate`, and starts nothing.
#[test]
fn a_router_does_not_start_from_a_broken_document() {
    for document in &broken("configs") {
        check(document, &["run", "--config"]).unwrap_or_else(|text| panic!("{text}"));
    }
}

/// A router document is well by itself and its mesh document is not: said with the place in the mesh document.
#[test]
fn a_router_does_not_start_with_a_broken_mesh_document() {
    let (mesh, _) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, _) = mesh.embedded("b", "events");
    let route = "name: x\nfrom: {region: a, broker: evnets, topics: [\"t\"]}\nto: [{region: b, broker: events, topic: \"{topic}\"}]";
    let mesh = mesh.route(route);
    mesh.write_all();
    for arguments in [&["validate"][..], &["run", "--config"]] {
        let output = longhaul(arguments, &mesh.router_document("a"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("no broker called `evnets`") && stderr.contains("did you mean `events`?"), "{stderr}");
        assert!(stderr.contains("mesh.yaml:"), "{stderr}");
    }
}

/// A certificate that is good, and another region's.
#[test]
fn a_router_does_not_start_with_the_certificate_of_another_region() {
    let (mesh, _) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, _) = mesh.embedded("b", "events");
    mesh.write_all();
    let document = mesh.router_document("a");
    let text = std::fs::read_to_string(&document).expect("the router document");
    let others = text.replace("cert: a.crt, key: a.key", "cert: b.crt, key: b.key");
    assert_ne!(text, others);
    std::fs::write(&document, others).expect("the router document");
    let output = longhaul(&["run", "--config"], &document);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("is for the region b, the documents say a"), "{stderr}");
}

#[test]
fn every_good_document_is_taken() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../topology");
    for name in ["two-regions.yaml", "three-regions.yaml", "hub.yaml", "ring.yaml"] {
        let output = longhaul(&["validate"], &folder.join(name));
        assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_document_that_cannot_be_read_is_named() {
    let output = longhaul(&["validate"], Path::new("no-such-document.yaml"));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-document.yaml"), "{output:?}");
}
