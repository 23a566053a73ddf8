//! How much of bare QUIC is left when two routers stand in between?
//!
//! Generator, router, QUIC, router, discarding sink, against bare quinn with one stream for each parcel, in turns, each end in a process
//! of its own. Events have 1 KiB of random payload and a key of 8 bytes; only payload bytes count. Required: half of bare quinn's rate
//! (aim: 70 %), and each router below 256 MiB. Links send larger packets than quinn does by itself; what bare quinn makes of such packets
//! is printed too: the room that is left.
#![expect(clippy::print_stdout, reason = "printing its figures is what a benchmark is for")]

use std::fmt::Debug;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use longhaul_benches::child::Child;
use longhaul_benches::figures::{Spread, verdict};
use longhaul_benches::{quic, router};
use longhaul_link::MTU_MAX;
use longhaul_tests::mesh::Mesh;

const REPETITIONS: usize = 5;
const SHARDS: u32 = 4;
const WARM_UP: Duration = Duration::from_secs(2);
const WINDOW: Duration = Duration::from_secs(5);
const START_MAX: Duration = Duration::from_secs(20);
const REQUIRED: f64 = 0.5;
const AIM: f64 = 0.7;
const MEMORY_MAX: u64 = 256 << 20;

struct Run {
    bytes_per_second: f64,
    cpu_sender: f64,
    cpu_receiver: f64,
    peak_bytes: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["generate", document, shards] => router::run_generator(document.as_ref(), "load", number(shards)),
        ["discard", document] => router::run_discard(document.as_ref(), "void"),
        ["quic-receive", folder, packet] => quic::receive(folder.as_ref(), number(packet)),
        ["quic-send", folder, packet, to] => {
            quic::send(folder.as_ref(), to.parse().expect("an address"), number(packet));
        }
        [shards] => compare(number(shards)),
        _ => compare(SHARDS),
    }
}

fn number<N: FromStr<Err: Debug>>(text: &str) -> N {
    text.parse().expect("a number that fits")
}

fn compare(shards: u32) {
    let (mut bare, mut large, mut routed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        bare.push(run_bare(quic::PACKET_BYTES));
        routed.push(run_routed(shards));
        large.push(run_bare(MTU_MAX));
    }
    println!("1 KiB events on {shards} shards, {REPETITIONS} times {} s each, in turns:", WINDOW.as_secs());
    print_runs("bare quinn", &bare);
    print_runs("large packets", &large);
    print_runs("routers", &routed);
    let ratio = |anchor: &[Run]| {
        let ratios = routed.iter().zip(anchor).map(|(a, b)| a.bytes_per_second / b.bytes_per_second);
        Spread::of(&ratios.collect::<Vec<_>>())
    };
    let (of_bare, of_large) = (ratio(&bare), ratio(&large));
    let met = verdict(of_bare.median() >= REQUIRED);
    let aim = verdict(of_bare.median() >= AIM);
    println!("  ratio          {of_bare:.2}   required {REQUIRED}: {met}   aim {AIM}: {aim}");
    println!("  of large ones  {of_large:.2}");
    let peak = routed.iter().map(|run| run.peak_bytes).max().unwrap_or_default();
    println!("  largest router {:>9.1} MiB   required under 256: {}", mib(peak), verdict(peak < MEMORY_MAX));
}

fn print_runs(name: &str, runs: &[Run]) {
    let spread = |figure: &dyn Fn(&Run) -> f64| Spread::of(&runs.iter().map(figure).collect::<Vec<_>>());
    println!("  {name:<14} {:.0} MB/s", spread(&|run| run.bytes_per_second / 1e6));
    println!("    CPU, sender  {:.2} us/KiB", spread(&|run| run.cpu_sender));
    println!("    CPU, recv    {:.2} us/KiB", spread(&|run| run.cpu_receiver));
}

fn run_bare(packet_bytes: u16) -> Run {
    let folder = tempfile::tempdir().expect("a temporary folder");
    quic::write_certificate(folder.path());
    let (folder, packet) = (text(folder.path()), packet_bytes.to_string());
    let (receiver, address) = Child::start(&["quic-receive", folder, &packet]);
    let (sender, _) = Child::start(&["quic-send", folder, &packet, &address]);
    measure(&sender, receiver)
}

fn run_routed(shards: u32) -> Run {
    let (mesh, _) = Mesh::new(&["near", "far"]).embedded("near", "load");
    let (mesh, _) = mesh.embedded("far", "void");
    let mesh = mesh.route(
        "name: load\nfrom: {region: near, broker: load, topics: [\"load\"]}\nto: [{region: far, broker: void}]\nstart: earliest",
    );
    mesh.write_all();
    let (receiver, _) = Child::start(&["discard", text(&mesh.router_document("far"))]);
    let (sender, _) = Child::start(&["generate", text(&mesh.router_document("near")), &shards.to_string()]);
    measure(&sender, receiver)
}

fn measure(sender: &Child, mut receiver: Child) -> Run {
    let started = Instant::now();
    while receiver.count() == 0 {
        assert!(started.elapsed() < START_MAX, "nothing has arrived after {START_MAX:?}");
        // Two processes start when they start.
        std::thread::sleep(Duration::from_millis(20));
    }
    // The rate counts once it has been found, and for as long as the window lasts.
    std::thread::sleep(WARM_UP);
    let look = |receiver: &mut Child| (Instant::now(), receiver.count() as f64, sender.cpu(), receiver.cpu());
    let before = look(&mut receiver);
    std::thread::sleep(WINDOW);
    let after = look(&mut receiver);
    let bytes = after.1 - before.1;
    let per_kib = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / (bytes / 1024.0);
    Run {
        bytes_per_second: bytes / (after.0 - before.0).as_secs_f64(),
        cpu_sender: per_kib(before.2, after.2),
        cpu_receiver: per_kib(before.3, after.3),
        peak_bytes: sender.peak_bytes().max(receiver.peak_bytes()),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
