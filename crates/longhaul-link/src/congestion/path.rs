//! A path in made-up time: senders that pace and detect losses as quinn does, one bottleneck with a drop-tail queue, random loss, jitter.
//!
//! Start with [`Net`]. Everything follows from the seed; nothing waits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use super::Instant;
use super::model::Model;

pub(super) const MTU: u64 = 1400;
/// Of quinn: how much later than its successors a packet may come.
const PACKET_THRESHOLD: u64 = 3;

/// What a sender asks of its congestion control.
pub(super) trait Control {
    fn sent(&mut self, now: Instant, bytes: u64);
    fn acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64, limited: bool, srtt: Duration);
    fn end_acknowledged(&mut self, now: Instant, in_flight: u64, limited: bool);
    fn lost(&mut self, now: Instant, sent: Instant, persistent: bool, bytes: u64);
    fn window(&self) -> u64;
    /// Bytes per second, of those that pace by themselves.
    fn pace(&self) -> Option<f64> {
        None
    }
}

impl Control for Model {
    fn sent(&mut self, now: Instant, bytes: u64) {
        Self::sent(self, now, bytes);
    }
    fn acknowledged(&mut self, _now: Instant, sent: Instant, bytes: u64, limited: bool, srtt: Duration) {
        Self::acknowledged(self, sent, bytes, limited, srtt);
    }
    fn end_acknowledged(&mut self, now: Instant, in_flight: u64, limited: bool) {
        Self::end_acknowledged(self, now, in_flight, limited);
    }
    fn lost(&mut self, now: Instant, sent: Instant, persistent: bool, bytes: u64) {
        Self::lost(self, now, sent, persistent, bytes);
    }
    fn window(&self) -> u64 {
        quinn_proto::congestion::Controller::window(self)
    }
}

/// What lies between the senders and their receivers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    pub(super) mbit: f64,
    pub(super) rtt_ms: f64,
    pub(super) queue_ms: f64,
    /// Share of packets that is lost at random.
    pub(super) loss: f64,
    /// Each packet is late by up to this much, and may be overtaken.
    pub(super) jitter_ms: f64,
    pub(super) cut: bool,
    pub(super) packet_threshold: u64,
}

impl Path {
    pub(super) fn new(mbit: f64, rtt_ms: f64, queue_ms: f64) -> Self {
        Self { mbit, rtt_ms, queue_ms, loss: 0.0, jitter_ms: 0.0, cut: false, packet_threshold: PACKET_THRESHOLD }
    }
}

enum Event {
    Arrival { flow: usize, number: u64 },
    Acks { flow: usize, numbers: Vec<u64> },
    LateAck { flow: usize, number: u64 },
    Wake { flow: usize },
    Timeout { flow: usize, armed: u64 },
}

struct Sender {
    control: Box<dyn Control>,
    under_way: BTreeMap<u64, Instant>,
    next: u64,
    srtt: Option<f64>,
    rttvar: f64,
    tokens: f64,
    tokens_at: Instant,
    wake: Option<Instant>,
    largest_acked: u64,
    last_ack: Instant,
    armed: u64,
    timeouts: u32,
    /// Received, unacknowledged.
    pending: Vec<u64>,
    app_rate: Option<f64>,
    app_tokens: f64,
    app_at: Instant,
    limited: bool,
    got: Got,
}

/// What a sender got, since last asked.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Got {
    pub(super) delivered: u64,
    pub(super) sent: u64,
    pub(super) lost: u64,
    rtt_sum: f64,
    acks: u64,
    seconds: f64,
}

impl Got {
    pub(super) fn mbit(&self) -> f64 {
        self.delivered as f64 * 8e-6 / self.seconds
    }
    pub(super) fn lost_share(&self) -> f64 {
        self.lost as f64 / (self.sent.max(1)) as f64
    }
    pub(super) fn rtt_ms(&self) -> f64 {
        self.rtt_sum * 1e3 / self.acks.max(1) as f64
    }
}

/// Senders that share one path.
pub(super) struct Net {
    pub(super) path: Path,
    pub(super) now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    slots: Vec<Option<Event>>,
    free: Vec<usize>,
    serial: u64,
    senders: Vec<Sender>,
    busy_until: Instant,
    seed: u64,
}

impl Net {
    pub(super) fn new(path: Path, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            path,
            now,
            events: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            serial: 0,
            senders: Vec::new(),
            busy_until: now,
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    pub(super) fn model(&mut self) -> usize {
        let model = Model::new(self.now, MTU as u16);
        self.sender(Box::new(model))
    }

    pub(super) fn sender(&mut self, control: Box<dyn Control>) -> usize {
        let now = self.now;
        self.senders.push(Sender {
            control,
            under_way: BTreeMap::new(),
            next: 1,
            srtt: None,
            rttvar: 0.0,
            tokens: 10.0 * MTU as f64,
            tokens_at: now,
            wake: None,
            largest_acked: 0,
            last_ack: now,
            armed: 0,
            timeouts: 0,
            pending: Vec::new(),
            app_rate: None,
            app_tokens: 0.0,
            app_at: now,
            limited: false,
            got: Got::default(),
        });
        let flow = self.senders.len() - 1;
        self.push(now, Event::Wake { flow });
        flow
    }

    /// From now on this sender has only so much to send.
    pub(super) fn limit(&mut self, flow: usize, mbit: Option<f64>) {
        let now = self.now;
        let sender = &mut self.senders[flow];
        sender.app_rate = mbit.map(|mbit| mbit * 125_000.0);
        sender.app_at = now;
        sender.app_tokens = 0.0;
        self.push(now, Event::Wake { flow });
    }

    pub(super) fn window(&self, flow: usize) -> u64 {
        self.senders[flow].control.window()
    }

    /// Lets that much time pass, and says what each sender got in it.
    pub(super) fn run(&mut self, time: Duration) -> Vec<Got> {
        let end = self.now + time;
        for sender in &mut self.senders {
            sender.got = Got::default();
        }
        while let Some(Reverse((at, _, _))) = self.events.peek() {
            if *at > end {
                break;
            }
            let Some(Reverse((at, _, slot))) = self.events.pop() else { break };
            self.now = at;
            let event = self.slots[slot].take().expect("a slot is full until its event comes");
            self.free.push(slot);
            self.handle(event);
        }
        self.now = end;
        let seconds = time.as_secs_f64();
        self.senders.iter().map(|sender| Got { seconds, ..sender.got }).collect()
    }

    fn push(&mut self, at: Instant, event: Event) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(event);
        self.serial += 1;
        self.events.push(Reverse((at, self.serial, slot)));
    }

    fn random(&mut self) -> f64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) as f64 / (1u64 << 53) as f64
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wake { flow } => {
                self.senders[flow].wake = None;
                self.send(flow);
            }
            Event::Arrival { flow, number } => {
                let pending = &mut self.senders[flow].pending;
                pending.push(number);
                if pending.len() >= 2 {
                    let numbers = std::mem::take(pending);
                    self.acknowledge(flow, numbers);
                } else {
                    self.push(self.now + Duration::from_millis(25), Event::LateAck { flow, number });
                }
            }
            Event::LateAck { flow, number } => {
                if self.senders[flow].pending.first() == Some(&number) {
                    let numbers = std::mem::take(&mut self.senders[flow].pending);
                    self.acknowledge(flow, numbers);
                }
            }
            Event::Acks { flow, numbers } => self.acked(flow, &numbers),
            Event::Timeout { flow, armed } => {
                let sender = &mut self.senders[flow];
                if sender.armed == armed && !sender.under_way.is_empty() {
                    sender.timeouts += 1;
                    self.transmit(flow, 1);
                    self.arm(flow);
                }
            }
        }
    }

    fn acknowledge(&mut self, flow: usize, numbers: Vec<u64>) {
        if !self.path.cut {
            let back = Duration::from_secs_f64(self.path.rtt_ms / 2e3);
            self.push(self.now + back, Event::Acks { flow, numbers });
        }
    }

    fn arm(&mut self, flow: usize) {
        let sender = &mut self.senders[flow];
        sender.armed += 1;
        let pto =
            (sender.srtt.unwrap_or(0.1) + 4.0 * sender.rttvar + 0.025) * f64::from(1u32 << sender.timeouts.min(10));
        let (at, armed) = (self.now + Duration::from_secs_f64(pto), sender.armed);
        self.push(at, Event::Timeout { flow, armed });
    }

    fn send(&mut self, flow: usize) {
        let now = self.now;
        let sender = &mut self.senders[flow];
        let window = sender.control.window();
        let rate = sender.control.pace().unwrap_or(1.25 * window as f64 / sender.srtt.unwrap_or(0.1));
        let capacity = (rate * 0.002).clamp(10.0 * MTU as f64, 256.0 * MTU as f64);
        sender.tokens = (sender.tokens + (now - sender.tokens_at).as_secs_f64() * rate).min(capacity);
        sender.tokens_at = now;
        if let Some(app) = sender.app_rate {
            sender.app_tokens = (sender.app_tokens + (now - sender.app_at).as_secs_f64() * app).min(64.0 * 1024.0);
            sender.app_at = now;
        }
        let mut count = 0;
        let in_flight = sender.under_way.len() as u64 * MTU;
        sender.limited = false;
        loop {
            if in_flight + (count + 1) * MTU >= window {
                break;
            }
            if sender.app_rate.is_some() && sender.app_tokens < MTU as f64 {
                sender.limited = true;
                if sender.wake.is_none() {
                    let at = now + Duration::from_millis(1);
                    sender.wake = Some(at);
                    self.push(at, Event::Wake { flow });
                }
                break;
            }
            if sender.tokens < MTU as f64 {
                if sender.wake.is_none() {
                    let at = now + Duration::from_secs_f64(((capacity - sender.tokens) / rate).max(1e-6));
                    sender.wake = Some(at);
                    self.push(at, Event::Wake { flow });
                }
                break;
            }
            sender.tokens -= MTU as f64;
            sender.app_tokens -= MTU as f64;
            count += 1;
        }
        if count > 0 {
            self.transmit(flow, count);
            self.arm(flow);
        }
    }

    fn transmit(&mut self, flow: usize, count: u64) {
        let now = self.now;
        self.senders[flow].control.sent(now, count * MTU);
        for _ in 0..count {
            let sender = &mut self.senders[flow];
            let number = sender.next;
            sender.next += 1;
            sender.under_way.insert(number, now);
            sender.got.sent += MTU;
            self.busy_until = self.busy_until.max(now);
            let queued = (self.busy_until - now).as_secs_f64() * 1e3;
            let dropped = self.random() < self.path.loss;
            if self.path.cut || dropped || queued > self.path.queue_ms {
                continue;
            }
            self.busy_until += Duration::from_secs_f64(MTU as f64 / (self.path.mbit * 125_000.0));
            let late = if self.path.jitter_ms > 0.0 { self.random() * self.path.jitter_ms } else { 0.0 };
            let at = self.busy_until + Duration::from_secs_f64((self.path.rtt_ms / 2.0 + late) / 1e3);
            self.push(at, Event::Arrival { flow, number });
        }
    }

    fn acked(&mut self, flow: usize, numbers: &[u64]) {
        let now = self.now;
        let threshold = self.path.packet_threshold;
        let sender = &mut self.senders[flow];
        let mut newest = None;
        for number in numbers {
            if let Some(sent) = sender.under_way.remove(number) {
                sender.largest_acked = sender.largest_acked.max(*number);
                let srtt = Duration::from_secs_f64(sender.srtt.unwrap_or(0.1));
                sender.control.acknowledged(now, sent, MTU, sender.limited, srtt);
                sender.got.delivered += MTU;
                newest = newest.max(Some(sent));
            }
        }
        let Some(newest) = newest else { return };
        let in_flight = sender.under_way.len() as u64 * MTU;
        sender.control.end_acknowledged(now, in_flight, sender.limited);
        let rtt = (now - newest).as_secs_f64();
        sender.got.rtt_sum += rtt;
        sender.got.acks += 1;
        let srtt = *sender.srtt.get_or_insert(rtt);
        sender.rttvar = 0.75 * sender.rttvar + 0.25 * (srtt - rtt).abs();
        sender.srtt = Some(0.875 * srtt + 0.125 * rtt);
        sender.timeouts = 0;
        let patience = Duration::from_secs_f64(1.125 * srtt.max(rtt));
        let lost: Vec<(u64, Instant)> = sender
            .under_way
            .range(..sender.largest_acked)
            .take_while(|(number, sent)| **number + threshold <= sender.largest_acked || now - **sent >= patience)
            .map(|(number, sent)| (*number, *sent))
            .collect();
        if let (Some((_, first)), Some((_, last))) = (lost.first(), lost.last()) {
            let pto = srtt + 4.0 * sender.rttvar + 0.025;
            let persistent =
                (*last - *first).as_secs_f64() > 3.0 * pto && sender.last_ack < *first + Duration::from_secs_f64(srtt);
            for (number, _) in &lost {
                sender.under_way.remove(number);
            }
            let bytes = lost.len() as u64 * MTU;
            sender.got.lost += bytes;
            sender.control.lost(now, *last, persistent, bytes);
        }
        sender.last_ack = now;
        self.arm(flow);
        self.send(flow);
    }
}
