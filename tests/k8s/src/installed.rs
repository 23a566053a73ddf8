//! Three regions of one mesh, each a release of the chart in a namespace of a real node, with a NATS server beside the cluster each.
//!
//! The servers run in the node and not in pods: they stay when pods go, so that what is counted is what routers did. Start with
//! [`Installed::start`]. It does not check network policies: the node's network enforces none.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use longhaul_test_brokers::{Process, nats};
use longhaul_test_cluster::Node;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{REGIONS, argument, generate, image, program};

/// Routers of a region.
pub const REPLICAS: usize = 2;
/// How the image is called after its import, and the name under which an upgrade asks for it.
const IMAGES: [&str; 2] = ["localhost/longhaul:0.1.0", "localhost/longhaul:next"];
/// Which pods are routers.
const ROUTERS: &str = "app.kubernetes.io/name=longhaul";
/// The node's address, which pods reach too.
const ADDRESS: &str = "10.89.0.1";
/// The server of the first region listens here, those of the others at the ports behind it.
const NATS_PORT: u16 = 4222;
/// For whatever the cluster is asked to bring about.
const PATIENCE: Duration = Duration::from_secs(180);
/// Kept of each region's brokers; the routers' cursors too.
const STREAM: &str = "EVENTS";

/// A mesh that runs on a node; all of it is gone when dropped.
// The node first: all the others live in it.
pub struct Installed {
    node: Node,
    _brokers: Vec<Process>,
    folder: TempDir,
}

/// What tells one life of a pod from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Differs between a pod and the one that takes its place.
    pub uid: String,
    /// How often its container was started again.
    pub restarts: u64,
}

/// Pods by `region/pod`.
pub type Lives = BTreeMap<String, Life>;

impl Installed {
    /// Whether this is who may bring up a node.
    #[must_use]
    pub fn is_possible() -> bool {
        Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.starts_with(b"0\n"))
    }

    /// Brings up the node, the servers and the three releases; returns when every pod is ready.
    ///
    /// # Panics
    /// With what did not come up, and what it said.
    #[must_use]
    pub fn start() -> Self {
        let node = Node::start().expect("a node");
        node.import(&image(".oci.tar")).expect("the image is taken");
        let folder = TempDir::with_prefix("longhaul-regions-").expect("a temporary folder");
        let brokers = REGIONS.iter().zip(NATS_PORT..);
        let brokers = brokers.map(|(region, port)| start_nats(&node, folder.path(), region, port)).collect();
        let installed = Self { node, _brokers: brokers, folder };
        installed.write_mesh("");
        installed.certify();
        for region in REGIONS {
            installed.upgrade(region, &[]);
        }
        REGIONS.iter().for_each(|region| installed.wait_rolled_out(region));
        installed
    }

    /// A NATS client's way into a region's server: an address of loopback, from which each connection is carried into the node.
    ///
    /// # Panics
    /// When loopback has no port.
    #[must_use]
    pub fn door(&self, region: usize) -> String {
        let port = NATS_PORT + u16::try_from(region).expect("a region");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("nats://{}", listener.local_addr().expect("its address"));
        let carry = format!("exec 3<>/dev/tcp/{ADDRESS}/{port}; cat <&3 & exec cat >&3");
        let mut command = self.node.command("bash");
        command.args(["-c", &carry]);
        // Ends with the test; whom it started is gone with the node.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                let out = stream.try_clone().expect("a connection has two ends");
                let both = command.stdin(std::os::fd::OwnedFd::from(stream)).stdout(std::os::fd::OwnedFd::from(out));
                let mut child = both.spawn().expect("nsenter and bash");
                std::thread::spawn(move || child.wait());
            }
        });
        url
    }

    /// `kubectl` in the namespace of a region.
    ///
    /// # Panics
    /// With what it said when it failed.
    pub fn kubectl(&self, region: &str, arguments: &[&str]) -> String {
        self.try_kubectl(region, arguments).unwrap_or_else(|error| panic!("{region} {arguments:?}: {error}"))
    }

    fn try_kubectl(&self, region: &str, arguments: &[&str]) -> Result<String, String> {
        self.node.api().kubectl(&[&["--namespace", region], arguments].concat(), "")
    }

    /// `helm upgrade --install` of a region with the mesh document as it stands.
    ///
    /// # Panics
    /// With what helm said when it failed.
    pub fn upgrade(&self, region: &str, more: &[&str]) {
        let at = REGIONS.iter().position(|other| *other == region).expect("a region");
        let port = NATS_PORT + u16::try_from(at).expect("a region");
        let mesh = self.path("mesh.yaml");
        let generated = generate(Path::new(&mesh), region).expect("values");
        let own = json!({
            "router": {"brokers": {"events": {"nats": {"servers": [format!("nats://{ADDRESS}:{port}")]}}}},
            "networkPolicy": {"brokers": [{"ports": [port]}]},
            // Six of them share two processors.
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        });
        let files = [format!("{region}.values.yaml"), format!("{region}.own.json")].map(|name| self.path(&name));
        fs::write(&files[0], generated).expect("a file");
        fs::write(&files[1], own.to_string()).expect("a file");
        let (chart, mesh) = (argument("k8s/helm/longhaul"), format!("mesh={mesh}"));
        let fixed = ["upgrade", "--install", "longhaul", &chart, "--namespace", region, "--set-file", &mesh];
        let values = ["--values", &files[0], "--values", &files[1]];
        self.node.api().helm(&[&fixed[..], &values, more].concat()).expect("helm installs it");
    }

    /// Gives the image its second name and has a region's routers run that, one after the other.
    ///
    /// # Panics
    /// When the cluster does not bring it about.
    pub fn roll(&self, region: &str) {
        let tagged = ["--namespace", "k8s.io", "images", "tag", "--force", IMAGES[0], IMAGES[1]];
        let done = self.node.command("ctr").args(tagged).output().expect("ctr of containerd");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        self.upgrade(region, &["--set", "image.tag=next"]);
        self.wait_rolled_out(region);
        let images =
            self.kubectl(region, &["get", "pods", "-l", ROUTERS, "-o", "jsonpath={..spec.containers[0].image}"]);
        assert_eq!(images, [IMAGES[1]; REPLICAS].join(" "));
    }

    /// Waits until all pods of a region are as they should be.
    ///
    /// # Panics
    /// With the pods and their logs when they are not in time.
    pub fn wait_rolled_out(&self, region: &str) {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let rolled = self.try_kubectl(region, &["rollout", "status", "statefulset/longhaul", &timeout]);
        // What a StatefulSet says of itself may be a moment old.
        let ready = ["wait", "--for=condition=Ready", "pod", "-l", ROUTERS, &timeout];
        let ready = rolled.and_then(|_| self.try_kubectl(region, &ready));
        ready.unwrap_or_else(|error| panic!("{region}: {error}\n{}", self.diagnosis(region)));
    }

    /// Writes the mesh document: two routes from each region to the two others, and whatever more.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_mesh(&self, more_routes: &str) {
        fs::write(self.path("mesh.yaml"), mesh(more_routes)).expect("a file");
    }

    /// Makes a certificate for each router and puts it into its Secret, in place of the one before.
    ///
    /// # Panics
    /// When they cannot be made, or the cluster refuses them.
    pub fn certify(&self) {
        let out = self.path("certificates");
        let mut command = Command::new(program());
        command.args(["certs", "--mesh", "shop", "--out", &out]);
        for (region, pod) in routers() {
            command.args(["--router", &format!("{region}/{pod}")]);
        }
        let done = command.output().expect("the program runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let read = |name: &str| fs::read_to_string(Path::new(&out).join(name)).expect("a file of the certificates");
        let secret = |(region, pod): (&str, String)| {
            let data = json!({
                "tls.crt": read(&format!("{region}-{pod}.crt")),
                "tls.key": read(&format!("{region}-{pod}.key")),
                "ca.crt": read("ca.crt"),
            });
            let meta = json!({"name": format!("{pod}-tls"), "namespace": region});
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": data})
        };
        let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespace = |name: &&str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": restricted}});
        let items: Vec<Value> = REGIONS.iter().map(namespace).chain(routers().map(secret)).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        self.node.api().kubectl(&["apply", "--server-side", "-f", "-"], &list).expect("namespaces and Secrets");
    }

    /// The pods of all regions.
    ///
    /// # Panics
    /// When the cluster does not say.
    #[must_use]
    pub fn lives(&self) -> Lives {
        let of = |region: &str| {
            let pods: Value =
                serde_json::from_str(&self.kubectl(region, &["get", "pods", "-l", ROUTERS, "-o", "json"]))
                    .expect("JSON");
            let pods = pods["items"].as_array().expect("pods").clone();
            let life = |pod: Value| {
                let name = format!("{region}/{}", crate::word(&pod["metadata"]["name"]));
                let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default();
                (name, Life { uid: crate::word(&pod["metadata"]["uid"]).to_owned(), restarts })
            };
            pods.into_iter().map(life).collect::<Vec<_>>()
        };
        REGIONS.into_iter().flat_map(of).collect()
    }

    /// `helm test` of a region: a pod asks a router how it is.
    ///
    /// # Panics
    /// With what helm said when the pod failed.
    pub fn helm_test(&self, region: &str) {
        let timeout = format!("{}s", PATIENCE.as_secs());
        let tested = self.node.api().helm(&["test", "longhaul", "--namespace", region, "--timeout", &timeout]);
        tested.unwrap_or_else(|error| panic!("{region}: {error}\n{}", self.diagnosis(region)));
    }

    /// The pod of a region that reads its broker: the two share the streams, and there is one.
    #[must_use]
    pub fn reader(&self, region: &str) -> String {
        let reads = |pod: &String| {
            let flows = self.ask(region, pod, "/v1/flows").ok()?;
            let flows: Vec<Value> = serde_json::from_str(&flows).ok()?;
            flows.iter().any(|flow| flow["end"] == "out" && flow["phase"] == "streaming").then_some(())
        };
        let pods = || routers().filter(|(of, _)| *of == region).map(|(_, pod)| pod);
        until("somebody reads", || pods().find(|pod| reads(pod).is_some())).0
    }

    /// What a router's admin listener answers, asked through the API server.
    ///
    /// # Errors
    /// What the API server said, for as long as the router does not answer.
    pub fn ask(&self, region: &str, pod: &str, path: &str) -> Result<String, String> {
        let path = format!("/api/v1/namespaces/{region}/pods/{pod}:9600/proxy{path}");
        self.try_kubectl(region, &["get", "--raw", &path])
    }

    /// A metric of a router, over all its labels; nothing while the router does not answer or has no such metric.
    #[must_use]
    pub fn metric(&self, region: &str, pod: &str, name: &str) -> Option<f64> {
        let metrics = self.ask(region, pod, "/metrics").ok()?;
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.split_whitespace().last()?.parse().ok()).reduce(|sum: f64, one: f64| sum + one)
    }

    /// What the routers of a region have logged since their pods began.
    ///
    /// # Panics
    /// When the cluster does not say.
    #[must_use]
    pub fn logs(&self, region: &str) -> String {
        self.kubectl(region, &["logs", "-l", ROUTERS, "--tail=-1"])
    }

    /// Pods and logs of a region, for a message.
    #[must_use]
    pub fn diagnosis(&self, region: &str) -> String {
        let pods = self.try_kubectl(region, &["describe", "pods"]);
        let logs = (0..REPLICAS).map(|number| {
            let pod = format!("longhaul-{number}");
            self.try_kubectl(region, &["logs", &pod, "--tail=40"])
        });
        std::iter::once(pods).chain(logs).map(|said| said.unwrap_or_else(|error| error)).collect()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// Region and pod of every router.
pub fn routers() -> impl Iterator<Item = (&'static str, String)> {
    REGIONS.into_iter().flat_map(|region| (0..REPLICAS).map(move |number| (region, format!("longhaul-{number}"))))
}

/// Asks until there is an answer; returns it with the time that it took.
///
/// # Panics
/// When there is none in time; the text says what was waited for.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> (T, Duration) {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return (answer, begin.elapsed());
        }
        assert!(begin.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        // A cluster takes its time and gives no sign to wait on.
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Destinations get the topic under the name of its region, and routes read only topics without one: nothing comes back.
fn mesh(more_routes: &str) -> String {
    let all = || REGIONS.iter();
    let of = |region: &&str| {
        json!({
            "name": region,
            "routers": [format!("longhaul-links.{region}.svc.cluster.local:7443")],
            "brokers": [{"name": "events", "nats": {}}],
        })
    };
    let route = |region: &&str| {
        let to = |other: &&str| json!({"region": other, "broker": "events", "topic": format!("{region}.{{topic}}")});
        json!({
            "name": format!("from-{region}"),
            "from": {"region": region, "broker": "events", "topics": ["orders.>"]},
            "start": "earliest",
            "guarantee": "effectively-once",
            "to": all().filter(|other| *other != region).map(to).collect::<Vec<_>>(),
        })
    };
    let links = [[0, 1], [1, 2], [2, 0]].map(|[a, b]| json!({"between": [REGIONS[a], REGIONS[b]]}));
    let regions: Vec<Value> = all().map(of).collect();
    // JSON is YAML; one item a line.
    let routes: String = all().map(|region| format!("  - {}\n", route(region))).collect();
    format!(
        "apiVersion: longhaul/v1\nkind: Mesh\nmetadata: {{name: shop}}\nregions: {}\nlinks: {}\nroutes:\n{routes}{more_routes}",
        json!(regions),
        json!(links)
    )
}

/// A server in the node, with the data in the folder.
fn start_nats(node: &Node, folder: &Path, region: &str, port: u16) -> Process {
    let (config, data) = (folder.join(format!("{region}.nats.conf")), folder.join(format!("{region}.nats")));
    fs::write(&config, format!("listen: \"{ADDRESS}:{port}\"\njetstream {{ store_dir: {data:?} }}\n")).expect("a file");
    let server = nats::server_binary().expect("a NATS server");
    let mut command = node.command(&server.display().to_string());
    Process::spawn(command.arg("-c").arg(config), &folder.join(format!("{region}.nats.log"))).expect("a NATS server")
}

/// The configuration of the one stream that each server has: a source, and a destination that takes atomic batches.
#[must_use]
pub fn stream() -> (&'static str, Value) {
    let own = ["orders.>".to_owned(), "late.>".to_owned(), format!("$LONGHAUL.cursor.{STREAM}.>")];
    let subjects: Vec<String> = REGIONS.iter().map(|region| format!("{region}.>")).chain(own).collect();
    (STREAM, json!({"name": STREAM, "subjects": subjects, "allow_atomic": true}))
}
