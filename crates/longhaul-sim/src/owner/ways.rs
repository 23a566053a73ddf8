//! Which way an owning flow takes, and when it takes another: as the router does it.

use std::time::Duration;

use crate::core::{Core, End, Message, What};
use crate::way::Neighbours;

use super::{LOOK_FOR_WAYS_EVERY, OwnerFlow};

/// A neighbour that had no way on is left alone for so long at least, whether or not there is another.
const LEFT_ALONE: Duration = Duration::from_millis(500);

impl OwnerFlow {
    /// The neighbour over which it goes has no way on.
    pub(super) fn avoid(&mut self, core: &mut Core) {
        let (hop, epoch, now) = (self.hop, self.owner.path_epoch(), core.now);
        if self.refused.is_some_and(|(last, of, at)| last == hop && of != epoch && now < at + LEFT_ALONE) {
            core.ledger.violate("way", format!("flow {}: region {hop} is asked again at once", self.flow));
        }
        self.refused = Some((hop, epoch, now));
        self.avoided.add(hop, now);
    }

    /// Takes a way when there is none, leaves one for a better one, and notices when the link in use is gone.
    pub(super) fn choose_way(&mut self, core: &mut Core, near: &Neighbours<'_>) {
        let (flow, now) = (&core.plan.flows[self.flow], core.now);
        let ways = core.plan.ways(flow.from_broker, flow.to_broker);
        let of = self.flow;
        let rank = |router: usize| longhaul_event::hash64(format!("{router} {of}").as_bytes());
        self.avoided.forget(now);
        if let Some((conn, handle)) = self.port {
            let is_up = near.link(conn).is_some();
            let better =
                core.plan.has_detours() && near.has_better(now, &ways, conn, rank, |hop| self.avoided.has(hop));
            if !is_up || self.avoided.has(self.hop) || better {
                if better && self.owner.in_flight() != (0, 0) {
                    core.cover.count("fault", "back on a better way with events under way");
                }
                if is_up {
                    core.cancel(conn, handle);
                    core.send(conn, 0, &longhaul_wire::Frame::Close { handle, path_epoch: self.owner.path_epoch() });
                }
                self.port = None;
                self.owner.handle_link_down(now);
                self.observe(core);
            }
        }
        if self.port.is_some() || self.draining {
            return;
        }
        let found = near.over(now, &ways, rank, |hop| self.avoided.has(hop));
        let found = found.or_else(|| near.over(now, &ways, rank, |hop| !self.avoided.is_rested(hop, now)));
        let Some(link) = found else { return };
        let from = core.plan.flows[self.flow].from_broker;
        self.port = core.attach(link.conn, vec![from]);
        self.hop = link.region;
        self.avoided.remove(link.region);
        if link.region != core.plan.flows[self.flow].to_broker {
            core.cover.count("fault", "took a detour");
        }
        self.owner.handle_link_up(now);
        self.observe(core);
    }

    /// The region over which it goes now.
    pub(crate) fn hop(&self) -> Option<usize> {
        self.port.map(|_| self.hop)
    }

    /// Links that settle and neighbours that may be asked again tell nobody.
    pub(super) fn look_for_ways(&mut self, core: &mut Core, near: &Neighbours<'_>) {
        let to = core.plan.flows[self.flow].to_broker;
        let is_best = self.hop() == Some(to) && !near.has_many(to);
        let due = self.look.is_none_or(|at| core.now >= at);
        if core.plan.has_detours() && !is_best && !self.draining && due {
            let at = core.now + LOOK_FOR_WAYS_EVERY;
            self.look = Some(at);
            core.at(at, What::To(self.process, Message::Timer { end: End::Owner(self.flow) }));
        }
    }
}
