//! A real OpenTelemetry Collector that takes traces over OTLP/HTTP with TLS and writes every span into its log, which is read here.
//!
//! Built from its Go modules, once, which takes some minutes: `collector/main.go` takes the two parts of it that are needed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::debian::run;
use crate::{Process, cache_dir, free_port, install, wait_for_port};

/// Of the collector; what is said to be stable in it has a version of its own, which follows.
const VERSION: &str = "0.140.0";
const MODULES: [&str; 4] = ["otelcol", "service", "receiver/otlpreceiver", "exporter/debugexporter"];
const PATIENCE: Duration = Duration::from_secs(30);

/// One collector, stopped when dropped.
pub struct Collector {
    process: Process,
    port: u16,
    _folder: TempDir,
}

/// The program, ready to run.
///
/// # Errors
/// One sentence that names what to install, with what the build said.
pub fn program() -> Result<PathBuf, String> {
    let target = cache_dir().join(format!("collector-{VERSION}"));
    install(&target, build)
        .map_err(|said| format!("the collector is missing: install Go (golang-go, 1.24 or newer); {said}"))?;
    Ok(target.join("collector"))
}

fn build(into: &Path) -> Result<(), String> {
    let work = tempfile::tempdir().map_err(|e| e.to_string())?;
    let required =
        MODULES.map(|module| format!("require go.opentelemetry.io/collector/{module} v{VERSION}\n")).concat();
    let module = format!("module longhaul.test/collector\n\ngo 1.24.0\n\n{required}");
    fs::write(work.path().join("go.mod"), module).map_err(|e| e.to_string())?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("collector/main.go");
    fs::copy(&source, work.path().join("main.go")).map_err(|e| format!("{}: {e}", source.display()))?;
    let mut go = Command::new("go");
    go.args(["build", "-mod=mod", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(into.join("collector")).arg("main.go");
    run(go.current_dir(work.path()).env_remove("GOFLAGS"))
}

impl Collector {
    /// Starts one that shows this certificate, both PEM.
    ///
    /// # Errors
    /// What is missing, or what it wrote when it did not come up.
    pub fn start(cert: &str, key: &str) -> Result<Self, String> {
        let program = program()?;
        let folder = tempfile::Builder::new().prefix("longhaul-collector-").tempdir().map_err(|e| e.to_string())?;
        let port = free_port();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
            Ok::<_, String>(path.display().to_string())
        };
        let (cert, key) = (file("tls.crt", cert)?, file("tls.key", key)?);
        let config = file(
            "collector.yaml",
            &format!(
                "receivers: {{otlp: {{protocols: {{http: {{endpoint: \"127.0.0.1:{port}\", tls: {{cert_file: {cert}, key_file: {key}}}}}}}}}}}\n\
                 exporters: {{debug: {{verbosity: detailed}}}}\n\
                 service:\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines: {{traces: {{receivers: [otlp], exporters: [debug]}}}}\n"
            ),
        )?;
        let mut command = Command::new(program);
        command.arg(format!("--config=file:{config}"));
        let process = Process::spawn(&mut command, &folder.path().join("log")).map_err(|e| e.to_string())?;
        wait_for_port(port, PATIENCE).map_err(|e| format!("collector: {e}; it wrote: {}", process.output()))?;
        Ok(Self { process, port, _folder: folder })
    }

    /// The endpoint to configure.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// The spans of a trace that it has taken so far, by their names, each with what the collector says of it: `ID`, `Parent ID` and the like.
    #[must_use]
    pub fn spans(&self, trace: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        spans(&self.log(), trace)
    }
}

fn spans(log: &str, trace: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let fields = |block: &str| {
        let lines = block.lines().filter(|line| line.starts_with("    ")).filter_map(|line| line.split_once(':'));
        lines.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect::<BTreeMap<_, _>>()
    };
    let all = log.split("\nSpan #").skip(1).map(fields);
    let of_trace = all.filter(|span| span.get("Trace ID").is_some_and(|found| found == trace));
    of_trace.filter_map(|span| Some((span.get("Name")?.clone(), span))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_found_in_the_log() {
        let log = "info\tResourceSpans #0\nSpan #0\n    Trace ID       : 0a\n    Parent ID      : \n    ID             : 0b\n    Name           : read\n\
                   Attributes:\n     -> longhaul.to: Str(b/c)\nSpan #1\n    Trace ID       : 0c\n    Name           : send\n";
        let found = spans(log, "0a");
        assert_eq!(found.keys().collect::<Vec<_>>(), ["read"]);
        assert_eq!((found["read"]["ID"].as_str(), found["read"]["Parent ID"].as_str()), ("0b", ""));
    }
}
