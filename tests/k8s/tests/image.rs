//! The image that is made without a container engine: whole, the same every time, and listed.

use std::path::{Path, PathBuf};
use std::process::Command;

use longhaul_test_k8s::{image, word};
use serde_json::Value;

/// Makes the image; returns the folder that it lies in.
fn build() -> PathBuf {
    image(".oci.tar").parent().expect("it lies in a folder").to_owned()
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn digest(file: &Path) -> String {
    let said = run(Command::new("sha256sum").arg(file));
    said.split_whitespace().next().expect("a digest").to_owned()
}

fn made(folder: &Path, end: &str) -> PathBuf {
    let all = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    all.into_iter().find(|path| path.to_string_lossy().ends_with(end)).expect("it was made")
}

fn json(file: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).expect("it is there")).expect("it is JSON")
}

#[test]
fn the_image_is_whole_runs_by_itself_and_is_the_same_every_time() {
    let folder = build();
    let image = made(&folder, ".oci.tar");
    let first = digest(&image);

    // Nothing but the root folder: libraries are all there, and nothing can be run beside the router.
    let root = folder.join("root");
    let alone = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--root"]).arg(&root).arg(program).arg("--version").env_clear();
        command.output().expect("unshare of util-linux")
    };
    let said = alone("/usr/local/bin/longhaul");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(String::from_utf8_lossy(&said.stdout).starts_with("longhaul "));
    assert!(!alone("/bin/sh").status.success(), "there is no shell");

    // What the tar says is what lies in it.
    let unpacked = tempfile::tempdir().expect("a temporary folder");
    run(Command::new("tar").arg("--extract").arg("--file").arg(&image).arg("--directory").arg(unpacked.path()));
    let blobs = unpacked.path().join("blobs/sha256");
    let blob = |descriptor: &Value| {
        let name = word(&descriptor["digest"]).strip_prefix("sha256:").expect("a SHA-256");
        let file = blobs.join(name);
        assert_eq!(digest(&file), name);
        assert_eq!(std::fs::metadata(&file).expect("it is there").len(), descriptor["size"].as_u64().expect("a size"));
        file
    };
    let index = json(&unpacked.path().join("index.json"));
    assert!(word(&index["manifests"][0]["annotations"]["io.containerd.image.name"]).starts_with("localhost/longhaul:"));
    let manifest = json(&blob(&index["manifests"][0]));
    let config = json(&blob(&manifest["config"]));
    blob(&manifest["layers"][0]);
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/local/bin/longhaul");

    let sbom = json(&made(&folder, ".cdx.json"));
    let names: Vec<&str> =
        sbom["components"].as_array().expect("components").iter().map(|component| word(&component["name"])).collect();
    for name in ["quinn", "rdkafka-sys", "longhaul-router", "libc6", "ca-certificates"] {
        assert!(names.contains(&name), "{name} is missing in the list");
    }
    assert!(!names.contains(&"insta"), "what only tests use is not in the image");

    assert_eq!(digest(&made(&build(), ".oci.tar")), first, "the same binary gives the same bytes");
}
