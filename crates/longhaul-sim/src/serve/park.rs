//! Events that a destination refuses for good, and those that are parked: what of it a broker knows.

use longhaul_event::{Event, EventId};

use crate::broker::Answer;
use crate::core::Core;
use crate::ledger::Uid;

impl Core {
    /// Whether a destination refuses that record, now and from now on.
    pub(super) fn refuses(&mut self, broker: usize, flow: usize, uid: Uid) -> bool {
        if std::mem::take(&mut self.brokers[broker].poison_next) {
            self.brokers[broker].poisoned.insert(uid);
        }
        let refused = self.brokers[broker].poisoned.contains(&uid);
        if refused {
            self.cover.count("fault", "event refused");
            if self.plan.drops_poison {
                self.ledger.excused(flow, uid);
            }
        }
        refused
    }

    /// Sets events aside, each under a name that is made of its flow and itself: what was parked before is parked again, once.
    pub(super) fn park(&mut self, session: u64, flow: usize, incarnation: u64, events: &[Event]) {
        let broker = self.plan.flows[flow].to_broker;
        let torn = std::mem::take(&mut self.brokers[broker].torn_parking);
        let upto = if torn { self.rng.below(events.len() + 1) } else { events.len() };
        for event in &events[..upto] {
            let Some(uid) = self.uid_of(flow, incarnation, event) else { continue };
            let (id, topic) = (event.id.0.to_le_bytes(), event.topic.as_str().as_bytes());
            let (key, payload) =
                (event.key.as_deref().unwrap_or_default(), event.payload.as_deref().unwrap_or_default());
            let name = EventId::of_parts(0, &[&id, topic, key, payload]);
            let written = self.brokers[broker].written.len();
            let parked = &mut self.brokers[broker].parked;
            let again = parked.contains_key(&(flow, name));
            // It stays where it was parked first.
            parked.entry((flow, name)).or_insert((written, uid));
            self.cover.count("fault", if again { "parked again" } else { "event parked" });
            if !self.brokers[broker].poisoned.contains(&uid) && !self.ledger.is_cut(flow) {
                self.ledger.violate("parked", format!("flow {flow} parks record {uid}, which nobody refuses"));
            }
            self.ledger.parked(&self.plan, flow, uid, event);
            self.note(|| format!("broker: {broker} parks record {uid} of flow {flow}"));
        }
        if torn { self.lose_session(session) } else { self.answer(session, Answer::Parked) }
    }

    /// At the end each record that a flow had to carry has one fate, and what was parked is there to be redriven.
    pub(crate) fn audit(&mut self) {
        for flow in (0..self.plan.flows.len()).filter(|flow| !self.ledger.is_halted(*flow)).collect::<Vec<_>>() {
            let broker = &self.brokers[self.plan.flows[flow].to_broker];
            let there = broker.parked.range((flow, EventId(0))..=(flow, EventId(u128::MAX)));
            let there: Vec<Uid> = there.map(|(_, (_, uid))| *uid).collect();
            let exact = self.plan.shards[self.plan.flows[flow].shard].replayable;
            self.ledger.check_parked(flow, &there, exact);
        }
    }
}
