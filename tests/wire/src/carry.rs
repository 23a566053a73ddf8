//! The thread that is the wire: reads both devices, keeps each packet until it is due, writes it to the other.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tun_rs::SyncDevice;

use crate::namespace::MTU;
use crate::shape::{Counts, Shape};

/// Packets under way that a way holds at most: 1 Gbit/s of full ones for more than a second.
const PACKETS_MAX: usize = 1 << 17;
/// Packets that are read before the other way gets its turn.
const TURN: usize = 64;
/// How soon a wire notices that it is to end, or has a new shape.
const NAP: Duration = Duration::from_millis(20);
/// A device that takes nothing is asked again this soon.
const AGAIN: Duration = Duration::from_micros(200);

/// What the wire and its users share.
pub(crate) struct Shared {
    shapes: Mutex<[Shape; 2]>,
    counts: [Tallies; 2],
}

#[derive(Default)]
struct Tallies {
    carried: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    dropped: AtomicU64,
}

impl Shared {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { shapes: Mutex::new([shape; 2]), counts: Default::default() }
    }

    pub(crate) fn set_shape(&self, way: usize, shape: Shape) {
        self.shapes.lock().unwrap_or_else(PoisonError::into_inner)[way] = shape;
    }

    fn shapes(&self) -> [Shape; 2] {
        *self.shapes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counts(&self, way: usize) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Tallies { carried, bytes, lost, dropped } = &self.counts[way];
        Counts { carried: of(carried), bytes: of(bytes), lost: of(lost), dropped: of(dropped) }
    }
}

struct Packet {
    due: Instant,
    serial: u64,
    data: Vec<u8>,
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Packet {
    /// The greatest is due first.
    fn cmp(&self, other: &Self) -> Order {
        (other.due, other.serial).cmp(&(self.due, self.serial))
    }
}

/// One way of the wire.
struct Way<'a> {
    from: &'a SyncDevice,
    to: &'a SyncDevice,
    counts: &'a Tallies,
    under_way: BinaryHeap<Packet>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    /// When what has been taken so far is through the bottleneck.
    busy_until: Instant,
    /// Without reordering, nothing may arrive before this.
    last_due: Instant,
    serial: u64,
    random: u64,
}

/// Carries packets until told to stop.
pub(crate) fn carry(devices: &[SyncDevice; 2], shared: &Shared, stop: &AtomicBool) {
    let mut ways = [0, 1].map(|way| Way::new(&devices[way], &devices[1 - way], &shared.counts[way], way as u64));
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let next = ways.iter_mut().filter_map(|way| way.release(now)).min();
        let wait = next.map_or(NAP, |next| next.saturating_duration_since(now).min(NAP));
        let mut ready = [&devices[0], &devices[1]].map(|device| PollFd::new(device.as_fd(), PollFlags::POLLIN));
        if ppoll(&mut ready, Some(TimeSpec::from_duration(wait)), None).is_err() {
            continue;
        }
        let shapes = shared.shapes();
        for (way, shape) in ways.iter_mut().zip(&shapes) {
            way.take(shape);
        }
    }
}

impl<'a> Way<'a> {
    fn new(from: &'a SyncDevice, to: &'a SyncDevice, counts: &'a Tallies, seed: u64) -> Self {
        let now = Instant::now();
        let random = 0x9e37_79b9_7f4a_7c15 ^ (seed << 17);
        Self {
            from,
            to,
            counts,
            under_way: BinaryHeap::new(),
            spare: Vec::new(),
            busy_until: now,
            last_due: now,
            serial: 0,
            random,
        }
    }

    /// Writes what is due; says when to come again.
    fn release(&mut self, now: Instant) -> Option<Instant> {
        while let Some(first) = self.under_way.peek() {
            if first.due > now {
                return Some(first.due);
            }
            match self.to.send(&first.data) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Some(now + AGAIN),
                // The kernel takes nothing that is no IP packet; there is nobody to tell.
                Err(_) => {}
                Ok(bytes) => {
                    self.counts.carried.fetch_add(1, Ordering::Relaxed);
                    self.counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                }
            }
            if let Some(packet) = self.under_way.pop() {
                self.spare.push(packet.data);
            }
        }
        None
    }

    /// Reads what has come.
    fn take(&mut self, shape: &Shape) {
        for _ in 0..TURN {
            let mut data = self.spare.pop().unwrap_or_default();
            data.resize(usize::from(MTU), 0);
            let Ok(bytes) = self.from.recv(&mut data) else {
                self.spare.push(data);
                return;
            };
            data.truncate(bytes);
            let now = Instant::now();
            match self.due(now, bytes, shape) {
                Some(due) => {
                    self.serial += 1;
                    self.under_way.push(Packet { due, serial: self.serial, data });
                }
                None => self.spare.push(data),
            }
        }
    }

    /// When a packet that comes now arrives, if it does.
    fn due(&mut self, now: Instant, bytes: usize, shape: &Shape) -> Option<Instant> {
        if shape.cut || self.draw() < shape.loss {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.busy_until = self.busy_until.max(now);
        if self.busy_until - now > shape.queue || self.under_way.len() >= PACKETS_MAX {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.busy_until += Duration::from_secs_f64(bytes as f64 * 8e-6 / shape.rate_mbit);
        let due = self.busy_until + shape.delay + shape.jitter.mul_f64(self.draw());
        if shape.reorder {
            return Some(due);
        }
        self.last_due = self.last_due.max(due);
        Some(self.last_due)
    }

    /// From 0 to 1: xorshift, the same in every run.
    fn draw(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}
