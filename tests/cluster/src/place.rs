//! Where a program runs: here, or inside of the namespaces of a node.

use std::ffi::OsStr;
use std::process::Command;

/// A place to run programs at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// As any child of ours.
    Here,
    /// In the mount, network, process, IPC and host name namespaces of that process.
    Inside(u32),
}

impl Place {
    /// A command there.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Here => Command::new(program),
            Self::Inside(process) => {
                let mut command = Command::new("nsenter");
                command.args(["--target", &process.to_string(), "--mount", "--net", "--pid", "--ipc", "--uts", "--"]);
                command.arg(program);
                command
            }
        }
    }
}
