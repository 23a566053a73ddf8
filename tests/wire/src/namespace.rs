//! Network namespaces without a name, entered by threads.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// What most networks carry.
pub(crate) const MTU: u16 = 1500;
/// Packets that may wait until the wire reads them: its queue is the one that counts.
const DEVICE_QUEUE: u32 = 10_000;
const PREFIX: u8 = 30;
/// What TCP may buffer inside, so that one connection fills 1 Gbit/s over 200 ms.
const TCP_BUFFERS: &str = "4096 1048576 67108864";

/// A namespace, alive as long as this is, or a socket or process inside it.
pub(crate) struct Namespace(File);

impl Namespace {
    /// A new one, with a device of this address whose packets we read.
    pub(crate) fn with_device(address: Ipv4Addr) -> Result<(Self, SyncDevice), String> {
        // A thread of its own: nothing else may find itself elsewhere.
        std::thread::scope(|scope| scope.spawn(|| make(address)).join())
            .unwrap_or_else(|_| Err("a thread panicked".into()))
    }

    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("who made a namespace may enter it");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn make(address: Ipv4Addr) -> Result<(Namespace, SyncDevice), String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace: {error}"))?;
    let namespace =
        File::open("/proc/thread-self/ns/net").map_err(|error| format!("/proc/thread-self/ns/net: {error}"))?;
    let device = DeviceBuilder::new()
        .name("wire")
        .layer(Layer::L3)
        .ipv4(address, PREFIX, None)
        .mtu(MTU)
        .with(|device| {
            device.tx_queue_len(DEVICE_QUEUE).packet_information(false);
        })
        .build_sync()
        .map_err(|error| format!("no TUN device: {error}"))?;
    device.set_nonblocking(true).map_err(|error| format!("TUN device: {error}"))?;
    let loopback = Command::new("ip").args(["link", "set", "lo", "up"]).output();
    let loopback = loopback.map_err(|error| format!("ip, of iproute2: {error}"))?;
    if !loopback.status.success() {
        return Err(format!("ip link set lo up: {}", String::from_utf8_lossy(&loopback.stderr)));
    }
    for file in ["tcp_rmem", "tcp_wmem"] {
        // Only TCP beside us profits, and only in benchmarks.
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/{file}"), TCP_BUFFERS);
    }
    Ok((Namespace(namespace), device))
}
