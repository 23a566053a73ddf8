//! etcd and an API server, with `kubectl` and `helm` to ask it.
//!
//! Tokens, RBAC, node authorisation and pod security admission are on. Alone it has no controllers: objects are checked, defaulted and
//! kept, and nothing happens to them; a namespace has no service account of its own, so that none is asked of a pod.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use longhaul_test_brokers::{Process, free_port};
use tempfile::TempDir;

use crate::credentials::Credentials;
use crate::place::Place;
use crate::programs::{API_SERVER, ETCD, HELM_CLIENT, KUBECTL, KUBERNETES, Program, run};

/// The pinned release of Kubernetes.
pub const VERSION: &str = KUBERNETES;
/// Long, for a machine with two cores that are busy with something else.
pub(crate) const READY_MAX: Duration = Duration::from_secs(180);
const START_TRIES: usize = 3;
/// Addresses of Services.
pub(crate) const SERVICES: &str = "10.96.0.0/16";

/// An API server of its own, stopped and removed when dropped.
// Fields are dropped in order: who asks before who is asked, and the folder last.
#[derive(Debug)]
pub struct Api {
    server: Process,
    _etcd: Process,
    place: Place,
    credentials: Credentials,
    dir: TempDir,
}

/// What differs between an API server alone and that of a cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape<'a> {
    pub(crate) place: Place,
    /// Where it listens.
    pub(crate) address: &'a str,
    /// Whether controllers run that give each namespace its service account.
    pub(crate) controllers: bool,
}

impl Api {
    /// etcd and an API server on loopback.
    ///
    /// # Errors
    /// One sentence: what is missing, or what did not start and what it wrote.
    pub fn start() -> Result<Self, String> {
        Self::start_as(Shape { place: Place::Here, address: "127.0.0.1", controllers: false })
    }

    pub(crate) fn start_as(shape: Shape<'_>) -> Result<Self, String> {
        KUBECTL.provide()?;
        let mut last = String::new();
        // A port that was free a moment ago may be taken by now.
        for _ in 0..START_TRIES {
            match Self::start_once(shape) {
                Ok(api) => return Ok(api),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn start_once(shape: Shape<'_>) -> Result<Self, String> {
        let dir = TempDir::with_prefix("longhaul-kubernetes-").map_err(|e| format!("no temporary folder: {e}"))?;
        let port = free_port();
        let credentials = Credentials::write(dir.path(), &format!("{}:{port}", shape.address))?;
        let (etcd, store) = start_etcd(shape.place, dir.path())?;
        let mut command = shape.place.command(API_SERVER.provide()?);
        command
            .arg(format!("--etcd-servers={store}"))
            .args([format!("--bind-address={}", shape.address), format!("--secure-port={port}")])
            .arg(format!("--advertise-address={}", shape.address))
            .args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"])
            .arg(format!("--service-cluster-ip-range={SERVICES}"))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            // By default it looks the name of a node up, which only its own cluster knows.
            .args(["--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP"])
            .arg(flag("--cert-dir", &credentials.certificates))
            .arg(flag("--token-auth-file", &credentials.tokens))
            .arg(flag("--service-account-key-file", &credentials.service_account_key))
            .arg(flag("--service-account-signing-key-file", &credentials.service_account_key));
        if !shape.controllers {
            command.arg("--disable-admission-plugins=ServiceAccount");
            // Its own Service would point to loopback, which is no address for one.
            command.arg("--endpoint-reconciler-type=none");
        }
        let server = Process::spawn(&mut command, &dir.path().join("kube-apiserver.log")).map_err(|e| e.to_string())?;
        let mut api = Self { server, _etcd: etcd, place: shape.place, credentials, dir };
        wait("the API server is not ready", || api.ready())?;
        Ok(api)
    }

    fn ready(&mut self) -> Result<(), Refusal> {
        if !self.server.is_running() {
            return Err(Refusal::ForGood(tail(&self.server.output())));
        }
        self.kubectl(&["get", "--raw", "/readyz"], "").map(|_| ()).map_err(Refusal::NotYet)
    }

    /// Runs `kubectl` as the administrator, with that text as its input, and returns what it printed. Paths are absolute.
    ///
    /// # Errors
    /// What it printed on both ways out when it failed.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = self.client(KUBECTL)?;
        command.args(arguments);
        with_input(&mut command, input)
    }

    /// Runs `helm` as the administrator and returns what it printed. Paths are absolute: in a node there is no folder to begin at.
    ///
    /// # Errors
    /// As [`kubectl`](Self::kubectl).
    pub fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        run(self.client(HELM_CLIENT)?.args(arguments))
    }

    /// The administrator's kubeconfig, for other clients on this machine.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.credentials.admin
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A client that sees this API server and nothing of the user's own.
    fn client(&self, program: Program) -> Result<Command, String> {
        let mut command = self.place.command(program.provide()?);
        command.env("KUBECONFIG", &self.credentials.admin).env("HOME", self.dir.path());
        Ok(command)
    }
}

/// Returns it with the URL where it serves.
fn start_etcd(place: Place, dir: &Path) -> Result<(Process, String), String> {
    let url = || format!("http://127.0.0.1:{}", free_port());
    let (clients, peers) = (url(), url());
    let mut command = place.command(ETCD.provide()?);
    command
        .arg(flag("--data-dir", &dir.join("etcd")))
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("default={peers}")])
        // Nobody needs what a test wrote after the machine went down.
        .arg("--unsafe-no-fsync");
    let etcd = Process::spawn(&mut command, &dir.join("etcd.log")).map_err(|e| e.to_string())?;
    Ok((etcd, clients))
}

pub(crate) fn flag(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// Why something is not so.
pub(crate) enum Refusal {
    /// It may become so.
    NotYet(String),
    /// It never will.
    ForGood(String),
}

/// Asks until it is so; the error says what was waited for, and the last refusal.
pub(crate) fn wait(what: &str, mut ask: impl FnMut() -> Result<(), Refusal>) -> Result<(), String> {
    let until = Instant::now() + READY_MAX;
    loop {
        match ask() {
            Ok(()) => return Ok(()),
            Err(Refusal::ForGood(error)) => return Err(format!("{what}: {error}")),
            Err(Refusal::NotYet(error)) if Instant::now() > until => return Err(format!("{what}: {error}")),
            // What is asked here gives no sign when it is ready; asking again is all there is.
            Err(Refusal::NotYet(_)) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn with_input(command: &mut Command, input: &str) -> Result<String, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let mut pipe = child.stdin.take();
    // Written beside the reading: a client that prints much while it reads would stop else. It may also end without reading.
    let (_, out) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| pipe.take().map(|mut pipe| pipe.write_all(input.as_bytes())));
        let out = child.wait_with_output();
        (writer.join(), out)
    });
    let out = out.map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stdout) + &text(&out.stderr)) }
}

pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
