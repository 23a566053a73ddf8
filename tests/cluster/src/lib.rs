//! A real Kubernetes for tests: built from its sources, started and stopped on a bare machine.
//!
//! [`Api`] is etcd and an API server: enough to apply every manifest with real defaulting, validation, access control and pod security.
//! [`Node`] is a whole cluster of one node, with a kubelet that runs pods. The programs are Go modules of pinned versions, built once
//! into our cache folder (`kubernetes`); the container runtime is Debian's. All data lives below a temporary folder of the test; what was
//! started is stopped by its process id, also when a test panics. A missing prerequisite is one sentence that names the package to install.
//!
//! It refuses to speak to a cluster that somebody else runs: neither `KUBECONFIG` nor a home folder is ever looked at.

mod api;
mod credentials;
pub mod image;
mod node;
mod place;
mod programs;

pub use api::{Api, VERSION};
pub use node::{Node, PROBE_IMAGE};
