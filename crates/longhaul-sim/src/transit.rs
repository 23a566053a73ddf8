//! Flows that pass through a router: their frames and batches go on under another handle, and nothing else is done with them.
//!
//! The same calls in the same order as the router's. What waits for the next link is bounded, and counted here by itself.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use longhaul_flow::ResetCode;
use longhaul_topology::Graph;
use longhaul_wire::{BatchHeader, FlowOpen, Frame, Limits, frame_len, readdress};

use crate::applier::reset_frame;
use crate::core::{Core, Message, Port, What};
use crate::plan::{number, region};
use crate::router::Router;

/// An owner that is told that there is no way here asks another neighbour first.
const RETRY: Duration = Duration::from_millis(100);

/// A flow that passes through.
pub(crate) struct Passing {
    path_epoch: u32,
    /// On the next link.
    out: Port,
    /// What that link has not taken yet.
    waits: VecDeque<Bytes>,
}

/// By connection and handle over which they come.
pub(crate) type Transits = BTreeMap<Port, Passing>;

impl Router {
    pub(crate) fn let_pass(&mut self, core: &mut Core, flow: usize, conn: u64, open: &FlowOpen) {
        let back = (conn, open.handle);
        self.end_passing(core, back);
        let Some(out) = self.way_on(core, flow, conn, open) else {
            core.cover.count("fault", "no way on");
            return core.send(conn, 1, &reset_frame(open.handle, open.path_epoch, ResetCode::NoPath, RETRY));
        };
        let open = FlowOpen { handle: out.1, links: open.links.saturating_add(1), ..open.clone() };
        self.transits.insert(back, Passing { path_epoch: open.path_epoch, out, waits: VecDeque::new() });
        core.cover.count("transit", "open");
        core.send(out.0, 0, &Frame::Open(open));
    }

    fn way_on(&self, core: &mut Core, flow: usize, conn: u64, open: &FlowOpen) -> Option<Port> {
        // It knows the route in other words, or not any more.
        if self.withdrawn.contains(&flow) {
            return None;
        }
        let found = core.conns.get(&conn)?;
        let mut trail = found.trails.get(&open.handle).cloned().unwrap_or_default();
        let (here, neighbour) = (region(self.region), region(found.regions[0]));
        let graph = Graph::of(&core.plan.mesh);
        let hops = graph.onward(&here, &open.to.0, &open.from.0, &neighbour, usize::from(open.links));
        let rank = |router: usize| longhaul_event::hash64(format!("{router} {flow}").as_bytes());
        let link = hops.into_iter().find_map(|hop| {
            let there = self.links.iter().filter(|link| link.region == number(hop));
            there.max_by_key(|link| rank(link.peer))
        })?;
        trail.push(self.region);
        core.attach(link.conn, trail)
    }

    /// Hands a batch on. Never waits: what does not fit ends the flow here, and its owner finds another way.
    pub(crate) fn pass_on(&mut self, core: &mut Core, back: Port, header: &BatchHeader, batch: Bytes) {
        let Some(out) = self.transits.get(&back).map(|passing| passing.out) else { return };
        if frame_len(header, &Limits::new(core.plan.event_bytes_max, u16::MAX)).is_err() {
            return self.give_up(core, back);
        }
        let Ok(batch) = readdress(batch, out.1) else {
            if !core.unclean {
                core.ledger.violate("wire", "a batch on the way is damaged".to_owned());
            }
            return self.handle(core, Message::Closed { conn: back.0 });
        };
        core.cover.count("transit", "batch");
        // What finds nothing before it is taken whatever its size.
        let waiting = self.waiting_bytes();
        if waiting > 0 && waiting + batch.len() > core.plan.onward_bytes_max {
            core.cover.count("fault", "no room on the way");
            return self.give_up(core, back);
        }
        let is_slow = core.now < self.onward_slow.0;
        let Some(passing) = self.transits.get_mut(&back) else { return };
        if passing.waits.is_empty() && !is_slow {
            return core.submit(out.0, out.1, batch);
        }
        passing.waits.push_back(batch);
        if passing.waits.len() == 1 {
            self.wait_for_link(core, back);
        }
        let (bytes, most) = (self.waiting_bytes(), core.plan.onward_bytes_max);
        if waiting > 0 && bytes > most {
            core.ledger.violate("memory", format!("{bytes} bytes wait on the way, beyond {most}"));
        }
    }

    fn waiting_bytes(&self) -> usize {
        self.transits.values().flat_map(|passing| &passing.waits).map(Bytes::len).sum()
    }

    fn wait_for_link(&self, core: &mut Core, back: Port) {
        let by = if core.now < self.onward_slow.0 { self.onward_slow.1 } else { Duration::ZERO };
        let delay = Duration::from_micros(core.rng.between(0, by.as_micros() as u64));
        core.after(delay, What::To(self.process(), Message::Onward { back }));
    }

    /// The next link takes one.
    pub(crate) fn send_onward(&mut self, core: &mut Core, back: Port) {
        let Some(passing) = self.transits.get_mut(&back) else { return };
        let (out, batch) = (passing.out, passing.waits.pop_front());
        let more = !passing.waits.is_empty();
        if let Some(batch) = batch {
            core.submit(out.0, out.1, batch);
        }
        if more {
            self.wait_for_link(core, back);
        }
    }

    /// What the applier says, as the owner knows the flow.
    pub(crate) fn hand_back(&mut self, core: &mut Core, out: Port, frame: &Frame) {
        let back = self.transits.iter().find(|(_, passing)| passing.out == out).map(|(back, _)| *back);
        let Some((conn, of)) = back else { return };
        let mut frame = frame.clone();
        if let Frame::Accept { handle, .. } | Frame::Ack { handle, .. } | Frame::Reset { handle, .. } = &mut frame {
            *handle = of;
        }
        core.send(conn, 1, &frame);
    }

    fn give_up(&mut self, core: &mut Core, back: Port) {
        let Some(path_epoch) = self.transits.get(&back).map(|passing| passing.path_epoch) else { return };
        core.send(back.0, 1, &reset_frame(back.1, path_epoch, ResetCode::NoPath, RETRY));
        self.end_passing(core, back);
    }

    /// The flow ends here: what is behind hears of it.
    pub(crate) fn end_passing(&mut self, core: &mut Core, back: Port) {
        let Some(Passing { out: (conn, handle), path_epoch, .. }) = self.transits.remove(&back) else { return };
        core.cancel(conn, handle);
        core.send(conn, 0, &Frame::Close { handle, path_epoch });
    }

    /// The link is gone over which flows came.
    pub(crate) fn forget_passing(&mut self, core: &mut Core, conn: u64) {
        let gone: Vec<Port> = self.transits.keys().filter(|back| back.0 == conn).copied().collect();
        gone.into_iter().for_each(|back| self.end_passing(core, back));
    }

    /// The link is gone over which flows went on.
    pub(crate) fn lose_onward(&mut self, core: &mut Core, conn: u64) {
        let is_lost = |(_, passing): &(&Port, &Passing)| passing.out.0 == conn;
        let lost: Vec<Port> = self.transits.iter().filter(is_lost).map(|(back, _)| *back).collect();
        for back in lost {
            core.cover.count("transit", "next link lost");
            self.give_up(core, back);
        }
    }
}
