//! A peer with a good certificate that means harm. One by one it does what no router does, while an honest flow goes on beside it: it is cut
//! off or refused, by reason; the router does not panic, holds no more memory than before, and the honest flow keeps its rate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use longhaul_link::certs::{self, RouterCert};
use longhaul_link::{Class, Dialer, Identity, InLink, LinkConfig, LinkError, Listener, OutLink, WindowHint};
use longhaul_route::RouteTable;
use longhaul_tests::http::{assert_exactly, numbers, publish_steadily, wait_count};
use longhaul_tests::mesh::{MESH, Mesh};
use longhaul_tests::wait::until;
use longhaul_wire::{BATCH_HEADER_BYTES, FlowOpen, Frame};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// The honest flow is at most that far behind, whatever the other one does: two cores serve both, and the tests beside them.
const BEHIND: Duration = Duration::from_secs(5);
/// What the router may hold more after everything than before: code that ran for the first time, buffers of allocators.
const MORE_MEMORY: u64 = 96 << 20;
/// More than a burst, and than what comes free while they are answered one by one.
const OPENS: u32 = 18_000;
const CUT: &str = "longhaul_refused_connections_total";
const REFUSED: &str = "longhaul_refused_messages_total";

/// Events go from `c` to `b`; whoever is hostile is a router of `d`.
struct Scene {
    mesh: Mesh,
    destination: String,
    published: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    producer: tokio::task::JoinHandle<()>,
    folder: TempDir,
}

/// Whatever is hostile, for as long as it holds its link.
struct Hostile {
    link: OutLink,
    /// What the flow of the cases is called: its hash.
    route_hash: u64,
}

fn route(name: &str, from: &str, to: &str) -> String {
    format!(
        "name: {name}\nfrom: {{region: {from}, broker: events, topics: [\"orders.>\"]}}\n\
         to: [{{region: {to}, broker: events, topic: \"{{topic}}\"}}]\nstart: earliest"
    )
}

fn mesh() -> (Mesh, String, String) {
    let (mesh, source) = Mesh::new(&["b", "c", "d"]).embedded("c", "events");
    let (mesh, destination) = mesh.embedded("b", "events");
    let (mesh, _) = mesh.embedded("d", "events");
    let mesh = mesh.route(&route("honest", "c", "b"));
    (mesh, source, destination)
}

impl Scene {
    /// Begins to publish on a mesh that runs.
    fn over(mesh: Mesh, source: String, destination: String, folder: TempDir) -> Self {
        let (published, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let producer = tokio::spawn(publish_steadily(source, Arc::clone(&published), Arc::clone(&stop)));
        Self { mesh, destination, published, stop, producer, folder }
    }

    /// A router of `d` with a certificate of this mesh.
    fn member(&self) -> LinkConfig {
        LinkConfig::new(identity(&self.mesh, &self.folder), 1)
    }

    async fn dial(&self, config: &LinkConfig) -> Result<OutLink, LinkError> {
        let to: SocketAddr = self.mesh.link_address("b").parse().expect("an address");
        Dialer::new(config).expect("a socket").dial(to, "b", WindowHint::default()).await
    }

    async fn hostile(&self) -> Hostile {
        let link = self.dial(&self.member()).await.expect("a member comes in");
        Hostile { link, route_hash: self.route_hash("hostile") }
    }

    fn route_hash(&self, name: &str) -> u64 {
        let path = self.mesh.mesh_document();
        let text = std::fs::read_to_string(&path).expect("the mesh document");
        let mesh = longhaul_config::load_mesh(&path, &text).unwrap_or_else(|wrong| panic!("{wrong}"));
        RouteTable::build(&mesh).route(name).expect("the route").hash_to(0)
    }

    async fn counted(&self, region: &str, name: &str, reason: &str) -> f64 {
        self.mesh.metric(region, name, &[&format!("reason=\"{reason}\"")]).await
    }

    async fn wait_counted(&self, region: &str, name: &str, reason: &str, before: f64) {
        until(&format!("{region} counts {name} by {reason}"), PATIENCE, async || {
            (self.counted(region, name, reason).await > before).then_some(())
        })
        .await;
    }

    /// The honest flow has everything that was published until now, soon.
    async fn honest_flow_keeps_up(&self, what: &str) {
        let (all, began) = (self.published.load(Ordering::Relaxed), Instant::now());
        wait_count(&self.destination, all, PATIENCE).await;
        assert!(began.elapsed() < BEHIND, "{what}: the honest flow is {:?} behind", began.elapsed());
    }

    fn memory(&self, region: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.mesh.process(region).id()));
        let status = status.expect("the status of the process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
        kib << 10
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        (&mut self.producer).await.expect("the producer ended well");
        let all = self.published.load(Ordering::Relaxed);
        wait_count(&self.destination, all, PATIENCE).await;
        assert_exactly(&numbers(&self.destination).await, 0..all);
        let honest = self.mesh.links("c").await.out.into_iter().find(|link| link.region == "b").expect("a link");
        assert_eq!(honest.connects, 1, "the honest link never went");
        for region in ["b", "c"] {
            assert_eq!(self.mesh.metric(region, "longhaul_task_panics_total", &[]).await, 0.0, "{region}");
        }
    }
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("longhaul-test-").tempdir().expect("a temporary folder")
}

fn identity(mesh: &Mesh, folder: &TempDir) -> Arc<Identity> {
    let wanted = RouterCert::new(MESH, "d", "router-9", &[]).expect("names that can stand in a certificate");
    let pem = certs::make(mesh.ca(), &wanted).expect("a certificate");
    let own = tempfile::tempdir_in(folder.path()).expect("a folder").keep();
    Arc::new(
        Identity::load(certs::write(&own, "peer", &mesh.ca().cert, &pem).expect("its files")).expect("an identity"),
    )
}

impl Hostile {
    fn open(&self, handle: u32, shard: &str, owner_epoch: u64, path_epoch: u32) -> FlowOpen {
        FlowOpen {
            handle,
            mesh: MESH.into(),
            route: "hostile".into(),
            from: ("d".into(), "events".into(), shard.into()),
            to: ("b".into(), "events".into()),
            partition: None,
            owner_epoch,
            path_epoch,
            route_hash: self.route_hash,
            class: 1,
            links: 1,
        }
    }

    async fn say(&self, frame: Frame) -> bool {
        self.link.send(frame).await.is_ok()
    }

    async fn hear(&mut self) -> Frame {
        tokio::time::timeout(PATIENCE, self.link.recv()).await.expect("an answer").expect("a frame")
    }

    /// Opens a flow as an honest router would; returns the credit in events and bytes.
    async fn accepted(&mut self, handle: u32, shard: &str) -> (u64, u64) {
        assert!(self.say(Frame::Open(self.open(handle, shard, 5, 5))).await);
        match self.hear().await {
            Frame::Accept { events_limit, bytes_limit, .. } => (events_limit, bytes_limit),
            other => panic!("{other:?}"),
        }
    }

    async fn send(&self, handle: u32, batch: Bytes) -> bool {
        self.link.submit(handle, Class::Normal, batch).await.is_ok()
    }

    /// Until the router has closed the link.
    async fn cut(&self) -> LinkError {
        tokio::time::timeout(PATIENCE, self.link.closed()).await.expect("the link is cut")
    }
}

/// A batch made by hand, its checksum right.
fn batch(handle: u32, path_epoch: u32, count: u32, codec: u8, raw_len: u32, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_slice(&[b'L', b'H', 1, 1]);
    bytes.put_u32_le(handle);
    bytes.put_u32_le(path_epoch);
    bytes.put_slice(&[codec, 0, 0, 0]);
    // Incarnation, prev, last.
    bytes.put_u64_le(1);
    bytes.put_u64_le(0);
    bytes.put_u64_le(u64::from(count));
    bytes.put_u32_le(count);
    bytes.put_u32_le(raw_len);
    bytes.put_u32_le(u32::try_from(body.len()).expect("a length"));
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), body);
    bytes.put_u32_le(crc);
    assert_eq!(bytes.len(), BATCH_HEADER_BYTES);
    bytes.put_slice(body);
    bytes.freeze()
}

/// LZ4 of so many zeros: a literal, and then one match that never seems to end.
fn bomb(zeros: usize) -> Vec<u8> {
    let mut body = vec![0x1f, 0, 1, 0];
    let mut left = zeros - 1 - 19;
    while left >= 255 {
        body.push(255);
        left -= 255;
    }
    body.push(u8::try_from(left).expect("less than 255"));
    // The last five bytes of a block are literals.
    body.extend([0x50, 0, 0, 0, 0, 0]);
    body
}

/// What it does, in the order of the cases.
#[derive(Clone, Copy, Debug)]
enum Misdeed {
    NeverOpened,
    BeyondCredit,
    WrongWay,
    Bomb,
    HugeBomb,
    EmptyStreams,
    OldEpochs,
    AnotherRegion,
    TooManyLinks,
    FloodOfShards,
    FloodOfOpens,
    NeverReads,
}

impl Misdeed {
    const ALL: [Self; 12] = [
        Self::NeverOpened,
        Self::BeyondCredit,
        Self::WrongWay,
        Self::Bomb,
        Self::HugeBomb,
        Self::EmptyStreams,
        Self::OldEpochs,
        Self::AnotherRegion,
        Self::TooManyLinks,
        Self::FloodOfShards,
        Self::FloodOfOpens,
        Self::NeverReads,
    ];

    /// The metric and its reason.
    fn shows(self) -> (&'static str, &'static str) {
        match self {
            Self::NeverOpened => (CUT, "never_opened"),
            Self::BeyondCredit => (CUT, "credit"),
            Self::WrongWay => (CUT, "wrong_way"),
            Self::Bomb | Self::HugeBomb => (CUT, "protocol"),
            Self::EmptyStreams => (CUT, "parcels"),
            Self::OldEpochs => (REFUSED, "stale_batch"),
            Self::AnotherRegion => (CUT, "hello"),
            Self::TooManyLinks => (CUT, "too_many_links"),
            Self::FloodOfShards | Self::FloodOfOpens => (REFUSED, "open_too_often"),
            Self::NeverReads => (CUT, "not_reading"),
        }
    }

    async fn commit(self, scene: &Scene) {
        let mut hostile = scene.hostile().await;
        let shard = &format!("{self:?}");
        match self {
            Self::NeverOpened => {
                hostile.accepted(3, shard).await;
                hostile.send(77, batch(77, 5, 1, 0, 64, &[0; 64])).await;
            }
            Self::BeyondCredit => {
                let (_, bytes) = hostile.accepted(1, shard).await;
                let raw = u32::try_from(bytes).expect("a window") + 1;
                hostile.send(1, batch(1, 5, 2, 1, raw, &bomb(1 << 20))).await;
            }
            Self::WrongWay => {
                let accept =
                    Frame::Ack { handle: 1, path_epoch: 5, durable: 9, events_limit: u64::MAX, bytes_limit: 9 };
                hostile.say(accept).await;
            }
            Self::Bomb => {
                hostile.accepted(1, shard).await;
                hostile.send(1, batch(1, 5, 1, 1, 100_000, &bomb(16 << 20))).await;
            }
            Self::HugeBomb => {
                hostile.accepted(1, shard).await;
                hostile.send(1, batch(1, 5, 1, 2, u32::MAX, &[0; 64])).await;
            }
            Self::EmptyStreams => {
                for _ in 0..10_000 {
                    if !hostile.send(1, Bytes::new()).await {
                        break;
                    }
                }
            }
            Self::OldEpochs => return old_epochs(&mut hostile).await,
            Self::AnotherRegion => {
                let mut config = scene.member();
                config.region = "c".into();
                let refused = scene.dial(&config).await.err().expect("refused").to_string();
                assert!(refused.contains("its certificate says \"d\""), "{refused}");
                return;
            }
            Self::TooManyLinks => return too_many_links(scene).await,
            Self::FloodOfShards => {
                // Well within what a large router may have: they are all served.
                for number in 0..2_000_u32 {
                    assert!(hostile.say(Frame::Open(hostile.open(number + 1, &format!("s{number}"), 5, 5))).await);
                }
                for _ in 0..2_000 {
                    hostile.hear().await;
                }
                return;
            }
            Self::FloodOfOpens => return flood_of_opens(&mut hostile).await,
            Self::NeverReads => {
                // Each of these is answered at length.
                let route = "x".repeat(900);
                for number in 0..20_000_u32 {
                    let open = FlowOpen { route: route.clone(), ..hostile.open(number + 1, "shard", 5, 5) };
                    if !hostile.say(Frame::Open(open)).await {
                        break;
                    }
                }
            }
        }
        let told = hostile.cut().await;
        eprintln!("{self:?}: {told}");
        assert!(matches!(told.cause(), LinkError::ClosedByPeer { .. }), "{self:?}: {told}");
    }
}

/// Late and repeated ones are nobody's fault: they are thrown away, and the link stands.
async fn old_epochs(hostile: &mut Hostile) {
    hostile.accepted(1, "epochs").await;
    for (owner_epoch, path_epoch) in [(5, 5), (5, 4), (4, 9)] {
        assert!(hostile.say(Frame::Open(hostile.open(2, "epochs", owner_epoch, path_epoch))).await);
        let Frame::Reset { text, .. } = hostile.hear().await else { panic!("an old epoch is accepted") };
        eprintln!("an Open of epochs {owner_epoch}, {path_epoch}: {text}");
    }
    for _ in 0..1_000 {
        assert!(hostile.send(1, batch(1, 4, 1, 0, 64, &[0; 64])).await);
    }
    // The link still answers.
    hostile.accepted(3, "another").await;
}

async fn too_many_links(scene: &Scene) {
    let (config, mut links) = (scene.member(), Vec::new());
    for _ in 0..20 {
        if let Ok(link) = scene.dial(&config).await {
            links.push(link);
        }
    }
    let standing = async || {
        let open = links.iter().filter(|link| !link.is_closed()).count();
        (open <= 16).then_some(open)
    };
    let open = until("the router keeps no more than it should", PATIENCE, standing).await;
    assert!(open >= 10, "{open}");
}

/// The same flow again and again, from a higher epoch each time: beyond ten thousand, a thousand a second.
async fn flood_of_opens(hostile: &mut Hostile) {
    let began = Instant::now();
    for number in 0..OPENS {
        let open = FlowOpen { route: "unknown".into(), ..hostile.open(1, "flood", 5, number + 1) };
        assert!(hostile.say(Frame::Open(open)).await);
        hostile.hear().await;
    }
    eprintln!("{OPENS} Opens took {:.1} s", began.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_peer_is_cut_or_refused_and_nobody_else_notices() {
    let (mesh, source, destination) = mesh();
    let mut mesh = mesh.route(&route("hostile", "d", "b"));
    mesh.start().await;
    mesh.wait_streaming("c").await;
    let scene = Scene::over(mesh, source, destination, folder());
    let before = scene.memory("b");
    for misdeed in Misdeed::ALL {
        let (metric, reason) = misdeed.shows();
        let counted = scene.counted("b", metric, reason).await;
        misdeed.commit(&scene).await;
        // The pace shows only when enough was opened in all: after the last flood.
        if !matches!(misdeed, Misdeed::FloodOfShards) {
            scene.wait_counted("b", metric, reason, counted).await;
        }
        scene.honest_flow_keeps_up(&format!("{misdeed:?}")).await;
        let now = scene.memory("b");
        eprintln!("{misdeed:?}: {metric} by {reason}; {} MiB held", now >> 20);
        assert!(now < before + MORE_MEMORY, "{misdeed:?}: from {before} bytes to {now}");
    }
    scene.end().await;
}

/// What a destination can say that lies: each is a link on which the source's router finds somebody else than it thinks.
#[derive(Clone, Copy, Debug)]
enum Lie {
    AckBeyondWhatWasSent,
    AckOfNoFlow,
    Opens,
    FloodOfAccepts,
}

impl Lie {
    const ALL: [Self; 4] = [Self::AckBeyondWhatWasSent, Self::AckOfNoFlow, Self::Opens, Self::FloodOfAccepts];

    fn reason(self) -> &'static str {
        match self {
            Self::AckBeyondWhatWasSent => "false_ack",
            Self::AckOfNoFlow => "never_opened",
            Self::Opens => "wrong_way",
            Self::FloodOfAccepts => "flooded",
        }
    }

    /// Answers the first Open that comes over the link, and then lies.
    async fn tell(self, link: InLink) {
        let (sender, mut receiver) = link.split();
        let open = loop {
            match tokio::time::timeout(PATIENCE, receiver.recv()).await {
                Ok(Ok(Frame::Open(open))) => break open,
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        };
        let (handle, path_epoch) = (open.handle, open.path_epoch);
        let (events_limit, bytes_limit) = (u64::MAX, u64::MAX);
        let accept = Frame::Accept { handle, path_epoch, resume: None, events_limit, bytes_limit };
        let ack = |handle, durable| Frame::Ack { handle, path_epoch, durable, events_limit, bytes_limit };
        let _ = sender.send(accept.clone()).await;
        // An acknowledgement is heard only of a flow that streams.
        tokio::time::sleep(Duration::from_millis(300)).await;
        for _ in 0..1_000 {
            let lie = match self {
                Self::AckBeyondWhatWasSent => ack(handle, 1 << 40),
                Self::AckOfNoFlow => ack(9_999, 0),
                Self::Opens => Frame::Open(open.clone()),
                Self::FloodOfAccepts => accept.clone(),
            };
            if sender.send(lie).await.is_err() {
                break;
            }
        }
        let told = tokio::time::timeout(PATIENCE, sender.closed()).await.expect("the link is cut");
        eprintln!("{self:?}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_lies_is_cut_and_other_flows_go_on() {
    let (mesh, source, destination) = mesh();
    let folder = folder();
    let config = LinkConfig::new(identity(&mesh, &folder), 1);
    let mut listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), &config).expect("a listener");
    let address = listener.local_addr().expect("an address").to_string();
    let mut mesh = mesh.via("c", "d", &address).route(&route("betrayed", "c", "d"));
    mesh.start().await;
    let scene = Scene::over(mesh, source, destination, folder);
    let before = scene.memory("c");
    for lie in Lie::ALL {
        let counted = scene.counted("c", CUT, lie.reason()).await;
        let told = async {
            loop {
                let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await.expect("it is dialled again");
                if let Some(Ok(link)) = accepted {
                    lie.tell(link).await;
                }
            }
        };
        tokio::select! {
            () = told => {}
            () = scene.wait_counted("c", CUT, lie.reason(), counted) => {}
        }
        scene.honest_flow_keeps_up(&format!("{lie:?}")).await;
        let now = scene.memory("c");
        eprintln!("{lie:?}: {CUT} by {}; {} MiB held", lie.reason(), now >> 20);
        assert!(now < before + MORE_MEMORY, "{lie:?}: from {before} bytes to {now}");
    }
    drop(listener);
    scene.end().await;
}
