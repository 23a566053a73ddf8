//! The configuration of a kubelet that changes nothing of the machine's own and waits for nothing longer than a test likes.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

/// Writes it and returns its path.
pub(super) fn write(dir: &Path, cgroup: &str, names: &str, domain: &str) -> Result<PathBuf, String> {
    let (config, resolver) = (dir.join("kubelet-config.yaml"), dir.join("resolv.conf"));
    // Names that are not of the cluster have no answer.
    fs::write(&resolver, "").map_err(|e| e.to_string())?;
    let text = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // Nobody but the cluster itself is in the house.
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        "failSwapOn": false,
        "clusterDNS": [names],
        "clusterDomain": domain,
        "resolvConf": resolver,
        // A changed ConfigMap or Secret is in its pods after that long; by default after a minute or two.
        "syncFrequency": "5s",
        // However full the machine is: nobody but the test decides what ends.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
    });
    fs::write(&config, text.to_string()).map_err(|e| e.to_string())?;
    Ok(config)
}
