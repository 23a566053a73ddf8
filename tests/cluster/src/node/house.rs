//! Namespaces and a control group for all the processes of a node.
//!
//! The house stands as long as its first process lives; when that is killed, the kernel kills all the others and takes mounts, devices
//! and rules down. What it does not take are control groups: those are removed here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use longhaul_test_brokers::Process;
use tempfile::TempDir;

use crate::api::{Refusal, tail, wait};
use crate::place::Place;

const CGROUPS: &str = "/sys/fs/cgroup";

/// The namespaces of one node and what is written in there.
#[derive(Debug)]
pub(crate) struct House {
    keeper: Option<Process>,
    /// The first process of the house, as it is seen from outside.
    first: u32,
    cgroup: String,
    dir: TempDir,
}

impl House {
    /// A house with that address.
    pub(crate) fn build(address: &str) -> Result<Self, String> {
        let dir = TempDir::with_prefix("longhaul-node-").map_err(|e| format!("no temporary folder: {e}"))?;
        let script = dir.path().join("first.sh");
        fs::write(&script, first(dir.path(), address)).map_err(|e| e.to_string())?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"]);
        let keeper = Process::spawn(command.arg("bash").arg(&script), &dir.path().join("first.log"));
        let keeper = keeper.map_err(|e| format!("no namespaces for a node: {e}"))?;
        let cgroup = format!("longhaul-{}", keeper.id());
        let mut house = Self { keeper: Some(keeper), first: 0, cgroup, dir };
        wait("no namespaces for a node", || house.look())?;
        make_cgroups(&house.cgroup)?;
        Ok(house)
    }

    /// Whether it stands.
    fn look(&mut self) -> Result<(), Refusal> {
        let keeper = self.keeper.as_mut().ok_or_else(|| Refusal::ForGood("it was taken down".to_owned()))?;
        if !keeper.is_running() {
            return Err(Refusal::ForGood(tail(&keeper.output())));
        }
        let id = keeper.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let first = children.trim().parse().map_err(|_| Refusal::NotYet("no process in it".to_owned()))?;
        self.first = first;
        let stands = self.dir.path().join("stands").exists();
        if stands { Ok(()) } else { Err(Refusal::NotYet("its mounts are not made".to_owned())) }
    }

    /// Where to run what belongs to the node.
    pub(crate) fn place(&self) -> Place {
        Place::Inside(self.first)
    }

    /// The folder of its files; the same path inside and outside.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The control group of all pods, seen from the root of each hierarchy.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if self.first != 0 {
            let _ = Command::new("kill").args(["-KILL", &self.first.to_string()]).status();
        }
        if let Some(mut keeper) = self.keeper.take() {
            // It ends when the last process of the house did.
            let _ = wait("the house stands", || {
                if keeper.is_running() { Err(Refusal::NotYet(String::new())) } else { Ok(()) }
            });
        }
        for hierarchy in hierarchies() {
            remove_tree(&hierarchy.join(&self.cgroup));
        }
    }
}

/// What the first process does. Folders that programs write to whatever they are told are laid over.
fn first(dir: &Path, address: &str) -> String {
    let dir = dir.display();
    format!(
        "set -e
mkdir {dir}/lib {dir}/log
mount -t tmpfs tmpfs /run
mount --bind {dir}/lib /var/lib
mount --bind {dir}/log /var/log
# A kubelet sets these for the whole machine, unless it finds them as it likes them.
for liked in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \\
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file={dir}/lib/$(basename ${{liked%=*}})
    echo ${{liked#*=}} > $file
    mount --bind $file /proc/sys/${{liked%=*}}
done
# Mounts of the kubelet are seen in pods.
mount --make-rshared /
ip link set lo up
ip address add {address}/32 dev lo
# Without one, nothing of the node itself could send to the address of a Service, which no device has.
ip route add default dev lo
sysctl -q -w net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
touch {dir}/stands
# This is also who buries processes that nobody waits for.
sleep infinity & wait
"
    )
}

/// Each hierarchy of control groups, or the one that has them all.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(CGROUPS);
    if root.join("cgroup.controllers").exists() {
        return vec![root];
    }
    let entries = fs::read_dir(&root).into_iter().flatten().flatten();
    // Some are links to others.
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn make_cgroups(name: &str) -> Result<(), String> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name);
        fs::create_dir(&group).map_err(|e| format!("{}: {e}", group.display()))?;
        // Where a new group has no processor and no memory until it is given some.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(all) = fs::read(hierarchy.join(file)) {
                let _ = fs::write(group.join(file), all);
            }
        }
    }
    Ok(())
}

/// Groups are folders whose files cannot be removed, and need not be.
fn remove_tree(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::run;

    #[test]
    fn a_house_is_apart_and_leaves_nothing_behind() {
        if !run(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0") {
            println!("skipped: a house needs root");
            return;
        }
        let house = House::build("10.89.0.1").expect("a house");
        let inside = |program: &str, arguments: &[&str]| run(house.place().command(program).args(arguments));
        assert!(inside("ip", &["address"]).expect("it has addresses").contains("10.89.0.1"));
        let outside = run(Command::new("ip").arg("address")).expect("we have addresses");
        assert!(!outside.contains("10.89.0.1"), "{outside}");
        let kept = fs::read_to_string("/proc/sys/kernel/panic").expect("a setting");
        inside("sysctl", &["-w", "kernel.panic=77"]).expect("it may think so");
        assert_eq!(
            fs::read_to_string("/proc/sys/kernel/panic").expect("a setting"),
            kept,
            "the machine's is as before"
        );
        let orphan = inside("bash", &["-c", "sleep 1000 >/dev/null 2>&1 & cat /proc/1/comm"]).expect("a process");
        assert_eq!(orphan.trim(), "bash");

        let (first, dir) = (house.first, house.dir().to_owned());
        let groups: Vec<_> = hierarchies().iter().map(|hierarchy| hierarchy.join(house.cgroup())).collect();
        assert!(groups.iter().all(|group| group.is_dir()), "{groups:?}");
        drop(house);
        assert!(!Path::new(&format!("/proc/{first}")).exists(), "its first process ended");
        assert!(!dir.exists() && !groups.iter().any(|group| group.exists()), "{dir:?}, {groups:?}");
        let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
        assert!(!mounts.contains(&dir.display().to_string()), "{mounts}");
    }
}
