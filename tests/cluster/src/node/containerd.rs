//! The files of a containerd that shares nothing with one of the machine's own.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

/// Writes them and returns the path of the first.
pub(super) fn write(dir: &Path, sandbox: &str, pods: &str) -> Result<PathBuf, String> {
    let (config, networks) = (dir.join("containerd.toml"), dir.join("networks"));
    fs::create_dir(&networks).map_err(|e| e.to_string())?;
    fs::write(networks.join("10-pods.conflist"), network(pods)).map_err(|e| e.to_string())?;
    fs::write(&config, text(dir, &networks, sandbox)).map_err(|e| e.to_string())?;
    Ok(config)
}

fn text(dir: &Path, networks: &Path, sandbox: &str) -> String {
    let root = dir.join("containerd");
    // The house has a `/run` of its own.
    format!(
        r#"version = 2
root = {root:?}
state = "/run/containerd"
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{sandbox}"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = {networks:?}
"#
    )
}

/// One bridge for all pods. A pod may also reach itself by the address of its Service.
fn network(pods: &str) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "pods",
            "isGateway": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni",
                "ranges": [[{"subnet": pods}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
    .to_string()
}
