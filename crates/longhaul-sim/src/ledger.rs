//! What is true, whatever the routers believe: every record, where it has been, where it must go, where it is. All checks of
//! delivery, order, duplicates, loops and release stand here. Refuses to know provenance bytes, epochs or credit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use longhaul_event::provenance::{DEPTH_MAX, HOPS_MAX};
use longhaul_event::{Event, EventId, Identity};

use crate::plan::{Kind, Plan};

/// A record of any broker, numbered in the order in which they came to be: within a shard that is the order of the shard.
pub(crate) type Uid = usize;

/// A violated check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which check.
    pub check: &'static str,
    /// What was seen.
    pub detail: String,
}

/// What a record is, beside what is in it.
#[derive(Debug, Clone)]
pub(crate) struct Truth {
    /// Stands for key and payload: equal contents share it.
    pub token: u64,
    pub broker: usize,
    pub content: Content,
    /// What its provenance says, if it has one.
    pub stored: Option<Stored>,
}

/// What must arrive as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub topic: String,
    pub key: Option<Bytes>,
    pub payload: Option<Bytes>,
    pub time_ms: i64,
}

/// The meaning of a provenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The content that it is bound to.
    pub token: u64,
    /// Brokers where that content has been, the first read one first.
    pub path: Vec<usize>,
    pub depth: u8,
}

#[derive(Debug, Default)]
struct Book {
    /// What must still be delivered.
    missing: BTreeSet<Uid>,
    /// What is at the destination: how many times, by which writer last.
    present: BTreeMap<Uid, (u32, u64, Duration)>,
    /// What was ever confirmed there, though it may have been lost since.
    ever: BTreeSet<Uid>,
    /// What need not come, but may.
    excused: BTreeSet<Uid>,
    /// What was set aside at the destination.
    parked: BTreeSet<Uid>,
    /// First arrivals in order.
    arrived: Vec<Uid>,
    /// Needs an operator: a gap in its source.
    halted: bool,
    /// Its log was cut behind what it had read: offsets mean other records now, and it will find that out.
    cut: bool,
    /// The destination had a cursor of it.
    began: bool,
}

/// The truth.
#[derive(Debug)]
pub(crate) struct Ledger {
    truths: Vec<Truth>,
    books: Vec<Book>,
    ids: BTreeMap<u128, u64>,
    of_uid: BTreeMap<Uid, EventId>,
    violation: Option<Violation>,
}

impl Ledger {
    pub(crate) fn new(plan: &Plan) -> Self {
        let books = plan.flows.iter().map(|_| Book::default()).collect();
        Self { truths: Vec::new(), books, ids: BTreeMap::new(), of_uid: BTreeMap::new(), violation: None }
    }

    pub(crate) fn violate(&mut self, check: &'static str, detail: String) {
        self.violation.get_or_insert(Violation { check, detail });
    }

    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    pub(crate) fn truth(&self, uid: Uid) -> &Truth {
        &self.truths[uid]
    }

    /// A record came to be in that shard, if the broker has shards that are read.
    pub(crate) fn appended(&mut self, plan: &Plan, shard: Option<usize>, truth: Truth) -> Uid {
        let uid = self.truths.len();
        self.truths.push(truth);
        for (flow, flow_plan) in plan.flows.iter().enumerate() {
            if Some(flow_plan.shard) == shard && self.takes(plan, flow, uid) {
                self.books[flow].missing.insert(uid);
            }
        }
        uid
    }

    /// The meaning that the provenance of this record has once it is admitted; `None` when it goes nowhere.
    fn admitted(&self, uid: Uid) -> Option<Stored> {
        let truth = &self.truths[uid];
        let fresh = |depth| Stored { token: truth.token, path: vec![truth.broker], depth };
        match &truth.stored {
            None => Some(fresh(0)),
            Some(stored) if stored.token == truth.token => Some(stored.clone()),
            Some(stored) if stored.depth >= DEPTH_MAX => None,
            Some(stored) => Some(fresh(stored.depth + 1)),
        }
    }

    /// What the provenance of this record means at that destination.
    pub(crate) fn written_at(&self, uid: Uid, to: usize) -> Option<Stored> {
        let mut stored = self.admitted(uid)?;
        for broker in [self.truths[uid].broker, to] {
            if !stored.path.contains(&broker) {
                stored.path.push(broker);
            }
        }
        Some(stored)
    }

    /// Whether the flow must carry the record, by the words of the route alone.
    fn takes(&self, plan: &Plan, flow: usize, uid: Uid) -> bool {
        let (flow, truth) = (&plan.flows[flow], &self.truths[uid]);
        let wanted = plan.kinds[flow.from_broker] == Kind::Queue || truth.content.topic.starts_with("t.");
        let Some(admitted) = self.admitted(uid) else { return false };
        let visited = admitted.path.contains(&flow.to_broker);
        let hops = self.written_at(uid, flow.to_broker).map_or(0, |stored| stored.path.len() - 1);
        let size = truth.content.payload.as_ref().map_or(0, Bytes::len);
        wanted && !visited && hops <= HOPS_MAX && size < plan.event_bytes_max as usize - 512
    }

    /// A writer of a destination has this event durably now. Says what it means there.
    pub(crate) fn delivered(&mut self, plan: &Plan, flow: usize, uid: Uid, event: &Event, writer: u64, now: Duration) {
        self.check_content(plan, flow, uid, event);
        let flow_plan = &plan.flows[flow];
        if !self.takes(plan, flow, uid) {
            return self.violate("loop", format!("flow {flow} wrote record {uid}, which the route does not take"));
        }
        let kind = plan.kinds[flow_plan.to_broker];
        let replayable = plan.shards[flow_plan.shard].replayable;
        let book = &mut self.books[flow];
        let before = book.present.get(&uid).copied();
        let (count, wrote, at) = before.unwrap_or((0, writer, now));
        book.present.insert(uid, (count + 1, writer, now));
        book.missing.remove(&uid);
        book.ever.insert(uid);
        let last = book.arrived.last().copied();
        if count == 0 && book.excused.contains(&uid) {
            // A zombie of a destination without fences may still write what was given up as lost: it has no place in the order.
        } else if count == 0 {
            book.arrived.push(uid);
            if last.is_some_and(|last| last > uid) {
                self.violate("order", format!("flow {flow}: record {uid} came after {last:?}"));
            }
        } else if flow_plan.exact {
            self.violate("duplicate", format!("flow {flow}: record {uid} is there twice, though it must be exact"));
        } else if wrote == writer && replayable {
            self.violate("duplicate", format!("flow {flow}: record {uid} was written twice by one writer"));
        } else if kind == Kind::JetStreamMessageIds && event.identity == Identity::Unique && now < at + plan.window {
            self.violate("duplicate", format!("flow {flow}: record {uid} is there twice within the duplicate window"));
        }
    }

    /// A destination left an event out because it has one with that identity.
    pub(crate) fn deduplicated(&mut self, plan: &Plan, flow: usize, uid: Uid, event: &Event, token: u64, first: Uid) {
        self.check_content(plan, flow, uid, event);
        // Two that were published with the same content are two, unless the mesh or a bridge made one of the other.
        let twins = first != uid && self.truths[uid].stored.is_none() && self.truths[first].stored.is_none();
        if self.truths[uid].token != token || twins {
            self.violate("identity", format!("flow {flow}: record {uid} was left out for another one of its identity"));
        }
        // It has its place in the order where the first one stands.
        self.excused(flow, uid);
    }

    fn check_content(&mut self, plan: &Plan, flow: usize, uid: Uid, event: &Event) {
        let truth = &self.truths[uid];
        let content = Content {
            topic: event.topic.as_str().to_owned(),
            key: event.key.clone(),
            payload: event.payload.clone(),
            time_ms: event.time_ms,
        };
        if content != truth.content {
            return self.violate("content", format!("flow {flow}: record {uid} is not what was published"));
        }
        let known = *self.of_uid.entry(uid).or_insert(event.id);
        if known != event.id {
            self.violate("identity", format!("flow {flow}: record {uid} has another identity than before"));
        }
        let token = self.truths[uid].token;
        let owner = *self.ids.entry(event.id.0).or_insert(token);
        if owner != token && event.identity == Identity::Unique {
            self.violate("identity", format!("flow {flow}: record {uid} has the identity of another one"));
        }
        let stored = self.written_at(uid, plan.flows[flow].to_broker);
        let seen = longhaul_event::provenance::Provenance::decode(&event.provenance);
        let as_it_must = stored
            .zip(seen)
            .is_some_and(|(stored, seen)| seen.depth == stored.depth && seen.hops.len() + 1 == stored.path.len());
        if !as_it_must {
            self.violate("provenance", format!("flow {flow}: record {uid} does not say where it has been"));
        }
    }

    /// A destination has this event durably among what it refuses.
    pub(crate) fn parked(&mut self, plan: &Plan, flow: usize, uid: Uid, event: &Event) {
        self.check_content(plan, flow, uid, event);
        if !self.takes(plan, flow, uid) {
            self.violate("parked", format!("flow {flow} parks record {uid}, which the route does not take"));
        }
        let book = &mut self.books[flow];
        book.missing.remove(&uid);
        book.ever.insert(uid);
        book.parked.insert(uid);
        if plan.flows[flow].exact && !book.cut && book.present.contains_key(&uid) {
            self.violate("parked", format!("flow {flow}: record {uid} is parked, and is there too"));
        }
    }

    /// A destination has lost what was set aside.
    pub(crate) fn unparked(&mut self, plan: &Plan, flow: usize, uid: Uid) {
        let takes = self.takes(plan, flow, uid);
        let book = &mut self.books[flow];
        if book.parked.remove(&uid) && takes && !book.present.contains_key(&uid) {
            book.missing.insert(uid);
        }
    }

    /// What was parked is there, once, where each record has an identity of its own.
    pub(crate) fn check_parked(&mut self, flow: usize, there: &[Uid], each: bool) {
        let parked = &self.books[flow].parked;
        let all_known = there.iter().all(|uid| parked.contains(uid));
        if !all_known || (each && there.len() != parked.len()) {
            self.violate("parked", format!("flow {flow}: {there:?} are there, and {parked:?} were parked"));
        }
    }

    /// A destination has lost one copy.
    pub(crate) fn lost(&mut self, plan: &Plan, flow: usize, uid: Uid) {
        let takes = self.takes(plan, flow, uid);
        let book = &mut self.books[flow];
        let left = book.present.get_mut(&uid).map_or(0, |copies| {
            copies.0 = copies.0.saturating_sub(1);
            copies.0
        });
        if left == 0 {
            book.present.remove(&uid);
            book.arrived.retain(|arrived| *arrived != uid);
            if takes {
                book.missing.insert(uid);
            }
        }
    }

    /// A destination begins again from nothing: what was delivered there was delivered.
    pub(crate) fn sink_recreated(&mut self, flow: usize) {
        let book = &mut self.books[flow];
        book.present.clear();
        book.parked.clear();
        book.arrived.clear();
        book.missing.retain(|uid| !book.ever.contains(uid));
    }

    /// A source does not have that record any more and nobody is to blame: it goes nowhere from now on.
    pub(crate) fn vanished(&mut self, plan: &Plan, shard: usize, uid: Uid) {
        for (flow, flow_plan) in plan.flows.iter().enumerate() {
            if flow_plan.shard == shard {
                self.books[flow].missing.remove(&uid);
            }
        }
    }

    /// A flow may leave that record out, by the words of its route.
    pub(crate) fn excused(&mut self, flow: usize, uid: Uid) {
        self.books[flow].missing.remove(&uid);
        self.books[flow].ever.insert(uid);
        self.books[flow].excused.insert(uid);
    }

    /// The records that a flow still has to deliver.
    pub(crate) fn missing(&self, flow: usize) -> &BTreeSet<Uid> {
        &self.books[flow].missing
    }

    pub(crate) fn has_begun(&self, flow: usize) -> bool {
        self.books[flow].began
    }

    pub(crate) fn began(&mut self, flow: usize) {
        self.books[flow].began = true;
    }

    pub(crate) fn halted(&mut self, flow: usize) {
        self.books[flow].halted = true;
    }

    pub(crate) fn cut(&mut self, flow: usize) {
        self.books[flow].cut = true;
    }

    pub(crate) fn is_cut(&self, flow: usize) -> bool {
        self.books[flow].cut
    }

    pub(crate) fn is_halted(&self, flow: usize) -> bool {
        self.books[flow].halted
    }

    /// An owner releases everything up to that record: it must have been durable at the destination.
    pub(crate) fn released(&mut self, flow: usize, upto: Uid) {
        let book = &self.books[flow];
        // A flow that waits for an operator since its log was cut: its cursor means other records than those that stand there now.
        if book.halted || book.cut {
            return;
        }
        let early = book.missing.range(..=upto).find(|uid| !book.ever.contains(uid)).copied();
        if let Some(uid) = early {
            self.violate(
                "released before durable",
                format!("flow {flow}: record {uid} was released, and is not there"),
            );
        }
    }
}
