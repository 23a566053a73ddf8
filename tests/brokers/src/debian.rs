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

/// Fetches a package and unpacks it into that folder: nothing is installed and nothing is started, so that it needs no rights.
///
/// # Errors
/// What `apt-get` or `dpkg` said.
pub fn unpack(package: &str, into: &Path) -> Result<(), String> {
    let download = || apt_get_in(into, &["download", "-q", package]);
    // A new machine has no list of packages yet, or an old one.
    download().or_else(|_| apt_get(&["update", "-q"]).and_then(|()| download()))?;
    let files = std::fs::read_dir(into).map_err(|error| error.to_string())?;
    let mut files = files.flatten().map(|file| file.path());
    let file = files.find(|file| file.extension().is_some_and(|end| end == "deb")).ok_or("apt-get fetched nothing")?;
    run(Command::new("dpkg").arg("-x").arg(&file).arg(into))?;
    std::fs::remove_file(file).map_err(|error| error.to_string())
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    apt_get_in(Path::new("/"), arguments)
}

fn apt_get_in(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    run(Command::new("apt-get").args(arguments).current_dir(folder).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Runs a command to its end.
///
/// # Errors
/// Its name, with what it said.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Whether a program of that name is on the PATH.
#[must_use]
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
