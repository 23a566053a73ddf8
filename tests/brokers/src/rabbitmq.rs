//! Starts real RabbitMQ nodes, as many at once as a test wants, each with its own ports, name daemon, home and data.
//!
//! The server comes from Debian's `rabbitmq-server` (3.10) or from a generic package on the PATH; it is started in the foreground as one
//! process, so that killing it by its id is a crash and nothing is left behind. Erlang's distribution and its name daemon are bound to
//! loopback. `LONGHAUL_TEST_RABBITMQ=amqp://..` names a broker that runs already; that one is never stopped.
//! Start with [`RabbitMq::start`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Process, debian, free_port, wait_for_port};
const ADDRESS_VARIABLE: &str = "LONGHAUL_TEST_RABBITMQ";
const START_PATIENCE: Duration = Duration::from_secs(90);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const START_ATTEMPTS: usize = 3;

/// One RabbitMQ node with all its data below a temporary folder; stopped when dropped.
#[derive(Debug)]
pub struct RabbitMq {
    uri: String,
    own: Option<Own>,
}

/// What a node of our own consists of. Fields are dropped in order: the node before the daemon that names it.
#[derive(Debug)]
struct Own {
    node: Option<Process>,
    names: Option<Process>,
    bin: PathBuf,
    port: u16,
    dist_port: u16,
    names_port: u16,
    dir: TempDir,
}

impl RabbitMq {
    /// Starts a node, or takes the one that `LONGHAUL_TEST_RABBITMQ` names.
    ///
    /// # Errors
    /// A sentence: what is missing and which package has it, or why the node did not start.
    pub fn start() -> Result<Self, String> {
        Self::start_with("")
    }

    /// Starts a node with these extra lines in its `rabbitmq.conf`.
    ///
    /// # Errors
    /// As [`start`](Self::start); also when an external broker is given, which cannot be configured.
    pub fn start_with(config: &str) -> Result<Self, String> {
        if let Ok(uri) = std::env::var(ADDRESS_VARIABLE) {
            return if config.is_empty() {
                Ok(Self { uri, own: None })
            } else {
                Err(format!("this test configures its broker: unset {ADDRESS_VARIABLE}"))
            };
        }
        let bin = find()?;
        let mut last = String::new();
        // Another process may take a port between our finding and our using it.
        for _ in 0..START_ATTEMPTS {
            match Own::start(&bin, config) {
                Ok(own) => {
                    return Ok(Self { uri: format!("amqp://guest:guest@127.0.0.1:{}/%2f", own.port), own: Some(own) });
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// The address, with user and password.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Stops the node in good order; its data stays.
    ///
    /// # Errors
    /// When the broker is not ours.
    pub fn stop(&mut self) -> Result<(), String> {
        if let Some(node) = self.own()?.node.take() {
            node.terminate(STOP_PATIENCE);
        }
        Ok(())
    }

    /// Kills the node and the daemon that names it at once, as a crash would; its data stays.
    ///
    /// # Errors
    /// When the broker is not ours.
    pub fn kill(&mut self) -> Result<(), String> {
        let own = self.own()?;
        own.node.take().into_iter().chain(own.names.take()).for_each(Process::kill);
        Ok(())
    }

    /// Starts it again, on the same port and data; stops it before that when it runs.
    ///
    /// # Errors
    /// When the broker is not ours or does not start.
    pub fn restart(&mut self) -> Result<(), String> {
        self.stop()?;
        self.own()?.run()
    }

    /// Runs `rabbitmqctl` against the node and returns what it printed.
    ///
    /// # Errors
    /// When the broker is not ours or the command fails.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let own = self.own.as_ref().ok_or(NOT_OURS)?;
        let output =
            own.command("rabbitmqctl").arg("-q").args(arguments).output().map_err(|e| format!("rabbitmqctl: {e}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stdout) + &text(&output.stderr))
        }
    }

    fn own(&mut self) -> Result<&mut Own, String> {
        self.own.as_mut().ok_or_else(|| NOT_OURS.to_owned())
    }
}

const NOT_OURS: &str = "the broker of LONGHAUL_TEST_RABBITMQ is not ours to stop, start or ask";

impl Own {
    fn start(bin: &Path, config: &str) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("longhaul-rabbitmq-").tempdir().map_err(|e| e.to_string())?;
        let (port, dist_port, names_port) = (free_port(), free_port(), free_port());
        let lines = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\ndisk_free_limit.absolute = 50MB\nlog.file.level = info\n{config}\n"
        );
        fs::write(dir.path().join("rabbitmq.conf"), lines).map_err(|e| e.to_string())?;
        fs::write(dir.path().join("plugins"), "[].\n").map_err(|e| e.to_string())?;
        let mut own = Self { node: None, names: None, bin: bin.to_owned(), port, dist_port, names_port, dir };
        own.run()?;
        Ok(own)
    }

    fn run(&mut self) -> Result<(), String> {
        self.run_names()?;
        let log = self.dir.path().join("node.log");
        let mut node = Process::spawn(&mut self.command("rabbitmq-server"), &log).map_err(|e| e.to_string())?;
        let until = Instant::now() + START_PATIENCE;
        while wait_for_port(self.port, Duration::from_secs(1)).is_err() {
            if !node.is_running() || Instant::now() > until {
                return Err(format!("RabbitMQ did not start:\n{}", node.output()));
            }
        }
        self.node = Some(node);
        Ok(())
    }

    /// A name daemon of our own, as a child: the one that a node starts by itself runs on for ever.
    fn run_names(&mut self) -> Result<(), String> {
        if self.names.as_mut().is_some_and(Process::is_running) {
            return Ok(());
        }
        let mut command = Command::new("epmd");
        command.args(["-port", &self.names_port.to_string(), "-address", "127.0.0.1"]);
        let log = self.dir.path().join("epmd.log");
        self.names = Some(
            Process::spawn(&mut command, &log).map_err(|e| format!("{e}: is the package rabbitmq-server whole?"))?,
        );
        wait_for_port(self.names_port, Duration::from_secs(10))
    }

    /// A command of the server's package that sees this node and nothing of the machine's own.
    fn command(&self, program: &str) -> Command {
        let dir = self.dir.path();
        let mut command = Command::new(self.bin.join(program));
        command
            .current_dir(dir)
            .env("HOME", dir)
            .env("RABBITMQ_NODENAME", format!("longhaul{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
            .env("RABBITMQ_CONFIG_FILES", dir.join("conf.d/*.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", dir.join("advanced.config"))
            .env("RABBITMQ_CONF_ENV_FILE", dir.join("rabbitmq-env.conf"))
            .env("RABBITMQ_MNESIA_BASE", dir.join("data"))
            .env("RABBITMQ_LOG_BASE", dir.join("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins"))
            .env("RABBITMQ_PID_FILE", dir.join("pid"))
            .env("ERL_EPMD_PORT", self.names_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        if program == "rabbitmq-server" {
            // With this the script becomes the node instead of starting and watching it: one process, one id.
            command.env("RABBITMQ_ALLOW_INPUT", "1");
            command.env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-noinput -kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
            );
        }
        command
    }
}

/// The folder of the server's own scripts. Debian's wrapper on the PATH would change the user and the folders.
fn find() -> Result<PathBuf, String> {
    debian::provide("rabbitmq-server", found)
}

fn found() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(PathBuf::from("/usr/lib/rabbitmq/bin"))
        .chain(std::env::split_paths(&path).filter(|dir| dir.ends_with("sbin") && dir.join("rabbitmq-env").exists()))
        .find(|dir| dir.join("rabbitmq-server").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nodes_live_side_by_side_and_one_comes_back_after_a_crash() {
        if std::env::var_os(ADDRESS_VARIABLE).is_some() {
            return;
        }
        let mut first = RabbitMq::start().expect("a node starts");
        let second = RabbitMq::start().expect("a second node starts beside it");
        assert_ne!(first.uri(), second.uri());
        first.ctl(&["add_user", "keeper", "secret"]).expect("a user is made");
        first.kill().expect("ours");
        let port = first.own.as_ref().expect("ours").port;
        assert!(wait_for_port(port, Duration::from_millis(100)).is_err(), "a killed node answers");
        second.ctl(&["status"]).expect("the other node is untouched");
        first.restart().expect("it starts again");
        assert!(first.ctl(&["list_users"]).expect("it answers").contains("keeper"), "its data is there again");
        first.stop().expect("ours");
        first.stop().expect("a second stop is nothing");
    }
}
