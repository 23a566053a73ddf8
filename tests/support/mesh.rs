//! A mesh of real router processes: documents and certificates in a temporary folder, one `longhaul run` per router.
//!
//! A region has one router, or as many as the test wants: where a method asks for a region, `eu` is its first router, `eu/2` its second.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use longhaul_link::certs;
use longhaul_router::{BrokerView, FlowView, LinksView, RouteView};
use longhaul_test_brokers::{Process, free_port};
use tempfile::TempDir;

use crate::audit::{assert_none_unbalanced, unfinished};
use crate::wait::until;

/// Name of every test mesh.
pub const MESH: &str = "test";

/// Lines of a log that a test which failed tells.
const LOG_LINES_TOLD: usize = 60;

/// A mesh that is being put together, or runs.
pub struct Mesh {
    folder: TempDir,
    ca: certs::Pem,
    regions: BTreeMap<String, Region>,
    /// Pairs that are linked, when not all are.
    links: Option<Vec<(String, String)>>,
    routes: String,
    extra: String,
    router_extra: String,
    log_format: &'static str,
    memory: String,
    event_max: String,
}

/// A region of the mesh: its brokers and its routers.
pub struct Region {
    name: String,
    /// What the mesh document says, one line per broker: `{name: orders, kafka: {}}`.
    declared: Vec<String>,
    /// What the router document says, one line per broker.
    access: Vec<String>,
    resolve: BTreeMap<String, String>,
    routers: Vec<Router>,
}

/// One router of a region.
struct Router {
    link_port: u16,
    admin_port: u16,
    /// What it runs, where that is not the program under test.
    program: Option<PathBuf>,
    process: Option<Process>,
}

impl Mesh {
    /// A mesh of these regions without brokers or routes; every two regions are linked.
    ///
    /// # Panics
    /// When the temporary folder or the certificate authority cannot be made.
    #[must_use]
    pub fn new(regions: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("longhaul-test-").tempdir().expect("a temporary folder");
        let ca = certs::make_ca(MESH).expect("an authority");
        let region = |name: &&str| ((*name).to_owned(), Region::new(name));
        let regions = regions.iter().map(region).collect();
        Self {
            folder,
            ca,
            regions,
            links: None,
            routes: String::new(),
            extra: String::new(),
            router_extra: String::new(),
            log_format: "text",
            memory: "256MiB".into(),
            event_max: "1MiB".into(),
        }
    }

    /// Adds a broker to a region. `declared` is the broker of the mesh document (`kafka: {}`), `access` that of the router document
    /// (`kafka: {bootstrap: [..]}`).
    #[must_use]
    pub fn broker(mut self, region: &str, name: &str, declared: &str, access: &str) -> Self {
        let region = self.regions.get_mut(region).expect("a region of this mesh");
        region.declared.push(format!("{{name: {name}, {declared}}}"));
        region.access.push(format!("{name}: {{{access}}}"));
        self
    }

    /// Gives a region so many routers, which share its brokers.
    #[must_use]
    pub fn replicas(mut self, region: &str, count: usize) -> Self {
        self.regions.get_mut(region).expect("a region of this mesh").routers.resize_with(count, Router::new);
        self
    }

    /// Adds an embedded broker and returns the mesh with the broker's HTTP address.
    #[must_use]
    pub fn embedded(self, region: &str, name: &str) -> (Self, String) {
        let port = free_port();
        let data = self.folder.path().join(format!("data-{region}-{name}"));
        let access = format!("embedded: {{data: {}, listen: \"127.0.0.1:{port}\"}}", data.display());
        (self.broker(region, name, "embedded: {}", &access), format!("http://127.0.0.1:{port}"))
    }

    /// Links these pairs of regions and no others.
    #[must_use]
    pub fn linked(mut self, pairs: &[(&str, &str)]) -> Self {
        self.links = Some(pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect());
        self
    }

    /// Adds a route: its YAML, as an item of the list without the leading dash.
    #[must_use]
    pub fn route(mut self, yaml: &str) -> Self {
        self.set_routes(&format!("{}{}", self.routes, item(yaml)));
        self
    }

    /// Replaces all routes and writes the mesh document again; a running mesh reloads it.
    pub fn set_routes(&mut self, yaml: &str) {
        yaml.clone_into(&mut self.routes);
        self.write_mesh();
    }

    /// The routes as they stand, to be extended and set again.
    #[must_use]
    pub fn routes(&self) -> &str {
        &self.routes
    }

    /// Adds top-level keys to the mesh document.
    #[must_use]
    pub fn extra(mut self, yaml: &str) -> Self {
        self.extra.push_str(yaml);
        self
    }

    /// Adds top-level keys to every router document.
    #[must_use]
    pub fn router_extra(mut self, yaml: &str) -> Self {
        self.router_extra.push_str(yaml);
        self
    }

    /// Has every router log JSON.
    #[must_use]
    pub fn json_logs(mut self) -> Self {
        self.log_format = "json";
        self
    }

    /// Sets the memory budget of every router.
    #[must_use]
    pub fn memory(mut self, text: &str) -> Self {
        text.clone_into(&mut self.memory);
        self
    }

    /// Sets the largest event of every link.
    #[must_use]
    pub fn event_max(mut self, text: &str) -> Self {
        text.clone_into(&mut self.event_max);
        self
    }

    /// Lets the router of `region` reach the router of `peer` at another address: a relay of the test.
    #[must_use]
    pub fn via(mut self, region: &str, peer: &str, address: &str) -> Self {
        let peer = self.link_address(peer);
        let region = self.regions.get_mut(region).expect("a region of this mesh");
        region.resolve.insert(peer, address.to_owned());
        self
    }

    /// `host:port` of a router's link listener.
    #[must_use]
    pub fn link_address(&self, region: &str) -> String {
        self.router(region).link_address()
    }

    /// Names of all routers, as the methods here know them.
    #[must_use]
    pub fn routers(&self) -> Vec<String> {
        let of = |region: &Region| (0..region.routers.len()).map(|at| who(&region.name, at)).collect::<Vec<_>>();
        self.regions.values().flat_map(of).collect()
    }

    fn router(&self, region: &str) -> &Router {
        let (region, at) = parse(region);
        &self.regions[region].routers[at]
    }

    fn router_mut(&mut self, region: &str) -> &mut Router {
        let (region, at) = parse(region);
        &mut self.regions.get_mut(region).expect("a region of this mesh").routers[at]
    }

    /// The folder with all documents.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Path of a region's router document.
    #[must_use]
    pub fn router_document(&self, region: &str) -> PathBuf {
        self.folder.path().join(format!("{}.yaml", file(region)))
    }

    /// Path of the mesh document.
    #[must_use]
    pub fn mesh_document(&self) -> PathBuf {
        self.folder.path().join("mesh.yaml")
    }

    /// The test's certificate authority.
    #[must_use]
    pub fn ca(&self) -> &certs::Pem {
        &self.ca
    }

    /// Writes documents and certificates, starts every router and waits until each is ready.
    pub async fn start(&mut self) {
        self.write_all();
        let names = self.routers();
        for name in &names {
            self.start_router(name);
        }
        for name in &names {
            self.wait_ready(name).await;
        }
    }

    /// Writes documents and certificates without starting anything.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn write_all(&self) {
        self.write_mesh();
        for router in self.routers() {
            let (region, at) = parse(&router);
            let name = format!("router-{}", at + 1);
            let pem = certs::make_router(&self.ca, MESH, region, &name, &[]).expect("a certificate");
            certs::write(self.folder.path(), &file(&router), &self.ca.cert, &pem).expect("a certificate's files");
            std::fs::write(self.router_document(&router), self.router_yaml(&router)).expect("a router document");
        }
    }

    fn write_mesh(&self) {
        let mut text = format!("apiVersion: longhaul/v1\nkind: Mesh\nmetadata: {{name: {MESH}}}\nregions:\n");
        for region in self.regions.values() {
            let routers: Vec<_> =
                region.routers.iter().map(|router| format!("\"{}\"", router.link_address())).collect();
            let _ = writeln!(text, "  - name: {}\n    routers: [{}]", region.name, routers.join(", "));
            let _ = writeln!(text, "    brokers: [{}]", region.declared.join(", "));
        }
        let names: Vec<_> = self.regions.keys().cloned().collect();
        let all = || (0..names.len()).flat_map(|a| (a + 1..names.len()).map(move |b| (a, b)));
        let all = || all().map(|(a, b)| (names[a].clone(), names[b].clone())).collect();
        let pairs: Vec<_> = self.links.clone().unwrap_or_else(all);
        if !pairs.is_empty() {
            text.push_str("links:\n");
        }
        for (a, b) in pairs {
            let _ = writeln!(text, "  - {{between: [{a}, {b}]}}");
        }
        text.push_str(&self.extra);
        if !self.routes.is_empty() {
            let _ = writeln!(text, "routes:\n{}", self.routes);
        }
        // Replaced whole, as an editor or a ConfigMap does it.
        let fresh = self.folder.path().join("mesh.yaml.new");
        std::fs::write(&fresh, text).expect("a mesh document");
        std::fs::rename(fresh, self.mesh_document()).expect("a mesh document");
    }

    fn router_yaml(&self, router: &str) -> String {
        let ((name, at), file) = (parse(router), file(router));
        let (region, router) = (&self.regions[name], self.router(router));
        let mut text = format!(
            "apiVersion: longhaul/v1\nkind: Router\nregion: {name}\nname: router-{}\nmesh: mesh.yaml\n\
             link:\n  listen: \"127.0.0.1:{}\"\n  tls: {{cert: {file}.crt, key: {file}.key, ca: ca.crt}}\n  max_event: {}\n\
             admin: {{listen: \"127.0.0.1:{}\", token: test-token}}\nmemory: {}\nbrokers:\n",
            at + 1,
            router.link_port,
            self.event_max,
            router.admin_port,
            self.memory
        );
        for access in &region.access {
            let _ = writeln!(text, "  {access}");
        }
        text.push_str(&self.router_extra);
        if !region.resolve.is_empty() {
            text.push_str("resolve:\n");
        }
        for (from, to) in &region.resolve {
            let _ = writeln!(text, "  \"{from}\": \"{to}\"");
        }
        text
    }

    /// Has a router run another program from its next start on: another build of this one.
    pub fn set_program(&mut self, region: &str, program: PathBuf) {
        self.router_mut(region).program = Some(program);
    }

    /// Starts the router process of a region.
    ///
    /// # Panics
    /// When the program was not built.
    pub fn start_router(&mut self, region: &str) {
        let (document, log) = (self.router_document(region), self.log_path(region));
        let mut command = Command::new(self.router(region).program.clone().unwrap_or_else(program));
        command.args(["--log-format", self.log_format, "run", "--config"]).arg(document).env("NO_COLOR", "1");
        self.router_mut(region).process = Some(Process::spawn(&mut command, &log).expect("the router starts"));
    }

    /// Waits until a router says that it is ready.
    pub async fn wait_ready(&mut self, region: &str) {
        let what = format!("the router of {region} is ready");
        let url = format!("{}/readyz", self.admin_url(region));
        let log = self.log_path(region);
        until(&what, Duration::from_secs(60), async || {
            let process = self.router_mut(region).process.as_mut();
            let output = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(process.is_some_and(Process::is_running), "the router of {region} ended:\n{}", output());
            get(&url).await.filter(|(status, _)| *status == 200)
        })
        .await;
    }

    /// Kills a router at once, as a crash would.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self, region: &str) {
        self.router_mut(region).process.take().expect("a running router").kill();
    }

    /// Asks a router to drain and waits for its end. Returns its exit code.
    ///
    /// # Panics
    /// When it does not run, or the books of its flows do not balance.
    pub fn terminate(&mut self, region: &str) -> Option<i32> {
        assert_none_unbalanced(region, self.router(region).admin());
        let process = self.router_mut(region).process.take().expect("a running router");
        process.terminate(Duration::from_secs(35))
    }

    /// The process of a region's router.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn process(&self, region: &str) -> &Process {
        self.router(region).process.as_ref().expect("a running router")
    }

    /// What the router of a region has logged so far, over all its lives.
    #[must_use]
    pub fn log(&self, region: &str) -> String {
        std::fs::read_to_string(self.log_path(region)).unwrap_or_default()
    }

    fn log_path(&self, region: &str) -> PathBuf {
        self.folder.path().join(format!("{}.log", file(region)))
    }

    /// Address of a region's admin listener.
    #[must_use]
    pub fn admin_url(&self, region: &str) -> String {
        format!("http://127.0.0.1:{}", self.router(region).admin_port)
    }

    /// The flows of a region's router.
    pub async fn flows(&self, region: &str) -> Vec<FlowView> {
        self.view(region, "flows").await
    }

    /// The links of a region's router.
    pub async fn links(&self, region: &str) -> LinksView {
        self.view(region, "links").await
    }

    /// The routes of a region's router.
    pub async fn routes_of(&self, region: &str) -> Vec<RouteView> {
        self.view(region, "routes").await
    }

    /// The brokers of a region's router.
    pub async fn brokers(&self, region: &str) -> Vec<BrokerView> {
        self.view(region, "brokers").await
    }

    async fn view<T: serde::de::DeserializeOwned>(&self, region: &str, what: &str) -> T {
        let url = format!("{}/v1/{what}", self.admin_url(region));
        let (status, body) = get(&url).await.unwrap_or_else(|| panic!("{url} does not answer"));
        assert_eq!(status, 200, "{url}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{url}: {error}: {body}"))
    }

    /// The sum of a metric's samples; `None` while the router does not answer.
    pub async fn try_metric(&self, region: &str, name: &str) -> Option<f64> {
        let (_, body) = get(&format!("{}/metrics", self.admin_url(region))).await?;
        let samples = body.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        Some(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// The sum of a metric's samples whose labels contain all of these texts (`route="x"`).
    pub async fn metric(&self, region: &str, name: &str, labels: &[&str]) -> f64 {
        let url = format!("{}/metrics", self.admin_url(region));
        let (_, body) = get(&url).await.unwrap_or_else(|| panic!("{url} does not answer"));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let found = series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label));
            found.then(|| value.parse::<f64>().ok()).flatten()
        };
        body.lines().filter_map(sample).sum()
    }

    /// Waits until every route that begins in a region has flows to each of its destinations, and all of them stream. Some sources come later
    /// than others: Kafka's when the group has shared its partitions out.
    pub async fn wait_streaming(&self, region: &str) {
        until(&format!("every flow of {region} streams"), Duration::from_secs(60), async || {
            let (routes, flows) = (self.routes_of(region).await, self.flows(region).await);
            let mut out = flows.iter().filter(|flow| flow.end == longhaul_router::End::Out);
            let begins_here = |route: &&RouteView| route.from.starts_with(&format!("{}/", parse(region).0));
            let routes = routes.iter().filter(begins_here);
            let ways: Vec<_> = routes.flat_map(|route| route.to.iter().map(|to| (&route.name, to))).collect();
            let is_begun = |way| out.clone().any(|flow| (&flow.route, &flow.to) == way);
            (!ways.is_empty()
                && ways.into_iter().all(is_begun)
                && out.all(|flow| flow.phase == longhaul_router::Phase::Streaming))
            .then_some(())
        })
        .await;
    }

    /// Waits until each of so many owned flows streams at one router of its region and no other. Returns the routers that own some, once
    /// for each flow.
    pub async fn wait_shared_out(&self, flows: usize) -> Vec<String> {
        let mut last = String::new();
        until(&format!("{flows} flows have one owner each"), Duration::from_secs(90), async || {
            let mut owners = BTreeMap::<_, Vec<String>>::new();
            let mut streams = true;
            for router in self.routers() {
                for flow in self.flows(&router).await.into_iter().filter(|flow| flow.end == longhaul_router::End::Out) {
                    streams &= flow.phase == longhaul_router::Phase::Streaming;
                    owners.entry((flow.route, flow.shard, flow.to)).or_default().push(router.clone());
                }
            }
            let now = format!("{owners:?}");
            if now != last {
                eprintln!("owners: {now:.2000}");
                last = now;
            }
            let alone = owners.values().all(|routers| routers.len() == 1);
            (streams && alone && owners.len() == flows).then(|| owners.into_values().flatten().collect())
        })
        .await
    }

    /// What is left of a test that failed: the end of every router's log, and the flows that are not level.
    fn explain(&mut self) {
        for name in self.routers() {
            let log = self.log(&name);
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "the end of the log of {name}:\n{}",
                lines[lines.len().saturating_sub(LOG_LINES_TOLD)..].join("\n")
            );
            if self.router_mut(&name).process.as_mut().is_some_and(Process::is_running) {
                eprintln!("the flows of {name}:\n{}", unfinished(self.router(&name).admin()));
            }
        }
    }
}

impl Drop for Mesh {
    /// Whatever a test is about, the books of the routers that still run balance, and nothing in them has panicked.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return self.explain();
        }
        for name in self.routers() {
            if self.router_mut(&name).process.as_mut().is_some_and(Process::is_running) {
                assert_none_unbalanced(&name, self.router(&name).admin());
            }
            let log = self.log(&name);
            assert!(!log.contains("panicked at"), "{log}");
        }
    }
}

impl Region {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            declared: Vec::new(),
            access: Vec::new(),
            resolve: BTreeMap::new(),
            routers: vec![Router::new()],
        }
    }
}

impl Router {
    fn new() -> Self {
        Self { link_port: free_port(), admin_port: free_port(), program: None, process: None }
    }

    fn link_address(&self) -> String {
        format!("127.0.0.1:{}", self.link_port)
    }

    fn admin(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.admin_port))
    }
}

/// The region of a router, and which of its routers it is.
fn parse(router: &str) -> (&str, usize) {
    let (region, number) = router.split_once('/').unwrap_or((router, "1"));
    (region, number.parse::<usize>().expect("a number") - 1)
}

fn who(region: &str, at: usize) -> String {
    if at == 0 { region.to_owned() } else { format!("{region}/{}", at + 1) }
}

/// What the files of a router are called.
fn file(router: &str) -> String {
    router.replace('/', "-")
}

/// A list item of YAML, its lines moved in.
#[must_use]
pub fn item(yaml: &str) -> String {
    let mut lines = yaml.trim().lines();
    let mut text = format!("  - {}\n", lines.next().unwrap_or_default());
    for line in lines {
        let _ = writeln!(text, "    {line}");
    }
    text
}

/// The program under test, which `make system` builds first.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let program = test.ancestors().nth(2).expect("tests lie below the target folder").join("longhaul");
    assert!(program.exists(), "{} is missing: cargo build --package longhaul", program.display());
    program
}

/// Gets a URL: status and body, or `None` when nobody answers.
pub async fn get(url: &str) -> Option<(u16, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/')?;
    let stream = tokio::net::TcpStream::connect(host).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request =
        hyper::Request::get(format!("/{path}")).header("host", host).body(Empty::<bytes::Bytes>::new()).ok()?;
    let response = sender.send_request(request).await.ok()?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}
