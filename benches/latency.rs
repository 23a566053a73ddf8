//! How long does one event take through an idle mesh?
//!
//! Published over HTTP into the embedded broker of one region, received over server-sent events from the embedded broker of another:
//! two stores, each of which syncs, and one link on loopback between them. Beside it, in turns: published and received at one
//! broker, which is one store and the same HTTP; and a bare write and sync of a file in the same folder. Aim: 99 % within 5 ms beyond
//! what one store takes by itself.
#![expect(clippy::print_stdout, reason = "printing its figures is what a benchmark is for")]

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use longhaul_benches::child::Child;
use longhaul_benches::figures::{percentile_ms, verdict};
use longhaul_benches::router;
use longhaul_tests::mesh::Mesh;
use tokio::net::TcpStream;

const EVENTS: usize = 1500;
const PAYLOAD_BYTES: usize = 1024;
/// Long enough for everything to come to rest, cursors included.
const PAUSE: Duration = Duration::from_millis(8);
const AIM_MS: f64 = 5.0;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["router", document] => router::run(document.as_ref()),
        _ => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a thread").block_on(measure());
        }
    }
}

async fn measure() {
    let (mesh, near) = Mesh::new(&["near", "far"]).embedded("near", "events");
    let (mesh, far) = mesh.embedded("far", "events");
    let mesh = mesh.route(
        "name: across\nfrom: {region: near, broker: events, topics: [\"far\"]}\nto: [{region: far, broker: events}]\nstart: earliest",
    );
    mesh.write_all();
    let router =
        |region: &str| Child::start(&["router", mesh.router_document(region).to_str().expect("a plain name")]).0;
    let _routers = [router("far"), router("near")];
    let mut publisher = Publisher::connect(&near).await;
    let (mut here, mut there) = (Subscriber::connect(&near, "near").await, Subscriber::connect(&far, "far").await);
    let mut file = File::create(mesh.folder().join("sync")).expect("a file");
    for _ in 0..20 {
        publisher.time("near", &mut here).await;
        publisher.time("far", &mut there).await;
    }
    let (mut sync, mut one, mut across) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..EVENTS {
        sync.push(time_sync(&mut file));
        // An idle system is measured: one thing at a time.
        tokio::time::sleep(PAUSE).await;
        one.push(publisher.time("near", &mut here).await);
        tokio::time::sleep(PAUSE).await;
        across.push(publisher.time("far", &mut there).await);
        tokio::time::sleep(PAUSE).await;
    }
    println!("Idle latency, {EVENTS} single events of 1 KiB each{:>15} {:>9}", "p50 ms", "p99 ms");
    let print = |name: &str, samples: &mut Vec<Duration>| {
        let (p50, p99) = (percentile_ms(samples, 0.5), percentile_ms(samples, 0.99));
        println!("  {name:<55} {p50:>9.3} {p99:>9.3}");
        (p50, p99)
    };
    print("write and sync of a file", &mut sync);
    let one = print("one embedded broker, HTTP in, SSE out (one store)", &mut one);
    let across = print("embedded, router, QUIC, router, embedded (two stores)", &mut across);
    let beyond = (across.0 - one.0, across.1 - one.1);
    println!("  {:<55} {:>9.3} {:>9.3}", "beyond one store", beyond.0, beyond.1);
    println!("  {:<55} {:>9.2} {:>9.2}", "ratio to one store", across.0 / one.0, across.1 / one.1);
    println!("  aim: p99 under {AIM_MS} ms beyond one store: {}", verdict(beyond.1 < AIM_MS));
}

fn time_sync(file: &mut File) -> Duration {
    let begun = Instant::now();
    file.write_all(&[7; PAYLOAD_BYTES]).expect("the disk has room");
    file.sync_data().expect("the disk syncs");
    begun.elapsed()
}

/// A connection that publishes, one event after the other.
struct Publisher {
    sender: SendRequest<Full<Bytes>>,
}

impl Publisher {
    async fn connect(broker: &str) -> Self {
        Self { sender: connect(broker).await }
    }

    /// From the request to the subscriber.
    async fn time(&mut self, topic: &str, subscriber: &mut Subscriber) -> Duration {
        let body = Full::new(Bytes::from(vec![b'x'; PAYLOAD_BYTES]));
        let request = Request::post(format!("/v1/topics/{topic}/events"))
            .header("host", "localhost")
            .header("content-type", "text/plain");
        let request = request.body(body).expect("a plain request");
        let begun = Instant::now();
        let answered = async {
            let response = self.sender.send_request(request).await.expect("the broker answers");
            assert!(response.status().is_success(), "the broker refuses: {}", response.status());
            response.into_body().collect().await.expect("the answer is whole");
        };
        let received = async {
            subscriber.next().await;
            begun.elapsed()
        };
        // Both, since neither says anything about the other.
        futures::join!(answered, received).1
    }
}

/// A stream of server-sent events.
struct Subscriber {
    body: Incoming,
    buffer: BytesMut,
    _sender: SendRequest<Full<Bytes>>,
}

impl Subscriber {
    async fn connect(broker: &str, topic: &str) -> Self {
        let mut sender = connect(broker).await;
        let request = Request::get(format!("/v1/topics/{topic}/events?from=latest")).header("host", "localhost");
        let response = sender.send_request(request.body(Full::default()).expect("a plain request")).await;
        let body = response.expect("the broker answers").into_body();
        Self { body, buffer: BytesMut::new(), _sender: sender }
    }

    async fn next(&mut self) {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let record = self.buffer.split_to(end + 2);
                if record[..].split(|&byte| byte == b'\n').any(|line| line.starts_with(b"data:")) {
                    return;
                }
            }
            let frame = self.body.frame().await.expect("the broker goes on").expect("the broker goes on");
            self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    }
}

async fn connect(broker: &str) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(broker.trim_start_matches("http://")).await.expect("the broker listens");
    stream.set_nodelay(true).expect("TCP without delay");
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("the broker speaks HTTP");
    tokio::spawn(connection);
    sender
}
