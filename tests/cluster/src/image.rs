//! Makes an image of a few files, without a registry and without an engine.
//!
//! What is written is the form that `docker save` has: every container runtime reads it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::programs::run;

/// Packs files, each with its name at the root of the image, into one archive with that name and entry point.
///
/// # Errors
/// What could not be read or written.
pub fn pack(files: &[(PathBuf, &str)], entry: &[&str], name: &str, archive: &Path) -> Result<(), String> {
    let work = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (root, layer) = (work.path().join("root"), work.path().join("layer.tar"));
    fs::create_dir(&root).map_err(|e| e.to_string())?;
    for (from, to) in files {
        fs::copy(from, root.join(to)).map_err(|e| format!("{}: {e}", from.display()))?;
    }
    run(Command::new("tar").args(["--owner=0", "--group=0", "-C"]).arg(&root).arg("-cf").arg(&layer).arg("."))?;
    let said = run(Command::new("sha256sum").arg(&layer))?;
    let digest = said.split_whitespace().next().unwrap_or_default();
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": entry},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    for (file, text) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(work.path().join(file), text.to_string()).map_err(|e| e.to_string())?;
    }
    let parts = ["config.json", "manifest.json", "layer.tar"];
    run(Command::new("tar").arg("-C").arg(work.path()).arg("-cf").arg(archive).args(parts)).map(|_| ())
}

/// As images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
