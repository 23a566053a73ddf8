//! Starts a real Kafka: one KRaft node, one JVM, from Maven Central.
//!
//! `LONGHAUL_TEST_KAFKA=host:port` uses a broker that is there already; it cannot be stopped, killed or restarted. Topics are made by
//! [`Kafka::create_topic`] alone: automatic creation is off unless an option turns it on.

mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Process, cache_dir, free_port, install};

/// The pinned version; runs on Java 17. Not 4.3: its coordinator takes a partition without a leader for one that was deleted, and calls a
/// transaction complete whose end was never written there (KAFKA-20734); a broker that is killed in mid-commit then leaves it open for ever.
pub const VERSION: &str = "4.2.0";
const SCALA: &str = "2.13";
const READY_MAX: Duration = Duration::from_secs(90);
const STOP_MAX: Duration = Duration::from_secs(30);
const START_TRIES: usize = 3;
/// Number of the controller of a cluster of brokers.
const CONTROLLER: usize = 100;

/// A one-node Kafka on loopback, stopped and removed when dropped.
#[derive(Debug)]
pub struct Kafka {
    bootstrap: String,
    own: Option<Own>,
}

/// A node that we started ourselves.
#[derive(Debug)]
struct Own {
    dir: TempDir,
    libs: PathBuf,
    process: Option<Process>,
    sasl: Option<String>,
}

/// What a node is in its cluster.
#[derive(Debug, Clone, Copy)]
enum Role {
    /// The only node, its own controller.
    Whole,
    /// The controller of a cluster, without a log of anybody's.
    Controller,
    /// A broker with that number.
    Broker(usize),
}

/// Several brokers of one cluster, to be killed one by one, and their controller.
#[derive(Debug)]
pub struct Cluster {
    /// The brokers; each is a bootstrap server of the whole cluster.
    pub brokers: Vec<Kafka>,
    // Ends last, after those that ask for it.
    _controller: Own,
}

impl Cluster {
    /// So many brokers. Topics get as many replicas, up to the number that the option `default.replication.factor` says.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start(brokers: usize, options: &[(&str, &str)]) -> Result<Self, String> {
        let libs = libraries()?;
        let (id, controller) = (cluster_id(), free_port());
        let mut first = Own::new(&libs, &id, Role::Controller, (0, controller), None, options)?;
        first.process = Some(first.spawn()?);
        let start = |number| {
            let port = free_port();
            let own = Own::new(&libs, &id, Role::Broker(number), (port, controller), None, options)?;
            let mut kafka = Kafka { bootstrap: format!("127.0.0.1:{port}"), own: Some(own) };
            kafka.restart().map(|()| kafka)
        };
        let brokers = (1..=brokers).map(start).collect::<Result<_, String>>()?;
        Ok(Self { brokers, _controller: first })
    }
}

/// User and password of the SASL PLAIN listener.
#[derive(Debug, Clone, Copy)]
pub struct SaslUser<'a> {
    /// User name.
    pub name: &'a str,
    /// Password.
    pub password: &'a str,
}

impl Kafka {
    /// A node with default options.
    ///
    /// # Errors
    /// One sentence: what is missing, or what the node wrote when it did not start.
    pub fn start() -> Result<Self, String> {
        Self::start_with(&[])
    }

    /// A node with more server properties, which win over ours.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(options: &[(&str, &str)]) -> Result<Self, String> {
        match std::env::var("LONGHAUL_TEST_KAFKA") {
            Ok(bootstrap) if options.is_empty() => Ok(Self { bootstrap, own: None }),
            _ => Self::launch(options, None),
        }
    }

    /// A node that has a second listener for clients with SASL PLAIN; see [`sasl_bootstrap`](Self::sasl_bootstrap).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_sasl(user: SaslUser<'_>) -> Result<Self, String> {
        Self::launch(&[], Some(user))
    }

    fn launch(options: &[(&str, &str)], user: Option<SaslUser<'_>>) -> Result<Self, String> {
        let libs = libraries()?;
        let mut last = String::new();
        // A port that was free a moment ago may be taken by now.
        for _ in 0..START_TRIES {
            match Self::launch_once(&libs, options, user) {
                Ok(kafka) => return Ok(kafka),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn launch_once(libs: &Path, options: &[(&str, &str)], user: Option<SaslUser<'_>>) -> Result<Self, String> {
        let ports = (free_port(), free_port());
        let port = ports.0;
        let own = Own::new(libs, &cluster_id(), Role::Whole, ports, user, options)?;
        let mut kafka = Self { bootstrap: format!("127.0.0.1:{port}"), own: Some(own) };
        kafka.restart()?;
        Ok(kafka)
    }

    /// `host:port` for clients, without encryption or login.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// `host:port` of the SASL PLAIN listener.
    ///
    /// # Panics
    /// When the node was not started by [`start_sasl`](Self::start_sasl).
    #[must_use]
    pub fn sasl_bootstrap(&self) -> &str {
        self.own.as_ref().and_then(|own| own.sasl.as_deref()).expect("the node has a SASL listener")
    }

    /// Makes a topic with one replica and waits until every partition has a leader.
    ///
    /// # Errors
    /// What the broker said.
    pub fn create_topic(&self, name: &str, partitions: u32) -> Result<(), String> {
        self.create_topic_with(name, partitions, &[])
    }

    /// Makes a topic with options of its own (`max.message.bytes`, ..).
    ///
    /// # Errors
    /// What the broker said.
    pub fn create_topic_with(&self, name: &str, partitions: u32, options: &[(&str, &str)]) -> Result<(), String> {
        wire::create_topic(&self.bootstrap, name, partitions, options)?;
        wait(READY_MAX, || wire::topic_ready(&self.bootstrap, name, partitions))
    }

    /// Deletes a topic and waits until the broker no longer knows it.
    ///
    /// # Errors
    /// What the broker said.
    pub fn delete_topic(&self, name: &str) -> Result<(), String> {
        wire::delete_topic(&self.bootstrap, name)?;
        wait(READY_MAX, || match wire::topic_ready(&self.bootstrap, name, 0) {
            Ok(()) => Err(format!("topic {name} is still there")),
            Err(_) => Ok(()),
        })
    }

    /// Allows a principal (`User:name`) everything with one consumer group, on a node that was started with an authorizer. Whoever was not
    /// told that has then no right on the group.
    ///
    /// # Errors
    /// What the broker said.
    pub fn allow_group(&self, group: &str, principal: &str) -> Result<(), String> {
        wire::allow_group(&self.bootstrap, group, principal)
    }

    /// Stops it in order; data and port stay. Nothing happens to a node that does not run.
    pub fn stop(&mut self) {
        if let Some(process) = self.running().take() {
            process.terminate(STOP_MAX);
        }
    }

    /// Kills it as a crash would; data and port stay.
    pub fn kill(&mut self) {
        if let Some(process) = self.running().take() {
            process.kill();
        }
    }

    /// Starts it again on the same port and data, after stopping it if it still runs, and waits until it serves.
    ///
    /// # Errors
    /// What it wrote when it did not start.
    pub fn restart(&mut self) -> Result<(), String> {
        self.stop();
        let bootstrap = self.bootstrap.clone();
        let own = self.own.as_mut().ok_or("a Kafka from LONGHAUL_TEST_KAFKA is not ours to start")?;
        let mut process = own.spawn()?;
        let ready = wait(READY_MAX, || if process.is_running() { wire::serves(&bootstrap) } else { Ok(()) });
        if !process.is_running() {
            return Err(format!("Kafka ended at once:\n{}", tail(&process.output())));
        }
        ready.map_err(|error| format!("Kafka does not serve: {error}:\n{}", tail(&process.output())))?;
        own.process = Some(process);
        Ok(())
    }

    fn running(&mut self) -> &mut Option<Process> {
        &mut self.own.as_mut().expect("a Kafka from LONGHAUL_TEST_KAFKA is not ours to stop").process
    }
}

impl Own {
    /// A node with its folder, formatted and not started. Ports are those of clients and of the controller.
    fn new(
        libs: &Path,
        cluster: &str,
        role: Role,
        ports: (u16, u16),
        user: Option<SaslUser<'_>>,
        options: &[(&str, &str)],
    ) -> Result<Self, String> {
        let dir = TempDir::with_prefix("longhaul-kafka-").map_err(|e| format!("no temporary folder: {e}"))?;
        let sasl = user.map(|_| free_port());
        let text = properties(dir.path(), role, ports, sasl.zip(user), options);
        fs::write(dir.path().join("server.properties"), text).map_err(|e| e.to_string())?;
        format_storage(libs, dir.path(), cluster)?;
        Ok(Self { dir, libs: libs.to_owned(), process: None, sasl: sasl.map(|port| format!("127.0.0.1:{port}")) })
    }

    fn spawn(&self) -> Result<Process, String> {
        let dir = self.dir.path();
        let mut command = java(&self.libs, dir);
        command.arg("kafka.Kafka").arg(dir.join("server.properties"));
        Process::spawn(&mut command, &dir.join("server.log")).map_err(|e| format!("Kafka does not start: {e}"))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // The process first: it must not write below the folder that is removed next.
        drop(self.process.take());
    }
}

/// Asks until it is so, or until patience ends; then the last refusal.
fn wait(patience: Duration, mut ask: impl FnMut() -> Result<(), String>) -> Result<(), String> {
    let until = Instant::now() + patience;
    loop {
        match ask() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            // The broker gives no sign when it is ready; asking again is all there is.
            Err(_) => std::thread::sleep(Duration::from_millis(30)),
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn java(libs: &Path, dir: &Path) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg(format!("-Djava.io.tmpdir={}", dir.display()))
        .arg("-cp")
        .arg(libs.join("*"))
        .current_dir(dir);
    command
}

/// The jars, from our cache or from Maven Central.
fn libraries() -> Result<PathBuf, String> {
    need("java", "-version", "openjdk-17-jre-headless")?;
    let libs = cache_dir().join(format!("kafka-{VERSION}"));
    install(&libs, |fresh| {
        need("mvn", "-version", "maven")?;
        let work = TempDir::new().map_err(|e| e.to_string())?;
        fs::write(work.path().join("pom.xml"), pom()).map_err(|e| e.to_string())?;
        let out = Command::new("mvn")
            .args(["-q", "-B", "dependency:copy-dependencies"])
            .arg(format!("-DoutputDirectory={}", fresh.display()))
            .current_dir(work.path())
            .output()
            .map_err(|e| format!("mvn: {e}"))?;
        if out.status.success() {
            return Ok(());
        }
        Err(format!("mvn could not fetch Kafka {VERSION}:\n{}", tail(&String::from_utf8_lossy(&out.stdout))))
    })?;
    Ok(libs)
}

fn need(program: &str, probe: &str, package: &str) -> Result<(), String> {
    let sentence = || format!("`{program}` is missing: install the package {package}");
    Command::new(program).arg(probe).output().map(|_| ()).map_err(|_| sentence())
}

fn pom() -> String {
    let dependency = |artifact: &str| {
        format!(
            "<dependency><groupId>org.apache.kafka</groupId><artifactId>{artifact}</artifactId><version>{VERSION}</version></dependency>"
        )
    };
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>longhaul</groupId><artifactId>test-kafka</artifactId><version>1</version>\
         <dependencies>{}{}</dependencies></project>",
        dependency(&format!("kafka_{SCALA}")),
        dependency("kafka-tools")
    )
}

/// 16 bytes in base64url: the clusters of one machine differ by process and count.
fn cluster_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{:010}{:011}A", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn format_storage(libs: &Path, dir: &Path, cluster: &str) -> Result<(), String> {
    let out = java(libs, dir)
        .args(["kafka.tools.StorageTool", "format", "-t", cluster, "-c"])
        .arg(dir.join("server.properties"))
        .output()
        .map_err(|e| format!("java: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("Kafka's storage could not be formatted:\n{}", tail(&String::from_utf8_lossy(&out.stderr))))
}

fn properties(
    dir: &Path,
    role: Role,
    (port, controller): (u16, u16),
    sasl: Option<(u16, SaslUser<'_>)>,
    options: &[(&str, &str)],
) -> String {
    let mut advertised = format!("PLAINTEXT://127.0.0.1:{port}");
    let mut listeners = match role {
        Role::Controller => String::new(),
        Role::Whole | Role::Broker(_) => advertised.clone(),
    };
    if !matches!(role, Role::Broker(_)) {
        let comma = if listeners.is_empty() { "" } else { "," };
        listeners.push_str(&format!("{comma}CONTROLLER://127.0.0.1:{controller}"));
    }
    let (roles, id) = match role {
        Role::Whole => ("broker,controller", 1),
        Role::Controller => ("controller", CONTROLLER),
        Role::Broker(number) => ("broker", number),
    };
    let voter = if matches!(role, Role::Whole) { 1 } else { CONTROLLER };
    let mut lines = vec![
        format!("process.roles={roles}"),
        format!("node.id={id}"),
        format!("controller.quorum.voters={voter}@127.0.0.1:{controller}"),
        "controller.listener.names=CONTROLLER".to_owned(),
        "inter.broker.listener.name=PLAINTEXT".to_owned(),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT"
            .to_owned(),
        format!("log.dirs={}", dir.join("data").display()),
        "auto.create.topics.enable=false".to_owned(),
        "offsets.topic.replication.factor=1".to_owned(),
        "offsets.topic.num.partitions=1".to_owned(),
        "transaction.state.log.replication.factor=1".to_owned(),
        "transaction.state.log.min.isr=1".to_owned(),
        "transaction.state.log.num.partitions=1".to_owned(),
        "share.coordinator.state.topic.replication.factor=1".to_owned(),
        "share.coordinator.state.topic.min.isr=1".to_owned(),
        "share.coordinator.state.topic.num.partitions=1".to_owned(),
        "group.initial.rebalance.delay.ms=0".to_owned(),
        "num.network.threads=2".to_owned(),
        "num.io.threads=2".to_owned(),
        "log.cleaner.dedupe.buffer.size=4194304".to_owned(),
    ];
    if let Some((port, user)) = sasl {
        listeners.push_str(&format!(",SASL_PLAINTEXT://127.0.0.1:{port}"));
        advertised.push_str(&format!(",SASL_PLAINTEXT://127.0.0.1:{port}"));
        lines.push("sasl.enabled.mechanisms=PLAIN".to_owned());
        lines.push(format!(
            "listener.name.sasl_plaintext.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required user_{}=\"{}\";",
            user.name, user.password
        ));
    }
    lines.push(format!("listeners={listeners}"));
    if !matches!(role, Role::Controller) {
        lines.push(format!("advertised.listeners={advertised}"));
    }
    // Of two lines with one key the later wins.
    lines.extend(options.iter().map(|(key, value)| format!("{key}={value}")));
    lines.join("\n") + "\n"
}
