//! The wire keeps what its shape says, each way for itself.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by where it stops")]

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use longhaul_test_wire::{End, Shape, Wire, wire_or_skip};

const DELAY: Duration = Duration::from_millis(40);
const QUEUE: Duration = Duration::from_millis(50);

fn shape() -> Shape {
    Shape::new(100.0, DELAY, QUEUE)
}

fn socket(end: &End) -> UdpSocket {
    end.within(|| {
        let socket = UdpSocket::bind((end.address(), 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    })
}

fn pair(wire: &Wire) -> (UdpSocket, UdpSocket) {
    let (near, far) = (socket(wire.near()), socket(wire.far()));
    near.connect(far.local_addr().unwrap()).unwrap();
    far.connect(near.local_addr().unwrap()).unwrap();
    (near, far)
}

/// Sends numbered packets and returns the numbers that arrive.
fn flood(from: &UdpSocket, to: &UdpSocket, count: u32, pause: Duration) -> Vec<u32> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut packet = [0; 1000];
            for number in 0..count {
                packet[..4].copy_from_slice(&number.to_le_bytes());
                from.send(&packet).unwrap();
                if !pause.is_zero() {
                    // The sender's rate is part of the question.
                    std::thread::sleep(pause);
                }
            }
        });
        let mut packet = [0; 1000];
        let mut arrived = Vec::new();
        while to.recv(&mut packet).is_ok() {
            arrived.push(u32::from_le_bytes(*packet.first_chunk().unwrap()));
        }
        arrived
    })
}

#[test]
fn a_packet_takes_the_delay_each_way() {
    let Some(wire) = wire_or_skip("a_packet_takes_the_delay_each_way", shape()) else { return };
    let (near, far) = pair(&wire);
    let sent = Instant::now();
    near.send(b"ping").unwrap();
    let mut buffer = [0; 16];
    assert_eq!(far.recv(&mut buffer).unwrap(), 4);
    assert!(sent.elapsed() >= DELAY, "{:?}", sent.elapsed());
    far.send(b"pong").unwrap();
    near.recv(&mut buffer).unwrap();
    let there_and_back = sent.elapsed();
    assert!(there_and_back >= 2 * DELAY && there_and_back < 4 * DELAY, "{there_and_back:?}");
}

#[test]
fn loss_is_as_asked_and_order_is_kept() {
    let Some(wire) = wire_or_skip("loss_is_as_asked_and_order_is_kept", shape().with_loss(0.1)) else { return };
    let (near, far) = pair(&wire);
    let arrived = flood(&near, &far, 4000, Duration::from_micros(100));
    assert!((3400..=3800).contains(&arrived.len()), "{} of 4000", arrived.len());
    assert!(arrived.is_sorted());
}

#[test]
fn a_full_queue_drops_and_a_rate_holds() {
    let Some(wire) = wire_or_skip("a_full_queue_drops_and_a_rate_holds", shape()) else { return };
    let (near, far) = pair(&wire);
    // 100 Mbit/s and 50 ms hold about 608 packets of 1028 bytes; more come through only as fast as the wire is.
    let arrived = flood(&near, &far, 2000, Duration::ZERO);
    let [there, _] = wire.counts();
    assert!(there.dropped > 0, "{there:?}");
    assert!((550..2000).contains(&arrived.len()), "{}", arrived.len());
    assert!(arrived.is_sorted());
}

#[test]
fn jitter_reorders_only_if_it_may() {
    let jitter = Shape { jitter: Duration::from_millis(10), ..shape() };
    let Some(wire) = wire_or_skip("jitter_reorders_only_if_it_may", jitter) else { return };
    let (near, far) = pair(&wire);
    assert!(flood(&near, &far, 300, Duration::from_micros(100)).is_sorted());
    wire.reshape(Shape { reorder: true, ..jitter });
    let arrived = flood(&near, &far, 300, Duration::from_micros(100));
    assert_eq!(arrived.len(), 300);
    assert!(!arrived.is_sorted());
}

#[test]
fn one_way_can_be_cut_and_healed() {
    let Some(wire) = wire_or_skip("one_way_can_be_cut_and_healed", shape()) else { return };
    let (near, far) = pair(&wire);
    wire.reshape_there(shape().cut());
    assert!(flood(&near, &far, 5, Duration::ZERO).is_empty());
    assert_eq!(flood(&far, &near, 5, Duration::ZERO).len(), 5);
    wire.reshape_there(shape());
    assert_eq!(flood(&near, &far, 5, Duration::ZERO).len(), 5);
}
