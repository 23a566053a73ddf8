//! `xtask image`: the container image without a container engine, as a tar in OCI layout that `ctr images import` takes, with its SBOM.
//!
//! The root folder comes from `k8s/image/root.sh`, as in `Containerfile`. Nothing is fetched and no daemon is asked: `tar`, `gzip`,
//! `sha256sum`, `ldd` and `dpkg` of this machine do the work. The same binary on the same machine gives the same bytes.

mod oci;
mod sbom;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where containerd finds the image after an import.
const NAME: &str = "localhost/longhaul";

/// Makes the image of a binary beside it, in `image/`; says where it is and how large.
///
/// # Errors
/// When the binary is not there, or a tool of the machine fails.
#[expect(clippy::print_stdout, reason = "says what was made")]
pub(crate) fn build(binary: &Path) -> Result<(), String> {
    if !binary.is_file() {
        return Err(format!("{} is not there: cargo build --release --package longhaul", binary.display()));
    }
    let folder = binary.parent().unwrap_or(Path::new(".")).join("image");
    let root = folder.join("root");
    output(Command::new("k8s/image/root.sh").arg(binary).arg(&root))?;
    let version = version(binary)?;
    let sbom = folder.join(format!("longhaul-{version}.cdx.json"));
    let components = sbom::write(&root, &version, &sbom)?;
    let image = folder.join(format!("longhaul-{version}.oci.tar"));
    let layer_bytes = oci::write(&root, &folder.join("layout"), &format!("{NAME}:{version}"), &image)?;
    println!("{NAME}:{version}");
    println!("image  {}: {} to pull, {} unpacked", image.display(), mib(layer_bytes), mib(unpacked(&root)?));
    println!("sbom   {}: {components} components", sbom.display());
    println!("import ctr --namespace k8s.io images import {}", image.display());
    Ok(())
}

/// What `longhaul --version` says.
fn version(binary: &Path) -> Result<String, String> {
    let said = output(Command::new(binary).arg("--version"))?;
    said.split_whitespace().last().map(str::to_owned).ok_or_else(|| format!("{} has no version", binary.display()))
}

fn unpacked(root: &Path) -> Result<u64, String> {
    let said = output(Command::new("du").args(["--summarize", "--bytes"]).arg(root))?;
    said.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).ok_or_else(|| "du says no size".to_owned())
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Runs a tool to its end and returns what it wrote.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|error| format!("{name}: {error}"))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(format!("{name}: {}", String::from_utf8_lossy(&done.stderr).trim()))
    }
}

/// Writes a text, and the folders above it.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(path.parent().map(PathBuf::from).unwrap_or_default()).map_err(wrong)?;
    std::fs::write(path, text).map_err(wrong)
}
