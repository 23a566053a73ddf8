//! `longhaul up` as a newcomer uses it: started in an empty folder, the printed commands copied into another terminal, ended with Ctrl-C, and
//! started again where it was.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use longhaul_tests::http::count;
use longhaul_tests::mesh::program;
use longhaul_tests::wait::until;
use serde_json::Value;

/// A mesh in one process; killed when the test ends early.
struct Up {
    child: Child,
    output: PathBuf,
}

impl Up {
    fn start(folder: &Path, name: &str) -> Self {
        let output = folder.join(name);
        let file = File::create(&output).expect("a log");
        let errors = file.try_clone().expect("a log");
        let mut command = Command::new(program());
        command.args(["up", "--no-samples", "--no-view"]).current_dir(folder).stdin(Stdio::null());
        Self { child: command.stdout(file).stderr(errors).spawn().expect("the program starts"), output }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    async fn introduced(&mut self) -> String {
        until("the introduction is printed", Duration::from_secs(60), async || {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "it ended: {ended:?}\n{}", self.said());
            Some(self.said()).filter(|text| text.contains("Ctrl-C drains and ends."))
        })
        .await
    }

    /// What Ctrl-C does.
    fn interrupt(mut self) -> (ExitStatus, Duration, String) {
        let began = Instant::now();
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        let status = self.child.wait().expect("a child");
        (status, began.elapsed(), self.said())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command that is printed below a line with these words.
fn printed(introduction: &str, words: &str) -> String {
    let mut lines = introduction.lines().skip_while(|line| !line.contains(words)).skip(1);
    lines.next().unwrap_or_else(|| panic!("nothing below {words:?}:\n{introduction}")).trim().to_owned()
}

fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command);
    shell
}

/// Runs a command to its end; what it printed.
fn copied(command: &str) -> String {
    let output = shell(command).output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn subscribe_all(introduction: &str, events: u64) -> Vec<Value> {
    let watch = printed(introduction, "Watch what reaches the second region");
    let text = copied(&format!("timeout 60 {watch} --from earliest --count {events}"));
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

fn brokers(introduction: &str) -> Vec<String> {
    let lines = introduction.lines().filter_map(|line| line.split_once("   page ")?.0.split_once(" events "));
    lines.map(|(_, url)| url.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_starts_copies_ends_and_starts_again() {
    let folder = tempfile::Builder::new().prefix("longhaul-test-").tempdir().expect("a temporary folder");
    let mut up = Up::start(folder.path(), "first.log");
    let introduction = up.introduced().await;
    let state = folder.path().join("longhaul-up");
    for file in ["mesh.yaml", "eu-west.yaml", "us-east.yaml", "ap-south.yaml"] {
        assert!(state.join(file).exists(), "{file} was not written");
        copied(&format!("{} validate {}", program().display(), state.join(file).display()));
    }
    let brokers_urls = brokers(&introduction);
    assert_eq!(brokers_urls.len(), 3, "{introduction}");

    // As printed, with a watcher that is there first.
    let watch = printed(&introduction, "Watch what reaches the second region");
    let seen = folder.path().join("seen.jsonl");
    let out = File::create(&seen).expect("a file");
    let mut watcher = shell(&format!("exec timeout 60 {watch} --count 1")).stdout(out).spawn().expect("a shell");
    // A watcher begins with the latest event, and gives no sign that it has begun; so it is published until it sees one.
    let publish = printed(&introduction, "Publish into the first one");
    let mut published = 0_u64;
    until("the watcher sees an event", Duration::from_secs(60), async || {
        let stored: Value = serde_json::from_str(copied(&publish).trim()).expect("where it is stored");
        published += 1;
        // The log counts from one.
        assert_eq!(stored["offset"].as_u64(), Some(published), "{stored}");
        watcher.try_wait().expect("a child")
    })
    .await;
    let event: Value = serde_json::from_str(std::fs::read_to_string(&seen).expect("a file").trim()).expect("an event");
    assert_eq!(event["topic"], "eu-west.orders.created", "{event}");
    assert_eq!(event["key"], "customer-7");
    assert!(event["data"].to_string().contains("total"), "{event}");

    let status = copied(&printed(&introduction, "Look at a router"));
    for word in ["eu-west", "us-east", "ap-south", "up", "orders-of-eu-west", "streaming"] {
        assert!(status.contains(word), "{word} is missing:\n{status}");
    }
    let admin = printed(&introduction, "Look at a router");
    for command in ["links", "routes", "flows", "brokers"] {
        let table = copied(&admin.replace(" status ", &format!(" {command} ")));
        assert!(table.lines().count() > 1, "{command}:\n{table}");
    }
    for broker in &brokers_urls[1..] {
        until("everything arrives", Duration::from_secs(30), async || (count(broker).await == published).then_some(()))
            .await;
    }

    let (status, took, said) = up.interrupt();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(said.contains("State is kept in"), "{said}");

    // Again: same addresses, offsets go on, nothing comes twice.
    let mut up = Up::start(folder.path(), "second.log");
    let again = up.introduced().await;
    assert_eq!(brokers(&again), brokers_urls);
    let stored: Value =
        serde_json::from_str(copied(&printed(&again, "Publish into the first one")).trim()).expect("JSON");
    published += 1;
    assert_eq!(stored["offset"].as_u64(), Some(published), "offsets go on");
    for broker in &brokers_urls[1..] {
        until("the new event arrives", Duration::from_secs(30), async || {
            (count(broker).await >= published).then_some(())
        })
        .await;
    }
    let events = subscribe_all(&again, published);
    let offsets: Vec<_> = events.iter().map(|event| event["offset"].as_u64().unwrap_or(u64::MAX)).collect();
    assert_eq!(offsets, (1..=published).collect::<Vec<_>>());
    // Nothing is under way any more: what is repeated would have come before the new event.
    assert_eq!(count(&brokers_urls[1]).await, published, "nothing came twice");
    let mut ids: Vec<_> = events.iter().map(|event| event["id"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len() as u64, published, "every event has an identity of its own");
    let (status, _, said) = up.interrupt();
    assert_eq!(status.code(), Some(0), "{said}");
}

/// The trickle of samples reaches the others without anybody doing anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_trickle() {
    let folder = tempfile::Builder::new().prefix("longhaul-test-").tempdir().expect("a temporary folder");
    let output = folder.path().join("up.log");
    let file = File::create(&output).expect("a log");
    let mut command = Command::new(program());
    let state = folder.path().join("elsewhere");
    command.arg("up").arg("--state").arg(&state).stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
    let mut up = Up { child: command.spawn().expect("the program starts"), output };
    let introduction = up.introduced().await;
    for broker in brokers(&introduction) {
        // Two of its own and two of each of the others.
        until("samples of all regions", Duration::from_secs(30), async || (count(&broker).await >= 6).then_some(()))
            .await;
    }
    until("the flows are shown", Duration::from_secs(30), async || up.said().contains("delivered").then_some(())).await;
    let (status, _, said) = up.interrupt();
    assert_eq!(status.code(), Some(0), "{said}");
}
