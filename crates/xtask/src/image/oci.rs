//! An image in OCI layout, as one tar: one layer, its configuration, a manifest and an index, each named by its SHA-256.
//!
//! ```text
//! oci-layout  index.json  blobs/sha256/<manifest> <config> <layer.tar.gz>
//! ```

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{output, write as write_text};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Writes the image of a root folder under that name. Returns the bytes of its layer.
pub(super) fn write(root: &Path, layout: &Path, name: &str, image: &Path) -> Result<u64, String> {
    let blobs = layout.join("blobs/sha256");
    let _ = std::fs::remove_dir_all(layout);
    std::fs::create_dir_all(&blobs).map_err(|error| format!("{}: {error}", blobs.display()))?;
    let tar = layout.join("layer.tar");
    pack(root, &tar)?;
    let unpacked = digest(&tar)?;
    output(Command::new("gzip").args(["--no-name", "--best"]).arg(&tar))?;
    let layer = blob(&blobs, &layout.join("layer.tar.gz"), LAYER)?;
    let config = json_blob(&blobs, &configuration(&unpacked), CONFIG)?;
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    let mut manifest = json_blob(&blobs, &manifest, MANIFEST)?;
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    manifest["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
    write_text(&layout.join("index.json"), &json!({"schemaVersion": 2, "manifests": [manifest]}).to_string())?;
    write_text(&layout.join("oci-layout"), &json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    pack(layout, image)?;
    Ok(layer["size"].as_u64().unwrap_or_default())
}

/// What a runtime needs to know: whom to run as, and what.
fn configuration(layer: &str) -> Value {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": "65532:65532",
            "ExposedPorts": {"7443/udp": {}, "9600/tcp": {}},
            "Entrypoint": ["/usr/local/bin/longhaul"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        "history": [{"created_by": "xtask image"}],
    })
}

/// A folder as a tar with no trace of who packed it and when.
fn pack(folder: &Path, tar: &Path) -> Result<(), String> {
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]);
    output(command.arg("--directory").arg(folder).arg("--create").arg("--file").arg(tar).arg(".")).map(drop)
}

fn json_blob(blobs: &Path, value: &Value, media: &str) -> Result<Value, String> {
    let path = blobs.join("new");
    write_text(&path, &value.to_string())?;
    blob(blobs, &path, media)
}

/// Moves a file to where its content says; returns its descriptor.
fn blob(blobs: &Path, path: &Path, media: &str) -> Result<Value, String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    let (digest, size) = (digest(path)?, std::fs::metadata(path).map_err(wrong)?.len());
    std::fs::rename(path, blobs.join(&digest)).map_err(wrong)?;
    Ok(json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": size}))
}

fn digest(path: &Path) -> Result<String, String> {
    let said = output(Command::new("sha256sum").arg(path))?;
    said.split_whitespace().next().map(str::to_owned).ok_or_else(|| "sha256sum says nothing".to_owned())
}
