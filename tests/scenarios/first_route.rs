//! The first route of the README, as it stands there: its commands are run with the ports of brokers that are here, and what is produced to
//! Kafka is in NATS.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use longhaul_test_brokers::free_port;
use longhaul_tests::client::{Client, Kafka, Nats};
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::program;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const PATIENCE: Duration = Duration::from_secs(60);

/// A router in the background; killed when the test ends.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The commands of the README, from the certificates on.
fn commands() -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).expect("the README");
    let (_, section) = readme.split_once("## A first route between real brokers").expect("its section");
    let (_, block) = section.split_once("```sh\n").expect("its commands");
    let (block, _) = block.split_once("```").expect("the end of its commands");
    let (_build, rest) = block.split_once("cd mesh\n").expect("the build comes first");
    rest.to_owned()
}

fn longhaul(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_route_of_the_readme_works_as_written() {
    let (kafka, nats) = tokio::join!(started::kafka(), started::nats());
    let orders = Client::Kafka(Kafka::new(&kafka));
    // Made by `create_streams: true` for subjects that begin with `eu`.
    let billing = Client::Nats(Nats::new(&nats).stream("longhaul_eu"));
    let folder = tempfile::Builder::new().prefix("longhaul-test-").tempdir().expect("a temporary folder");
    let admin = format!("127.0.0.1:{}", free_port());
    let others = [free_port(), free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let mut script = commands();
    for (written, here) in [
        ("127.0.0.1:9092", kafka.bootstrap()),
        ("nats://127.0.0.1:4222", &nats.url()),
        ("127.0.0.1:9600", &admin),
        ("127.0.0.1:9601", &others[0]),
        ("127.0.0.1:7443", &others[1]),
        ("127.0.0.1:7444", &others[2]),
    ] {
        assert!(script.contains(written), "the README names {written}");
        script = script.replace(written, here);
    }
    let (documents, routers) = script.split_once("longhaul run").expect("the routers are run");
    let (routers, flows) = routers.split_once("longhaul flows").expect("the flows are shown");
    assert!(!flows.is_empty());
    orders.prepare(&["orders.placed"]).await;
    let sent = Sample::plain_many("orders.placed", 500, 10, 100);
    orders.produce(&sent).await;

    let bin = program().parent().expect("a folder").to_owned();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-euc", documents]).current_dir(folder.path()).env("PATH", path);
    let output = shell.output().expect("a shell");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = |document: &str| {
        let log = std::fs::File::create(folder.path().join(format!("{document}.log"))).expect("a log");
        Background(
            longhaul(folder.path(), &["run", "--config", document]).stderr(log).spawn().expect("a router starts"),
        )
    };
    let documents: Vec<_> = routers.split_whitespace().filter(|word| word.ends_with(".yaml")).collect();
    assert_eq!(documents, ["us.yaml", "eu.yaml"]);
    let _routers: Vec<_> = documents.iter().map(|document| run(document)).collect();

    let url = nats.url();
    until("there is a stream for it", PATIENCE, async || {
        let client = async_nats::connect(&url).await.ok()?;
        async_nats::jetstream::new(client).get_stream("longhaul_eu").await.ok()
    })
    .await;
    let arrived = billing.consume("eu.orders.placed", sent.len(), PATIENCE).await;
    let verdict = judge("the first route", &sent, &arrived, Compare::Content);
    assert_eq!(verdict.duplicates, 0);
    let table = until("the flows are shown", PATIENCE, async || {
        let shown =
            longhaul(folder.path(), &["flows", "--admin", &format!("http://{admin}")]).output().expect("it runs");
        shown.status.success().then(|| String::from_utf8_lossy(&shown.stdout).into_owned())
    })
    .await;
    assert!(table.contains("orders-to-billing") && table.contains("streaming"), "{table}");
}
