//! The books: what was sent against what came, which ends of links are up, and all that was found wrong. They stand for what outlives
//! processes: the broker at the destination, which knows how far a flow has come, and the path epochs at the owner.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use crate::flow::{FLOWS, Plan};

/// More than these are not kept of what was found wrong.
const WRONGS_MAX: usize = 20;

/// What happened to one end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It came up.
    Up,
    /// It went down, for that reason; a label of `LinkError`.
    Down(&'static str),
    /// It was dialled in vain.
    Refused(&'static str),
}

/// A line of the log of links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// Microseconds since the world began.
    pub at: u64,
    /// Which link.
    pub link: usize,
    /// Whether this is the end that dials.
    pub dials: bool,
    /// What happened.
    pub change: Change,
}

/// An end of a link that is up, or was: the same number means the same connection.
pub type Generation = u64;

/// The books of a world.
pub struct Books {
    plan: Plan,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    links: Vec<LinkBook>,
    generation: Generation,
    notes: Vec<Note>,
    wrong: Vec<String>,
}

#[derive(Default)]
struct LinkBook {
    path_epoch: u32,
    flows: Vec<FlowBook>,
    /// Ends that are up, by generation: whether it dials.
    up: BTreeMap<Generation, bool>,
    queued_most: u64,
    open_most: u64,
}

#[derive(Default)]
struct FlowBook {
    /// What the owner has handed to the link in the newest path epoch: from, to.
    submitted: Option<(u32, u64, u64)>,
    path_epoch: u32,
    /// Everything up to here has come.
    came: u64,
    /// What came early.
    early: BTreeSet<u64>,
    highest: u64,
    again: u64,
}

impl Books {
    pub(crate) fn new(plan: Plan, links: usize) -> Self {
        let book = || LinkBook { flows: (0..FLOWS).map(|_| FlowBook::default()).collect(), ..LinkBook::default() };
        let links = (0..links).map(|_| book()).collect();
        let state = State { links, generation: 0, notes: Vec::new(), wrong: Vec::new() };
        Self { plan, began: Instant::now(), state: Mutex::new(state) }
    }

    /// What is sent.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Everything that happened to links, in order.
    #[must_use]
    pub fn notes(&self) -> Vec<Note> {
        self.lock().notes.clone()
    }

    /// What was found wrong.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        self.lock().wrong.clone()
    }

    /// Notes that something is wrong.
    pub fn blame(&self, text: String) {
        let mut state = self.lock();
        let at = self.began.elapsed();
        if state.wrong.len() < WRONGS_MAX {
            state.wrong.push(format!("{at:?}: {text}"));
        }
    }

    /// The ends of a link that are up.
    #[must_use]
    pub fn up(&self, link: usize) -> BTreeMap<Generation, bool> {
        self.lock().links[link].up.clone()
    }

    /// Whether both ends of a link are up.
    #[must_use]
    pub fn stands(&self, link: usize) -> bool {
        let up = self.up(link);
        up.values().any(|dials| *dials) && up.values().any(|dials| !dials)
    }

    /// Whether everything that is sent on a link has come.
    #[must_use]
    pub fn is_complete(&self, link: usize) -> bool {
        self.lock().links[link].flows.iter().all(|flow| flow.came == self.plan.batches)
    }

    /// How many batches of a link have come.
    #[must_use]
    pub fn came(&self, link: usize) -> u64 {
        self.lock().links[link].flows.iter().map(|flow| flow.came).sum()
    }

    /// How many batches were handed to another link once more, since they had not come over the one before.
    #[must_use]
    pub fn again(&self) -> u64 {
        self.lock().links.iter().flat_map(|link| &link.flows).map(|flow| flow.again).sum()
    }

    /// The most bytes that a link had queued, and in parcels that were not acknowledged.
    #[must_use]
    pub fn most(&self) -> (u64, u64) {
        let state = self.lock();
        let most = |of: fn(&LinkBook) -> u64| state.links.iter().map(of).max().unwrap_or(0);
        (most(|link| link.queued_most), most(|link| link.open_most))
    }

    pub(crate) fn came_up(&self, link: usize, dials: bool) -> Generation {
        let mut state = self.lock();
        state.generation += 1;
        let generation = state.generation;
        state.links[link].up.insert(generation, dials);
        self.note(&mut state, link, dials, Change::Up);
        generation
    }

    pub(crate) fn went_down(&self, link: usize, generation: Generation, why: &'static str) {
        let mut state = self.lock();
        if let Some(dials) = state.links[link].up.remove(&generation) {
            self.note(&mut state, link, dials, Change::Down(why));
        }
    }

    /// The process is gone that this was an end of.
    pub(crate) fn killed(&self, link: usize, dials: bool) {
        self.lock().links[link].up.retain(|_, at| *at != dials);
    }

    pub(crate) fn refused(&self, link: usize, why: &'static str) {
        self.note(&mut self.lock(), link, true, Change::Refused(why));
    }

    fn note(&self, state: &mut State, link: usize, dials: bool, change: Change) {
        let at = u64::try_from(self.began.elapsed().as_micros()).unwrap();
        state.notes.push(Note { at, link, dials, change });
    }

    pub(crate) fn next_epoch(&self, link: usize) -> u32 {
        let mut state = self.lock();
        state.links[link].path_epoch += 1;
        state.links[link].path_epoch
    }

    pub(crate) fn measured(&self, link: usize, queued: u64, open: u64) {
        let mut state = self.lock();
        let book = &mut state.links[link];
        (book.queued_most, book.open_most) = (book.queued_most.max(queued), book.open_most.max(open));
    }

    pub(crate) fn submitted(&self, link: usize, handle: u32, path_epoch: u32, number: u64) {
        let mut state = self.lock();
        let flow = &mut state.links[link].flows[handle as usize];
        flow.again += u64::from(number <= flow.highest);
        flow.highest = flow.highest.max(number);
        flow.submitted = match flow.submitted {
            Some((epoch, from, _)) if epoch == path_epoch => Some((epoch, from, number)),
            _ => Some((path_epoch, number, number)),
        };
    }

    /// The applying end opens a flow: where it goes on, or nothing for an old epoch.
    pub(crate) fn opened(&self, link: usize, handle: u32, path_epoch: u32) -> Option<u64> {
        let mut state = self.lock();
        let flow = &mut state.links[link].flows[handle as usize];
        if path_epoch < flow.path_epoch {
            return None;
        }
        flow.path_epoch = path_epoch;
        flow.early.clear();
        Some(flow.came)
    }

    /// A batch came, whole and as it was sent. Returns up to where the flow is complete.
    pub(crate) fn arrived(&self, link: usize, handle: u32, path_epoch: u32, number: u64) -> Option<u64> {
        let mut state = self.lock();
        let wrong = {
            let flow = &mut state.links[link].flows[handle as usize];
            match flow.submitted {
                // Of a connection that is being replaced.
                _ if path_epoch < flow.path_epoch => return None,
                Some((epoch, from, to)) if epoch == path_epoch && (from..=to).contains(&number) => None,
                submitted => Some(format!("batch {number} of epoch {path_epoch} came, submitted was {submitted:?}")),
            }
            .or_else(|| flow.take(number, self.plan.window))
        };
        if let Some(wrong) = wrong {
            drop(state);
            self.blame(format!("link {link}, flow {handle}: {wrong}"));
            return None;
        }
        Some(state.links[link].flows[handle as usize].came)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FlowBook {
    fn take(&mut self, number: u64, window: u64) -> Option<String> {
        if number <= self.came || !self.early.insert(number) {
            return Some(format!("batch {number} came twice in one path epoch"));
        }
        if self.early.len() as u64 > window {
            return Some(format!("{} batches came early, the window is {window}", self.early.len()));
        }
        while self.early.remove(&(self.came + 1)) {
            self.came += 1;
        }
        None
    }
}
