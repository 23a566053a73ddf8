//! A peer that vanishes is noticed, one that comes back is met again.

use std::{
    net::SocketAddr,
    sync::mpsc,
    time::{Duration, Instant},
};

use longhaul_link::{Dialer, LinkConfig, LinkError, Listener, WindowHint};

use crate::support::{Mesh, listen, meet, pair, within};

/// A listener in a runtime of its own, that can be taken away without a word, as by a kill.
struct Doomed {
    runtime: tokio::runtime::Runtime,
    addr: SocketAddr,
}

impl Doomed {
    fn start(config: &LinkConfig, addr: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (config, (sender, receiver)) = (config.clone(), mpsc::channel());
        runtime.spawn(async move {
            let mut listener = Listener::bind(addr, &config).unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let mut links = Vec::new();
            while let Some(link) = listener.accept().await {
                links.extend(link.ok());
            }
        });
        Self { runtime, addr: receiver.recv().unwrap() }
    }

    fn kill(self) -> SocketAddr {
        // Tasks are dropped and not run again, so nothing is said: no close leaves the machine.
        self.runtime.shutdown_background();
        self.addr
    }
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[test]
fn a_peer_that_vanishes_is_noticed_and_met_again_when_it_is_back() {
    let mesh = Mesh::new("earth");
    let config = mesh.config("us", "us-1");
    let doomed = Doomed::start(&config, anywhere());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let dialer = Dialer::new(&mesh.config("eu", "eu-1")).unwrap();
        let mut out = within(dialer.dial(doomed.addr, "us", WindowHint::default())).await.unwrap();
        // The socket of the killed listener is gone with its runtime; packets to it are answered by nobody, or by the kernel.
        let (addr, killed) = (doomed.kill(), Instant::now());
        let ended = within(out.recv()).await.unwrap_err();
        assert!(killed.elapsed() < Duration::from_secs(4), "{ended} after {:?}", killed.elapsed());
        assert!(matches!(ended, LinkError::Dead | LinkError::ClosedByPeer { .. }), "{ended}");
        let back = Doomed::start(&config, addr);
        let again = within(dialer.dial(back.addr, "us", WindowHint::default())).await.unwrap();
        assert!(!again.is_closed());
        back.kill();
    });
}

#[test]
fn a_peer_that_was_started_anew_says_that_it_does_not_know_the_link() {
    let mesh = Mesh::new("earth");
    let config = mesh.config("us", "us-1");
    let doomed = Doomed::start(&config, anywhere());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let dialer = Dialer::new(&mesh.config("eu", "eu-1")).unwrap();
        let mut out = within(dialer.dial(doomed.addr, "us", WindowHint::default())).await.unwrap();
        let (addr, killed) = (doomed.kill(), Instant::now());
        // The kernel frees the port when the last task of the killed runtime is gone, which nothing tells.
        while std::net::UdpSocket::bind(addr).is_err() {
            std::thread::yield_now();
        }
        let back = Doomed::start(&config, addr);
        let ended = within(out.recv()).await.unwrap_err();
        assert_eq!(ended, LinkError::PeerRestarted, "after {:?}", killed.elapsed());
        assert!(
            killed.elapsed() < Duration::from_millis(2500),
            "before silence would have told: {:?}",
            killed.elapsed()
        );
        back.kill();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_is_dead_after_three_seconds() {
    let mesh = Mesh::new("earth");
    let (mut listener, addr) = listen(&mesh.config("us", "us-1"));
    // A peer whose QUIC lives on but which says nothing after its Hello.
    let (endpoint, client) = crate::garbage::foreign(&mesh.config("eu", "eu-1"));
    let connection = endpoint.connect_with(client, addr, "longhaul").unwrap().await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&crate::garbage::hello(&mesh.config("eu", "eu-1"))).await.unwrap();
    let (_sender, mut receiver) = within(listener.accept()).await.unwrap().unwrap().split();
    let met = Instant::now();
    assert_eq!(within(receiver.recv()).await, Err(LinkError::Dead));
    assert!((2500..4000).contains(&met.elapsed().as_millis()), "after {:?}", met.elapsed());
    let told = within(connection.closed()).await;
    assert!(told.to_string().contains("no sign of life"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_an_idle_link_and_measure_it() {
    let pair = pair().await;
    // Real time is what this is about: longer than the three seconds after which silence is death.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!pair.out.is_closed());
    let stats = pair.out.stats();
    assert!(stats.heartbeat_rtt > Duration::ZERO && stats.heartbeat_rtt < Duration::from_secs(1), "{stats:?}");
    assert!(stats.bytes_sent > 0 && stats.bytes_received > 0 && stats.cwnd > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_home_is_an_error_in_time() {
    let mesh = Mesh::new("earth");
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let dialer = Dialer::new(&mesh.config("eu", "eu-1")).unwrap();
    let error = within(dialer.dial(silent.local_addr().unwrap(), "us", WindowHint::default())).await.err().unwrap();
    assert_eq!(error.cause(), &LinkError::TimedOut);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_was_closed_is_met_again_at_once() {
    let mesh = Mesh::new("earth");
    let (mut listener, _) = listen(&mesh.config("us", "us-1"));
    let dialling = mesh.config("eu", "eu-1");
    for _ in 0..5 {
        let (out, incoming) = meet(&dialling, "us", &mut listener).await;
        let (out, _incoming) = (out.unwrap(), incoming.unwrap());
        out.close("again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_task_outlives_its_link() {
    let mesh = Mesh::new("earth");
    let (mut listener, addr) = listen(&mesh.config("us", "us-1"));
    let dialer = Dialer::new(&mesh.config("eu", "eu-1")).unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for nth in 0..4 {
        let (out, incoming) = tokio::join!(dialer.dial(addr, "us", WindowHint::default()), listener.accept());
        let (out, (incoming, mut receiver)) = (out.unwrap(), incoming.unwrap().unwrap().split());
        let inbox = std::sync::Arc::new(crate::support::Inbox::default());
        receiver.run_parcels(inbox.clone());
        out.submit(1, longhaul_link::Class::Normal, crate::support::batch(1, 1, 10)).await.unwrap();
        inbox.until(|seen| seen.len() == 1).await;
        assert!(tasks() > before);
        // Ended by either end, with a close or by being forgotten.
        match nth {
            0 => out.close("done"),
            1 => incoming.close("done"),
            2 => drop(out),
            _ => drop(receiver),
        }
    }
    // QUIC keeps a closed connection for three probe timeouts; there is nothing to wait on for its end but time.
    within(async {
        while tasks() > before {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
