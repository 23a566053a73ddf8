//! What the tests of chart, kustomize and image share: where things are, an API server for all, rendered objects as values.
//!
//! Start with [`api`] and [`Objects`], or with [`installed`] for a mesh that runs. Nothing here is compared as text: manifests are parsed, and what only says which tool made them
//! is left out.

pub mod installed;
pub mod load;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use longhaul_test_cluster::Api;
use serde_json::Value;

/// The regions of the overlay.
pub const REGIONS: [&str; 3] = ["eu-west", "us-east", "ap-south"];
/// Labels and annotations that differ between tools by their nature.
const OF_THE_TOOL: [&str; 4] =
    ["helm.sh/chart", "app.kubernetes.io/managed-by", "checksum/router", "longhaul/router-document"];

/// Objects by kind and name.
pub type Objects = BTreeMap<String, Value>;

/// An API server, shared by the tests that run at the same time, and stopped when the last of them lets go of it.
///
/// # Panics
/// When it does not start.
pub fn api() -> Arc<Api> {
    static SHARED: Mutex<Weak<Api>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let api = Arc::new(Api::start().expect("an API server"));
        *shared = Arc::downgrade(&api);
        api
    })
}

/// A path of the repository.
#[must_use]
pub fn path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there").join(below)
}

/// A path of the repository, as an argument.
#[must_use]
pub fn argument(below: &str) -> String {
    path(below).display().to_string()
}

/// The program under test, which `make test-k8s` builds first.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let program = test.ancestors().nth(2).expect("tests lie below the target folder").join("longhaul");
    assert!(program.exists(), "{} is missing: cargo build --package longhaul", program.display());
    program
}

/// What `longhaul generate k8s` writes for a region of the overlay's mesh document.
///
/// # Errors
/// What it said on stderr.
pub fn generate(mesh: &Path, region: &str) -> Result<String, String> {
    let mut command = Command::new(program());
    let out = command.args(["generate", "k8s", "--region", region, "--mesh"]).arg(mesh).output();
    let out = out.map_err(|error| error.to_string())?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr)) }
}

/// Makes the container image of the program under test, and returns the one file of it whose name ends so.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn image(end: &str) -> PathBuf {
    let program = program();
    let out = Command::new(program.with_file_name("xtask")).arg("image").arg(&program).current_dir(path("")).output();
    let out = out.expect("xtask is built");
    assert!(out.status.success(), "xtask image: {}", String::from_utf8_lossy(&out.stderr));
    let files = std::fs::read_dir(program.with_file_name("image")).expect("a folder");
    let mut files = files.map(|entry| entry.expect("an entry").path());
    files.find(|path| path.to_string_lossy().ends_with(end)).expect("it was made")
}

/// The mesh document of the overlay.
#[must_use]
pub fn mesh() -> PathBuf {
    path("k8s/kustomize/overlays/three-regions/mesh/mesh.yaml")
}

/// `helm template` of the chart with those values, the mesh document and more arguments.
///
/// # Errors
/// What helm said.
pub fn template(api: &Api, values: &str, namespace: &str, more: &[&str]) -> Result<String, String> {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().map_err(|error| error.to_string())?;
    std::fs::write(file.path(), values).map_err(|error| error.to_string())?;
    let (chart, values, mesh) =
        (argument("k8s/helm/longhaul"), file.path().display().to_string(), format!("mesh={}", mesh().display()));
    // A helm that was built from its module does not know for which Kubernetes.
    let fixed = [
        "template",
        "longhaul",
        &chart,
        "--kube-version",
        longhaul_test_cluster::VERSION,
        "--namespace",
        namespace,
        "--values",
        &values,
        "--set-file",
        &mesh,
    ];
    api.helm(&[&fixed[..], more].concat())
}

/// Manifests as objects, without what says which tool made them. Hooks are left out: they are helm's own.
///
/// # Panics
/// When they are no YAML.
#[must_use]
pub fn objects(manifests: &str) -> Objects {
    let all: Vec<Value> = serde_saphyr::from_multiple(manifests).expect("manifests are YAML");
    let all = all.into_iter().filter(|object| object["metadata"]["annotations"]["helm.sh/hook"].is_null());
    all.filter(|object| object.is_object())
        .map(|mut object| {
            if let Some(meta) = object["metadata"].as_object_mut() {
                meta.remove("namespace");
            }
            strip(&mut object);
            documents(&mut object);
            (format!("{} {}", word(&object["kind"]), word(&object["metadata"]["name"])), object)
        })
        .collect()
}

/// A text of a manifest.
#[must_use]
pub fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            entries.retain(|key, _| !OF_THE_TOOL.contains(&key.as_str()));
            entries.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Documents inside a ConfigMap are compared by what they say, not by their comments.
fn documents(object: &mut Value) {
    let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) else { return };
    for (key, text) in data {
        if let Some(document) = text.as_str().filter(|_| key.ends_with(".yaml")) {
            *text = serde_saphyr::from_str(document).expect("a document is YAML");
        }
    }
}
