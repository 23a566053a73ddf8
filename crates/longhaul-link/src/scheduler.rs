//! Which batches go into the next parcel. Pure: batches in, parcels out; no clock, no socket.
//!
//! Within a class, flows take turns by deficit round robin, so that bytes are shared evenly whatever the sizes of batches. Between
//! classes, `realtime` goes before `normal` before `catch-up`, but a class that waits is owed a twentieth of what the others send.
//! Full is a value: [`Offer::Full`] hands the batch back.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use longhaul_topology::Class;

/// Largest parcel of several batches.
pub(crate) const PARCEL_BYTES_MAX: usize = 256 * 1024;
/// Most parcels open at a time on one link. On a path that loses one packet in a hundred, a parcel stays open for more than two round trips:
/// so many of them keep 1 Gbit/s going over 80 ms.
pub(crate) const PARCELS_OPEN_MAX: usize = 192;
/// A flow that has less than this queued may queue another batch. That is more than one parcel takes, so a flow with a backlog keeps
/// its place among its likes.
const FLOW_QUEUE_BYTES_MAX: usize = 256 * 1024;
/// What a flow may send in one turn.
const QUANTUM_BYTES: usize = 64 * 1024;
/// A waiting class is owed one byte for so many that others send: a little over a twentieth of all.
const OWED_ONE_IN: usize = 16;
/// So much must be owed before it is paid, to keep parcels large.
const OWED_PAY_BYTES: i64 = 32 * 1024;
/// What is kept free for more urgent classes, in open parcels and in open bytes, per class step.
const RESERVE_PARCELS: usize = 8;
const RESERVE_BYTES: usize = 256 * 1024;
const CLASSES: usize = 3;

/// Whether a batch was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// It is queued.
    Taken,
    /// The queue of its flow is full; here it is again.
    Full(Bytes),
}

/// How much is on its way already, and how much may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// Bytes in parcels that the peer has not yet acknowledged.
    pub open_bytes: usize,
    /// Number of such parcels.
    pub open_parcels: usize,
    /// What may be open: enough to fill the path.
    pub budget_bytes: usize,
}

/// What goes out as one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// The class of its batches.
    pub class: Class,
    /// Its class was owed: it must not stand back behind more urgent parcels once more.
    pub owed: bool,
    /// The batches, in order.
    pub batches: Vec<Bytes>,
    /// Their bytes together.
    pub bytes: usize,
    /// The flows that now have room in their queues.
    pub flows: Vec<u32>,
}

/// The queues of one link.
#[derive(Debug, Default)]
pub struct Scheduler {
    flows: HashMap<u32, Flow>,
    classes: [Turns; CLASSES],
    queued_bytes: usize,
}

#[derive(Debug)]
struct Flow {
    class: Class,
    batches: VecDeque<Bytes>,
    bytes: usize,
    deficit: usize,
    /// Its quantum for the present turn is in the deficit already.
    granted: bool,
}

#[derive(Debug, Default)]
struct Turns {
    /// Flows with something queued; the first one's turn it is.
    active: VecDeque<u32>,
    /// What this class is owed; negative when it was paid more than that.
    owed: i64,
}

/// All classes, the most urgent first.
const BY_URGENCY: [Class; CLASSES] = [Class::Realtime, Class::Normal, Class::CatchUp];

/// The number that stands for a class in a `FlowOpen`.
#[must_use]
pub fn class_to_wire(class: Class) -> u8 {
    match class {
        Class::Realtime => 0,
        Class::Normal => 1,
        Class::CatchUp => 2,
    }
}

/// The class that a number in a `FlowOpen` stands for; an unknown one is taken for the least urgent.
#[must_use]
pub fn class_from_wire(number: u8) -> Class {
    match number {
        0 => Class::Realtime,
        1 => Class::Normal,
        _ => Class::CatchUp,
    }
}

fn index(class: Class) -> usize {
    usize::from(class_to_wire(class))
}

impl Gate {
    /// Whether another parcel of that class may be opened. The first always may.
    fn admits(&self, class: Class) -> bool {
        let step = index(class);
        let steps_above = CLASSES - 1 - step;
        self.open_parcels == 0
            || (self.open_parcels < PARCELS_OPEN_MAX - RESERVE_PARCELS * step
                && self.open_bytes < self.budget_bytes + RESERVE_BYTES * steps_above)
    }
}

impl Scheduler {
    /// Queues a batch behind the others of its flow, or hands it back when that queue is full. As long as a flow has batches queued, it
    /// stays in the class of the first.
    pub fn offer(&mut self, handle: u32, class: Class, batch: Bytes) -> Offer {
        let flow = self.flows.entry(handle).or_insert_with(|| Flow {
            class,
            batches: VecDeque::new(),
            bytes: 0,
            deficit: 0,
            granted: false,
        });
        if flow.batches.is_empty() {
            self.classes[index(class)].active.push_back(handle);
        } else if flow.bytes >= FLOW_QUEUE_BYTES_MAX {
            return Offer::Full(batch);
        }
        flow.bytes += batch.len();
        self.queued_bytes += batch.len();
        flow.batches.push_back(batch);
        Offer::Taken
    }

    /// Drops what a flow has queued; says how many bytes that were.
    pub fn cancel(&mut self, handle: u32) -> usize {
        let Some(flow) = self.flows.remove(&handle) else { return 0 };
        self.classes[index(flow.class)].active.retain(|&other| other != handle);
        self.queued_bytes -= flow.bytes;
        flow.bytes
    }

    /// Bytes that are queued in all.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// The next parcel, if something is queued and the gate is open for it.
    pub fn next_parcel(&mut self, gate: &Gate) -> Option<Parcel> {
        let (class, owed) = self.choose(gate)?;
        let parcel = self.fill(class, owed);
        self.settle(&parcel);
        Some(parcel)
    }

    /// A class that is owed enough goes first and through the gate of the most urgent; else the most urgent that waits.
    fn choose(&self, gate: &Gate) -> Option<(Class, bool)> {
        let waits = |class: &Class| !self.classes[index(*class)].active.is_empty();
        let owed = |class: &Class| self.classes[index(*class)].owed >= OWED_PAY_BYTES;
        let mut waiting = BY_URGENCY.into_iter().filter(waits);
        if gate.admits(Class::Realtime)
            && let Some(class) = waiting.clone().skip(1).find(owed)
        {
            return Some((class, true));
        }
        waiting.next().filter(|&class| gate.admits(class)).map(|class| (class, false))
    }

    fn fill(&mut self, class: Class, owed: bool) -> Parcel {
        let mut parcel = Parcel { class, owed, batches: Vec::new(), bytes: 0, flows: Vec::new() };
        let active = &mut self.classes[index(class)].active;
        while let Some(&handle) = active.front() {
            let flow = self.flows.get_mut(&handle).expect("a flow whose turn it is has a queue");
            if flow.fill(handle, &mut parcel) == Turn::ParcelFull {
                break;
            }
            active.pop_front();
            if flow.batches.is_empty() {
                self.flows.remove(&handle);
            } else {
                active.push_back(handle);
            }
        }
        // The flow that was stopped by the end of the parcel may have nothing left.
        if let Some(&handle) = active.front()
            && self.flows.get(&handle).is_some_and(|flow| flow.batches.is_empty())
        {
            active.pop_front();
            self.flows.remove(&handle);
        }
        self.queued_bytes -= parcel.bytes;
        parcel
    }

    /// Books what the parcel means for the other classes.
    fn settle(&mut self, parcel: &Parcel) {
        let bytes = i64::try_from(parcel.bytes).unwrap_or(i64::MAX);
        let share = i64::try_from(parcel.bytes / OWED_ONE_IN).unwrap_or(i64::MAX);
        for class in BY_URGENCY {
            let turns = &mut self.classes[index(class)];
            turns.owed = match (turns.active.is_empty(), class == parcel.class) {
                (_, true) if parcel.owed => turns.owed - bytes,
                // Nothing is saved up by who does not wait; what was paid too much stays.
                (true, _) | (false, true) => turns.owed.min(0),
                (false, false) => turns.owed + share,
            };
        }
    }
}

/// How the turn of a flow ended.
#[derive(PartialEq, Eq)]
enum Turn {
    Over,
    ParcelFull,
}

impl Flow {
    fn fill(&mut self, handle: u32, parcel: &mut Parcel) -> Turn {
        if !self.granted {
            self.deficit += QUANTUM_BYTES;
            self.granted = true;
        }
        while let Some(len) = self.batches.front().map(Bytes::len).filter(|&len| len <= self.deficit) {
            if !parcel.batches.is_empty() && parcel.bytes + len > PARCEL_BYTES_MAX {
                return Turn::ParcelFull;
            }
            self.take(handle, parcel);
            if parcel.bytes >= PARCEL_BYTES_MAX {
                return Turn::ParcelFull;
            }
        }
        self.granted = false;
        Turn::Over
    }

    fn take(&mut self, handle: u32, parcel: &mut Parcel) {
        let Some(batch) = self.batches.pop_front() else { return };
        self.deficit -= batch.len();
        self.bytes -= batch.len();
        parcel.bytes += batch.len();
        parcel.batches.push(batch);
        if parcel.flows.last() != Some(&handle) {
            parcel.flows.push(handle);
        }
    }
}

#[cfg(test)]
mod tests;
