//! A router process: its links, its owning and applying flows. Dispatches what reaches it, and says nothing of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::BytesMut;
use longhaul_flow::ResetCode;
use longhaul_topology::Graph;
use longhaul_wire::{FlowOpen, Frame, Limits, decode_batch, decode_header, next_frame};

use crate::applier::{ApplierFlow, Appliers, reset_frame};
use crate::core::{Core, End, Message, Process};
use crate::owner::{OwnerFlow, Owners};
use crate::plan::{MESH, number, region};
use crate::serve::shard_name;
use crate::shard::QueueShard;
use crate::transit::Transits;
use crate::way::{Link, Neighbours};

const ROUTE_RETRY: Duration = Duration::from_secs(2);

/// Most links on the way of a flow, as the design says.
const LINKS_MAX: usize = 3;

/// One life after the other of a router.
pub(crate) struct Router {
    pub number: usize,
    pub region: usize,
    pub life: u32,
    pub up: bool,
    pub paused: bool,
    pub inbox: Vec<Message>,
    pub owners: Owners,
    appliers: Appliers,
    shards: BTreeMap<usize, QueueShard>,
    /// Links that this router dialled.
    pub links: Vec<Link>,
    /// Regions that a link was up to, at any time of this life.
    seen: BTreeSet<usize>,
    pub started: Duration,
    /// Flows that pass through.
    pub transits: Transits,
    /// Until when their next links take a batch only now and then, and how rarely.
    pub onward_slow: (Duration, Duration),
    bytes_cap: u64,
    /// Flows whose route is not declared here, for now.
    pub withdrawn: BTreeSet<usize>,
    /// Drains, and takes no new flows.
    pub stopping: bool,
}

impl Router {
    pub(crate) fn new(number: usize, region: usize, bytes_cap: u64) -> Self {
        Self {
            number,
            region,
            life: 1,
            up: true,
            paused: false,
            inbox: Vec::new(),
            owners: BTreeMap::new(),
            appliers: BTreeMap::new(),
            shards: BTreeMap::new(),
            links: Vec::new(),
            seen: BTreeSet::new(),
            started: Duration::ZERO,
            transits: Transits::new(),
            onward_slow: (Duration::ZERO, Duration::ZERO),
            bytes_cap,
            withdrawn: BTreeSet::new(),
            stopping: false,
        }
    }

    pub(crate) fn process(&self) -> Process {
        (self.number, self.life)
    }

    pub(crate) fn handle(&mut self, core: &mut Core, message: Message) {
        match message {
            Message::Control { conn, bytes } => self.handle_control(core, conn, &bytes),
            Message::Parcel { conn, bytes } => self.handle_parcel(core, conn, bytes),
            Message::Closed { conn } => self.handle_closed(core, conn),
            Message::Dialled { conn } => self.handle_dialled(core, conn),
            Message::Answer { end, session, answer } => match end {
                End::Owner(flow) => {
                    if let Some(owner) = self.owners.get_mut(&flow) {
                        owner.handle_answer(core, session, answer);
                        self.turn_owner(core, flow);
                    }
                }
                End::Applier(flow) => {
                    if let Some(applier) = self.appliers.get_mut(&flow) {
                        applier.handle_answer(core, session, answer);
                        self.turn_applier(core, flow);
                    }
                }
                End::Shard(shard) => {
                    if let Some(found) = self.shards.get_mut(&shard) {
                        found.handle_answer(core, session, answer);
                        self.turn_shard(core, shard);
                    }
                }
            },
            Message::Timer { end } => self.handle_timer(core, end),
            Message::OwnsNoMore => self.disown(core),
            Message::Onward { back } => self.send_onward(core, back),
            Message::Withdrawn { flow } => {
                self.withdrawn.insert(flow);
                if let Some(mut owner) = self.owners.remove(&flow) {
                    owner.close(core);
                }
            }
            Message::Owns | Message::Declared { .. } | Message::Dial { .. } | Message::Exit => {}
        }
    }

    fn handle_timer(&mut self, core: &mut Core, end: End) {
        match end {
            End::Owner(flow) => {
                if let Some(owner) = self.owners.get_mut(&flow) {
                    owner.handle_timer(core);
                    self.turn_owner(core, flow);
                }
            }
            End::Applier(flow) => {
                if let Some(applier) = self.appliers.get_mut(&flow) {
                    applier.handle_timer(core);
                    self.turn_applier(core, flow);
                }
            }
            End::Shard(shard) => {
                if let Some(found) = self.shards.get_mut(&shard) {
                    found.handle_timer(core);
                }
            }
        }
    }

    // Owning.

    /// This router owns the shards of its region from now on.
    pub(crate) fn own(&mut self, core: &mut Core, owner_epoch: u64) {
        if self.stopping || !self.owners.is_empty() {
            return;
        }
        let process = self.process();
        for flow in 0..core.plan.flows.len() {
            let plan = &core.plan.flows[flow];
            let (shard, from) = (plan.shard, plan.from_broker);
            if from != self.region || self.withdrawn.contains(&flow) {
                continue;
            }
            self.owners.insert(flow, OwnerFlow::new(flow, process, owner_epoch, core));
            if !core.plan.shards[shard].replayable && !self.shards.contains_key(&shard) {
                let flows = (0..core.plan.flows.len()).filter(|&other| core.plan.flows[other].shard == shard);
                let mut queue = QueueShard::new(shard, process, flows);
                queue.start(core);
                self.shards.insert(shard, queue);
            }
        }
        self.turn_owners(core);
    }

    /// It owns a flow whose route is declared again.
    pub(crate) fn own_again(&mut self, core: &mut Core, flow: usize, owner_epoch: u64) {
        if !self.stopping && !self.owners.contains_key(&flow) {
            self.owners.insert(flow, OwnerFlow::new(flow, self.process(), owner_epoch, core));
            self.turn_owner(core, flow);
        }
    }

    pub(crate) fn disown(&mut self, core: &mut Core) {
        std::mem::take(&mut self.owners).into_values().for_each(|mut owner| owner.close(core));
        std::mem::take(&mut self.shards).into_values().for_each(|mut shard| shard.close(core));
    }

    fn turn_owners(&mut self, core: &mut Core) {
        let flows: Vec<usize> = self.owners.keys().copied().collect();
        flows.into_iter().for_each(|flow| self.turn_owner(core, flow));
    }

    fn turn_owner(&mut self, core: &mut Core, flow: usize) {
        let shard = core.plan.flows[flow].shard;
        let near = Neighbours { links: &self.links, seen: &self.seen, started: self.started };
        if let Some(owner) = self.owners.get_mut(&flow) {
            owner.turn(core, &near, self.shards.get_mut(&shard));
        }
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard.pump(core);
        }
    }

    fn turn_shard(&mut self, core: &mut Core, shard: usize) {
        for flow in 0..core.plan.flows.len() {
            if core.plan.flows[flow].shard == shard
                && let Some(owner) = self.owners.get_mut(&flow)
            {
                owner.handle_news(core, self.shards.get(&shard));
                self.turn_owner(core, flow);
            }
        }
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard.pump(core);
        }
    }

    // Links.

    pub(crate) fn is_linked(&self, peer: usize) -> bool {
        self.links.iter().any(|link| link.peer == peer)
    }

    fn handle_dialled(&mut self, core: &mut Core, conn: u64) {
        let Some(found) = core.conns.get(&conn).filter(|conn| conn.open[0]) else { return };
        let (peer, region) = (found.ends[1].0, found.regions[1]);
        if self.stopping || self.is_linked(peer) {
            return core.close(conn, 0);
        }
        self.links.push(Link { conn, peer, region, since: core.now });
        self.seen.insert(region);
        self.turn_owners(core);
    }

    fn handle_closed(&mut self, core: &mut Core, conn: u64) {
        let process = self.process();
        let Some(found) = core.conns.get_mut(&conn) else { return };
        if found.ends[0] == process && found.open[0] {
            core.close(conn, 0);
            self.links.retain(|link| link.conn != conn);
            self.lose_onward(core, conn);
            return self.turn_owners(core);
        }
        if found.ends[1] == process && found.open[1] {
            let sessions = std::mem::take(&mut found.sessions);
            core.close(conn, 1);
            self.forget_passing(core, conn);
            for (flow, attachment) in sessions.into_values() {
                self.gone(core, flow, attachment);
            }
        }
    }

    fn handle_control(&mut self, core: &mut Core, conn: u64, bytes: &[u8]) {
        let Some(found) = core.conns.get(&conn) else { return };
        let side = usize::from(found.ends[0] != self.process());
        if !found.open[side] {
            return;
        }
        let mut buffer = BytesMut::from(bytes);
        loop {
            match next_frame(&mut buffer) {
                Ok(Some(frame)) => self.handle_frame(core, conn, frame),
                Ok(None) => return,
                Err(error) => return core.ledger.violate("wire", format!("a frame cannot be read: {error}")),
            }
        }
    }

    fn handle_frame(&mut self, core: &mut Core, conn: u64, frame: Frame) {
        match &frame {
            Frame::Open(open) => self.handle_open(core, conn, open),
            Frame::Close { handle, .. } => {
                self.end_passing(core, (conn, *handle));
                let gone = core.conns.get_mut(&conn).and_then(|conn| conn.sessions.remove(handle));
                if let Some((flow, attachment)) = gone {
                    self.gone(core, flow, attachment);
                }
            }
            Frame::Accept { handle, .. } | Frame::Ack { handle, .. } | Frame::Reset { handle, .. } => {
                let found = self.owners.iter_mut().find(|(_, owner)| owner.has_port(conn, *handle));
                let Some((flow, owner)) = found.map(|(flow, owner)| (*flow, owner)) else {
                    return self.hand_back(core, (conn, *handle), &frame);
                };
                owner.handle_frame(core, &frame);
                self.turn_owner(core, flow);
            }
            _ => {}
        }
    }

    // Applying.

    /// The flow that an Open names, if the route is known here in the same words.
    pub(crate) fn flow_of(&self, core: &Core, open: &FlowOpen) -> Option<usize> {
        let route = core.plan.table.route(&open.route)?;
        let is_it = |flow: &crate::plan::FlowPlan| {
            let shard = &core.plan.shards[flow.shard];
            flow.route == open.route
                && open.mesh == MESH
                && open.from.2 == shard_name(shard.broker, shard.partition)
                && open.to.0 == region(flow.to_broker)
                && route.hash_to(flow.to) == open.route_hash
        };
        core.plan.flows.iter().position(is_it)
    }

    fn handle_open(&mut self, core: &mut Core, conn: u64, open: &FlowOpen) {
        let (handle, path_epoch) = (open.handle, open.path_epoch);
        self.check_trail(core, conn, open);
        let Some(flow) = self.flow_of(core, open) else {
            core.ledger.violate("peer", format!("an Open of a flow that nobody declared: {open:?}"));
            return core.send(conn, 1, &reset_frame(handle, path_epoch, ResetCode::UnknownRoute, ROUTE_RETRY));
        };
        if self.stopping {
            return core.send(conn, 1, &reset_frame(handle, path_epoch, ResetCode::Draining, ROUTE_RETRY));
        }
        if number(&open.to.0) != self.region {
            return self.let_pass(core, flow, conn, open);
        }
        if self.withdrawn.contains(&flow) {
            return core.send(conn, 1, &reset_frame(handle, path_epoch, ResetCode::UnknownRoute, ROUTE_RETRY));
        }
        let attachment = core.number();
        let before = core.conns.get_mut(&conn).and_then(|conn| conn.sessions.insert(handle, (flow, attachment)));
        let (process, cap) = (self.process(), self.bytes_cap);
        let applier = self.appliers.entry(flow).or_insert_with(|| ApplierFlow::new(flow, process, cap, core));
        applier.handle_open(core, conn, attachment, open);
        self.turn_applier(core, flow);
        if let Some((flow, attachment)) = before {
            self.gone(core, flow, attachment);
        }
    }

    /// A flow comes over three links at most, over no region twice, and by a way of the mesh document.
    fn check_trail(&self, core: &mut Core, conn: u64, open: &FlowOpen) {
        let Some(found) = core.conns.get(&conn) else { return };
        let neighbour = found.regions[0];
        let trail = found.trails.get(&open.handle).cloned().unwrap_or_default();
        let is_round = trail.contains(&self.region) || (1..trail.len()).any(|at| trail[..at].contains(&trail[at]));
        if trail.len() > LINKS_MAX || is_round || trail.len() != usize::from(open.links) {
            let (here, says) = (self.region, open.links);
            core.ledger.violate("way", format!("a flow came over {trail:?} to {here} and says {says} links"));
        }
        let graph = Graph::of(&core.plan.mesh);
        let links = usize::from(open.links);
        if core.plan.has_detours()
            && !graph.may_come_over(&open.from.0, &region(neighbour), &region(self.region), links)
        {
            core.ledger.violate("peer", format!("an honest flow may not come over {trail:?} to {}", self.region));
        }
    }

    fn handle_parcel(&mut self, core: &mut Core, conn: u64, bytes: bytes::Bytes) {
        let Some(found) = core.conns.get(&conn).filter(|conn| conn.open[1]) else { return };
        if let Ok(header) = decode_header(&bytes)
            && self.transits.contains_key(&(conn, header.handle))
        {
            return self.pass_on(core, (conn, header.handle), &header, bytes);
        }
        let limits = Limits::new(core.plan.event_bytes_max, u16::MAX);
        let (header, events) = match decode_batch(bytes, &limits) {
            Ok(batch) => batch,
            Err(error) => {
                if !core.unclean {
                    core.ledger.violate("wire", format!("a batch cannot be read: {error}"));
                }
                core.cover.count("link", "cut for a broken batch");
                return self.handle_closed(core, conn);
            }
        };
        let Some(&(flow, attachment)) = found.sessions.get(&header.handle) else { return };
        if let Some(applier) = self.appliers.get_mut(&flow) {
            applier.handle_batch(core, attachment, &header, events);
            self.turn_applier(core, flow);
        }
    }

    fn gone(&mut self, core: &mut Core, flow: usize, attachment: u64) {
        if let Some(applier) = self.appliers.get_mut(&flow) {
            applier.handle_gone(core, attachment);
            self.turn_applier(core, flow);
        }
    }

    fn turn_applier(&mut self, core: &mut Core, flow: usize) {
        let Some(applier) = self.appliers.get_mut(&flow) else { return };
        applier.turn(core);
        if applier.is_done(core.now) {
            applier.close(core);
            self.appliers.remove(&flow);
            core.cover.count("applier does", "end");
        }
    }

    /// The budget is divided anew.
    pub(crate) fn set_cap(&mut self, core: &mut Core, bytes_cap: u64) {
        self.bytes_cap = bytes_cap;
        let flows: Vec<usize> = self.appliers.keys().copied().collect();
        for flow in flows {
            if let Some(applier) = self.appliers.get_mut(&flow) {
                applier.set_cap(bytes_cap);
            }
            self.turn_applier(core, flow);
        }
    }

    // Ends.

    pub(crate) fn stop(&mut self, core: &mut Core) {
        self.stopping = true;
        self.owners.values_mut().for_each(|owner| owner.draining = true);
        let flows: Vec<usize> = self.appliers.keys().copied().collect();
        for flow in flows {
            if let Some(applier) = self.appliers.get_mut(&flow) {
                applier.drain(core);
            }
            self.turn_applier(core, flow);
        }
        self.turn_owners(core);
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.stopping && self.appliers.is_empty() && self.owners.values().all(OwnerFlow::is_drained)
    }

    /// The process is gone; what it has asked for may still be done.
    pub(crate) fn end(&mut self, core: &mut Core) {
        let process = self.process();
        let conns: Vec<(u64, usize)> = core
            .conns
            .iter()
            .flat_map(|(id, conn)| [(*id, 0), (*id, 1)].into_iter().filter(|(_, side)| conn.ends[*side] == process))
            .collect();
        conns.into_iter().for_each(|(conn, side)| core.close(conn, side));
        let mine = |session: &crate::core::Session| session.client == process && session.alive;
        let sessions: Vec<u64> = core.sessions.iter().filter(|(_, session)| mine(session)).map(|(id, _)| *id).collect();
        for session in sessions {
            let delay = core.rng.ms(0, 2_000);
            core.after(delay, crate::core::What::AtBroker { session, ask: crate::broker::Ask::HangUp });
        }
        (self.owners, self.appliers, self.shards) = Default::default();
        (self.links, self.inbox, self.withdrawn) = Default::default();
        (self.seen, self.transits) = Default::default();
        (self.up, self.paused, self.stopping) = (false, false, false);
        self.life += 1;
    }
}
