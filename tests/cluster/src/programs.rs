//! The programs that a cluster is made of: found on the PATH when they are of the right version, else built from their Go modules, once.
//!
//! Kubernetes and etcd come from one module of our own that does nothing but require Kubernetes: what stands in its own `go.mod` as a
//! folder of its repository is here the module of that name and of the same release.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use longhaul_test_brokers::{cache_dir, install};
use serde_json::Value;

/// The pinned release; modules that live in its repository have a zero instead of its one.
pub(crate) const KUBERNETES: &str = "1.34.2";
const HELM: &str = "3.21.4";
/// The one that is built with the same release of the modules of Kubernetes.
const DNS: &str = "1.13.2";

/// Where a program comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// A package below the module that requires Kubernetes.
    Kubernetes,
    /// `names.go`, which requires CoreDNS.
    Names,
    /// A module that can be installed as it is, at that version.
    Module(&'static str),
}

/// One program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    name: &'static str,
    package: &'static str,
    source: Source,
    /// What says the version, and the start of the version that is good enough.
    version: Option<(&'static [&'static str], &'static str)>,
}

const fn kubernetes(name: &'static str, package: &'static str) -> Program {
    Program { name, package, source: Source::Kubernetes, version: Some((&["--version"], "Kubernetes v1.34.")) }
}

pub(crate) const API_SERVER: Program = kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver");
pub(crate) const KUBECTL: Program = Program {
    version: Some((&["version", "--client"], "Client Version: v1.34.")),
    ..kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl")
};
/// Its version on a PATH does not matter: all that are about are good enough.
pub(crate) const ETCD: Program =
    Program { version: Some((&["--version"], "etcd Version: 3.")), ..kubernetes("etcd", "go.etcd.io/etcd/server/v3") };
pub(crate) const CONTROLLER_MANAGER: Program =
    kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager");
pub(crate) const SCHEDULER: Program = kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler");
pub(crate) const PROXY: Program = kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy");
pub(crate) const KUBELET: Program = kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet");
/// Always ours, for it is enough.
pub(crate) const COREDNS: Program =
    Program { name: "coredns", package: "names.go", source: Source::Names, version: None };
pub(crate) const HELM_CLIENT: Program = Program {
    name: "helm",
    package: "helm.sh/helm/v3/cmd/helm",
    source: Source::Module(HELM),
    version: Some((&["version", "--short"], "v3.")),
};

impl Program {
    /// The program, ready to run.
    ///
    /// # Errors
    /// One sentence that names what to install, with what the build said.
    pub(crate) fn provide(self) -> Result<PathBuf, String> {
        if self.is_on_path() {
            return Ok(self.name.into());
        }
        let dir = cache_dir().join("kubernetes");
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let release = match self.source {
            Source::Kubernetes => KUBERNETES,
            Source::Names => DNS,
            Source::Module(version) => version,
        };
        let target = dir.join(format!("{}-{release}", self.name));
        install(&target, |fresh| self.build(fresh)).map_err(|said| {
            format!("{} {release} is missing: install Go (golang-go, 1.24 or newer); {said}", self.name)
        })?;
        Ok(target.join(self.name))
    }

    fn is_on_path(self) -> bool {
        let Some((arguments, start)) = self.version else { return false };
        let said = Command::new(self.name).args(arguments).output();
        said.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).starts_with(start))
    }

    fn build(self, into: &Path) -> Result<(), String> {
        let work = tempfile::tempdir().map_err(|e| e.to_string())?;
        match self.source {
            Source::Kubernetes => write_module(work.path())?,
            Source::Names => {
                let module =
                    format!("module longhaul/names\n\ngo 1.24.0\n\nrequire github.com/coredns/coredns v{DNS}\n");
                fs::write(work.path().join("go.mod"), module).map_err(|e| e.to_string())?;
                fs::copy(source(self.package), work.path().join(self.package)).map_err(|e| e.to_string())?;
            }
            Source::Module(version) => {
                let package = format!("{}@v{version}", self.package);
                return run(go().args(["install", "-trimpath", "-ldflags", "-s -w", &package]).env("GOBIN", into))
                    .map(|_| ());
            }
        }
        let flags = format!("-s -w -X k8s.io/component-base/version.gitVersion=v{KUBERNETES}");
        let mut go = go();
        go.args(["build", "-mod=mod", "-trimpath", "-ldflags", &flags, "-o"]).arg(into.join(self.name));
        run(go.arg(self.package).current_dir(work.path())).map(|_| ())
    }
}

/// A Go file of this crate.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The test's own program, `probe.go`, of this version of this crate.
///
/// # Errors
/// As [`Program::provide`].
pub(crate) fn probe() -> Result<PathBuf, String> {
    let target = cache_dir().join("kubernetes/probe-1");
    install(&target, |fresh| {
        let mut go = go();
        run(go.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(fresh.join("probe")).arg(source("probe.go")))
            .map(|_| ())
    })
    .map_err(|said| format!("the test's own program is missing: install Go (golang-go); {said}"))?;
    Ok(target.join("probe"))
}

fn go() -> Command {
    let mut command = Command::new("go");
    // Static, so that a program also runs inside of an image that holds nothing else.
    command.env("CGO_ENABLED", "0").env_remove("GOFLAGS");
    command
}

/// Writes the `go.mod` of a module that requires Kubernetes.
fn write_module(dir: &Path) -> Result<(), String> {
    let module = format!("k8s.io/kubernetes@v{KUBERNETES}");
    let said = run(go().args(["mod", "download", "-json", &module]).current_dir(dir))?;
    let said: Value = serde_json::from_str(&said).map_err(|e| format!("go mod download: {e}"))?;
    let theirs = said["GoMod"].as_str().ok_or("go mod download names no go.mod")?;
    let theirs = fs::read_to_string(theirs).map_err(|e| format!("{theirs}: {e}"))?;
    fs::write(dir.join("go.mod"), module_text(&theirs)).map_err(|e| e.to_string())
}

fn module_text(theirs: &str) -> String {
    let own = KUBERNETES.split_once('.').map_or(KUBERNETES, |(_, rest)| rest);
    let language = theirs.lines().find(|line| line.starts_with("go ")).unwrap_or("go 1.24.0");
    let staged = theirs.lines().filter_map(|line| line.trim().split_once(" => ./staging/"));
    let replaced: String = staged.map(|(name, _)| format!("replace {name} => {name} v0.{own}\n")).collect();
    format!("module longhaul/kubernetes\n\n{language}\n\nrequire k8s.io/kubernetes v{KUBERNETES}\n\n{replaced}")
}

/// Runs it to its end and returns what it printed.
///
/// # Errors
/// Its name with what it said on both ways out.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(|e| format!("{name}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if out.status.success() {
        return Ok(text(&out.stdout));
    }
    Err(format!("{name}: {}{}", text(&out.stdout), text(&out.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_their_repository_become_modules_of_the_same_release() {
        let theirs = "module k8s.io/kubernetes\ngo 1.24.0\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n";
        let text = module_text(theirs);
        assert!(text.contains("require k8s.io/kubernetes v1.34.2\n"), "{text}");
        assert!(text.contains("replace k8s.io/api => k8s.io/api v0.34.2\n"), "{text}");
    }
}
