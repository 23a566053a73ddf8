//! A cluster of one node: controllers, scheduler, kubelet, containerd, Services and DNS, all inside of namespaces of their own.
//!
//! Mounts, addresses, packet filter rules and processes are those of the [`House`] alone: nothing of the machine's is
//! changed, and all of it is gone when the first process of the house is killed. It needs root, for that is who may make such namespaces.

mod containerd;
mod house;
mod kubelet;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use longhaul_test_brokers::{Process, debian};

use crate::api::{Api, Refusal, Shape, flag, tail, wait};
use crate::credentials::NODE_NAME;
use crate::image;
use crate::place::Place;
use crate::programs::{self, run};
use house::House;

/// The node's only address. It answers names too.
const ADDRESS: &str = "10.89.0.1";
/// Addresses of pods.
const PODS: &str = "10.244.0.0/24";
/// How names of Services end.
const DOMAIN: &str = "cluster.local";
/// The image of the test's own program, which is also the sandbox of every pod.
pub const PROBE_IMAGE: &str = "longhaul.test/probe:1";

/// A Kubernetes of one node, stopped and removed when dropped.
// Fields are dropped in order: the house first, for all the others live in it.
#[derive(Debug)]
pub struct Node {
    house: House,
    processes: Vec<(&'static str, Process)>,
    api: Api,
}

impl Node {
    /// A node that is ready for pods.
    ///
    /// # Errors
    /// One sentence: what is missing, or what did not start and what it wrote.
    pub fn start() -> Result<Self, String> {
        provide_packages()?;
        let house = House::build(ADDRESS)?;
        let api = Api::start_as(Shape { place: house.place(), address: ADDRESS, controllers: true })?;
        let mut node = Self { house, processes: Vec::new(), api };
        node.start_runtime()?;
        node.start_controllers()?;
        node.start_network()?;
        node.start_kubelet()?;
        node.wait_until_ready()?;
        Ok(node)
    }

    /// The API server, with `kubectl` and `helm`.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Gives the node an image from a file: an OCI layout or what `docker save` writes, as one archive.
    ///
    /// # Errors
    /// What containerd said.
    pub fn import(&self, archive: &Path) -> Result<(), String> {
        let mut ctr = self.place().command("ctr");
        run(ctr.args(["--namespace", "k8s.io", "images", "import"]).arg(archive)).map(|_| ())
    }

    /// A command inside of the node: it sees the addresses of pods and Services.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.place().command(program)
    }

    /// What a part of the node wrote last: `kubelet`, `containerd`, `kube-controller-manager`, ..
    #[must_use]
    pub fn log(&self, part: &str) -> String {
        let found = self.processes.iter().find(|(name, _)| *name == part);
        found.map(|(_, process)| tail(&process.output())).unwrap_or_default()
    }

    fn place(&self) -> Place {
        self.house.place()
    }

    fn spawn(&mut self, name: &'static str, command: &mut Command) -> Result<(), String> {
        let log = self.house.dir().join(format!("{name}.log"));
        let process = Process::spawn(command, &log).map_err(|e| format!("{name} does not start: {e}"))?;
        self.processes.push((name, process));
        Ok(())
    }

    fn start_runtime(&mut self) -> Result<(), String> {
        let config = containerd::write(self.house.dir(), PROBE_IMAGE, PODS)?;
        let mut command = self.command("containerd");
        self.spawn("containerd", command.arg("--config").arg(config))?;
        let place = self.place();
        wait("containerd does not answer", || {
            run(place.command("ctr").arg("version")).map(|_| ()).map_err(Refusal::NotYet)
        })?;
        let archive = self.house.dir().join("probe.tar");
        image::pack(&[(programs::probe()?, "probe")], &["/probe"], PROBE_IMAGE, &archive)?;
        self.import(&archive)
    }

    fn start_controllers(&mut self) -> Result<(), String> {
        let credentials = self.api.credentials().clone();
        let mut command = self.place().command(programs::CONTROLLER_MANAGER.provide()?);
        command
            .arg(flag("--kubeconfig", &credentials.admin))
            .arg(flag("--service-account-private-key-file", &credentials.service_account_key))
            .arg(flag("--root-ca-file", &credentials.authority()))
            .args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
        self.spawn("kube-controller-manager", &mut command)?;
        let mut command = self.place().command(programs::SCHEDULER.provide()?);
        command
            .arg(flag("--kubeconfig", &credentials.admin))
            .args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
        self.spawn("kube-scheduler", &mut command)
    }

    /// Addresses and names of Services.
    fn start_network(&mut self) -> Result<(), String> {
        let admin = self.api.credentials().admin.clone();
        let mut command = self.place().command(programs::PROXY.provide()?);
        command
            .arg(flag("--kubeconfig", &admin))
            .args(["--proxy-mode=iptables", "--bind-address=0.0.0.0", "--iptables-min-sync-period=100ms"])
            .args([format!("--hostname-override={NODE_NAME}"), format!("--cluster-cidr={PODS}")])
            // How many connections the kernel follows is the machine's to say.
            .args(["--conntrack-max-per-core=0", "--conntrack-min=0"]);
        self.spawn("kube-proxy", &mut command)?;
        let names = self.house.dir().join("Corefile");
        let text = format!(
            ".:53 {{\n  bind {ADDRESS}\n  errors\n  kubernetes {DOMAIN} {{\n    kubeconfig {}\n    ttl 1\n  }}\n}}\n",
            admin.display()
        );
        fs::write(&names, text).map_err(|e| e.to_string())?;
        let mut command = self.place().command(programs::COREDNS.provide()?);
        self.spawn("coredns", command.arg("-conf").arg(names))
    }

    fn start_kubelet(&mut self) -> Result<(), String> {
        let config = kubelet::write(self.house.dir(), self.house.cgroup(), ADDRESS, DOMAIN)?;
        let mut command = self.place().command(programs::KUBELET.provide()?);
        command
            .arg(flag("--kubeconfig", &self.api.credentials().kubelet))
            .arg(flag("--config", &config))
            .args([format!("--hostname-override={NODE_NAME}"), format!("--node-ip={ADDRESS}")]);
        self.spawn("kubelet", &mut command)
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let node = format!("node/{NODE_NAME}");
        wait("the node is not ready", || {
            self.all_run()?;
            let waited = self.api.kubectl(&["wait", "--for=condition=Ready", &node, "--timeout=1s"], "");
            waited.map(|_| ()).map_err(Refusal::NotYet)
        })
        .map_err(|error| format!("{error}\nkubelet wrote:\n{}", self.log("kubelet")))?;
        // A pod is refused as long as its namespace has no service account.
        let account = ["get", "serviceaccount", "default"];
        wait("the controllers do nothing", || self.api.kubectl(&account, "").map(|_| ()).map_err(Refusal::NotYet))
    }

    fn all_run(&mut self) -> Result<(), Refusal> {
        for (name, process) in &mut self.processes {
            if !process.is_running() {
                return Err(Refusal::ForGood(format!("{name} ended:\n{}", tail(&process.output()))));
            }
        }
        Ok(())
    }
}

/// What Debian has for it.
fn provide_packages() -> Result<(), String> {
    if !run(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0") {
        return Err("a node needs root: it makes namespaces, mounts and control groups".to_owned());
    }
    let programs = [
        ("containerd", "containerd"),
        ("runc", "runc"),
        ("iptables", "iptables"),
        ("ip", "iproute2"),
        ("unshare", "util-linux"),
        ("sysctl", "procps"),
    ];
    for (program, package) in programs {
        debian::provide(package, || debian::on_path(program).then_some(()))?;
    }
    debian::provide("containernetworking-plugins", || plugins().exists().then_some(()))
}

/// Where Debian keeps what joins a pod to the network.
fn plugins() -> PathBuf {
    PathBuf::from("/usr/lib/cni/bridge")
}
