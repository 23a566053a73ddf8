//! Who may ask the API server: tokens, the key that signs those of service accounts, and the files that clients read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use longhaul_test_brokers::debian;

use crate::programs::run;

/// The administrator's token. The API server listens where nobody but this machine reaches it, and lives as long as a test.
const ADMIN: &str = "longhaul-admin";
/// The kubelet's.
const KUBELET: &str = "longhaul-kubelet";
/// The one node.
pub(crate) const NODE_NAME: &str = "node-1";

/// The files of one API server, below its folder.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) tokens: PathBuf,
    pub(crate) service_account_key: PathBuf,
    /// Holds the certificate that the API server makes for itself.
    pub(crate) certificates: PathBuf,
    pub(crate) admin: PathBuf,
    pub(crate) kubelet: PathBuf,
}

impl Credentials {
    /// Writes all of them for an API server at that address (`127.0.0.1:6443`).
    pub(crate) fn write(dir: &Path, server: &str) -> Result<Self, String> {
        let files = Self {
            tokens: dir.join("tokens.csv"),
            service_account_key: dir.join("service-account.pem"),
            certificates: dir.join("certificates"),
            admin: dir.join("admin.yaml"),
            kubelet: dir.join("kubelet.yaml"),
        };
        let tokens = format!("{ADMIN},admin,1,system:masters\n{KUBELET},system:node:{NODE_NAME},2,system:nodes\n");
        debian::provide("openssl", || debian::on_path("openssl").then_some(()))?;
        let curve = ["ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out"];
        run(Command::new("openssl").args(curve).arg(&files.service_account_key))?;
        let admin = client(&files.authority(), server, ADMIN);
        let kubelet = client(&files.authority(), server, KUBELET);
        let all = [(&files.tokens, tokens), (&files.admin, admin), (&files.kubelet, kubelet)];
        for (path, text) in all {
            fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(files)
    }

    /// What clients trust.
    pub(crate) fn authority(&self) -> PathBuf {
        self.certificates.join("apiserver.crt")
    }
}

/// A kubeconfig. JSON is YAML, and quotes what stands in a path.
fn client(authority: &Path, server: &str, token: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": format!("https://{server}"), "certificate-authority": authority}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    })
    .to_string()
}
