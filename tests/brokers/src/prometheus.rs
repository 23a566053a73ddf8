//! A real Prometheus that scrapes what a test tells it to, and `promtool`.
//!
//! Both come from the PATH when they are there, else from the cache, else from Debian's package, else they are built with Go. What a
//! Prometheus writes is gone with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::debian::{self, on_path, run};
use crate::{Process, cache_dir, free_port, install, wait_for_port};

/// What is built where Debian has none.
const VERSION: &str = "0.313.5";
const PATIENCE: Duration = Duration::from_secs(30);

/// One Prometheus, stopped when dropped.
pub struct Prometheus {
    process: Process,
    port: u16,
    _folder: TempDir,
}

/// Where the two programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The server.
    pub prometheus: PathBuf,
    /// The tool that checks rules and metrics.
    pub promtool: PathBuf,
}

/// Finds both programs, or fetches them.
///
/// # Errors
/// One sentence that names what to install.
pub fn programs() -> Result<Programs, String> {
    if on_path("prometheus") && on_path("promtool") {
        return Ok(Programs { prometheus: "prometheus".into(), promtool: "promtool".into() });
    }
    let target = cache_dir().join("prometheus");
    install(&target, |fresh| {
        debian::unpack("prometheus", fresh).or_else(|no_package| {
            build(fresh).map_err(|no_go| format!("prometheus is missing: install Go (golang-go), or Debian's package prometheus; {no_package}; {no_go}"))
        })
    })?;
    let programs = target.join("usr/bin");
    Ok(Programs { prometheus: programs.join("prometheus"), promtool: programs.join("promtool") })
}

/// In a module of its own, since `go install` refuses a program whose module leaves versions out; without service discovery, which is most of
/// it.
fn build(into: &Path) -> Result<(), String> {
    let go = |arguments: &[&str]| {
        run(Command::new("go").args(arguments).current_dir(into).env("GOBIN", into.join("usr/bin")).env("GOFLAGS", ""))
    };
    let package = |program: &str| format!("github.com/prometheus/prometheus/cmd/{program}");
    let [server, tool] = ["prometheus", "promtool"].map(package);
    go(&["mod", "init", "longhaul.test/prometheus"])?;
    go(&["get", &format!("{server}@v{VERSION}"), &format!("{tool}@v{VERSION}")])?;
    go(&["install", "-tags", "remove_all_sd", &server, &tool])
}

impl Prometheus {
    /// Starts one that scrapes these targets (`host:port`) as the job `longhaul` and evaluates these files of rules, both every second.
    ///
    /// # Errors
    /// What is missing, or what it wrote when it did not come up.
    pub fn start(targets: &[String], rules: &[PathBuf]) -> Result<Self, String> {
        let programs = programs()?;
        let folder = tempfile::Builder::new().prefix("longhaul-prometheus-").tempdir().map_err(|e| e.to_string())?;
        let port = free_port();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: {rules:?}\nscrape_configs:\n  - job_name: longhaul\n    \
             static_configs: [{{targets: {targets:?}}}]\n"
        );
        let (file, log) = (folder.path().join("prometheus.yml"), folder.path().join("log"));
        fs::write(&file, config).map_err(|e| e.to_string())?;
        let mut command = Command::new(programs.prometheus);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::spawn(&mut command, &log).map_err(|e| e.to_string())?;
        wait_for_port(port, PATIENCE).map_err(|e| format!("prometheus: {e}; it wrote: {}", process.output()))?;
        Ok(Self { process, port, _folder: folder })
    }

    /// Where it is asked.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }
}
