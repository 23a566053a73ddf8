//! Programs that come from Debian's packages: found, or installed where this process may.

use std::path::Path;
use std::process::Command;

use crate::{cache_dir, install};

/// Runs `found`; when it finds nothing, installs the package once, if this is root on a Debian, and runs it again.
///
/// # Errors
/// One sentence that names the package to install, with what `apt-get` said when it was asked.
pub fn provide<T>(package: &str, found: impl Fn() -> Option<T>) -> Result<T, String> {
    if let Some(found) = found() {
        return Ok(found);
    }
    let missing = format!("{package} is missing: install the package {package} (Debian: apt-get install {package})");
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.starts_with(b"0\n"));
    if !is_root || !Path::new("/usr/bin/apt-get").exists() {
        return Err(missing);
    }
    install(&cache_dir().join(format!("{package}.installed")), |_| {
        // A new machine has no list of packages yet, or an old one.
        apt_get(&["update", "-q"]).and_then(|()| apt_get(&["install", "-y", "-q", "--no-install-recommends", package]))
    })
    .map_err(|said| format!("{missing}; apt-get said: {said}"))?;
    found().ok_or(missing)
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Whether a program of that name is on the PATH.
#[must_use]
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
