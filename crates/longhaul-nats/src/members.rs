//! Who lives among the routers that read one NATS cluster, and which of them owns a shard. Pure: `now` is an argument.
//!
//! Every router keeps a record in a bucket ([`roster`](crate::roster)) and writes it again every [`BEAT_EVERY`]. What follows from the
//! records is judged by monotonic clocks, each by its owner alone; no clock is ever compared with that of another machine.
//!
//! *We live* for [`LEASE`] from when our last stored record was **sent**, and only as long as we read the records of the others too:
//! whoever cannot see a newcomer must not go on. *They live* until we have watched their record stand still for [`DEAD_AFTER`]. What is
//! sent at `s` is stored after `s` and seen by others later still, so they count at least to `s + 6 s`, and we have stopped at `s + 5 s`:
//! the second between is what we have for noticing it. A router that was paused finds its lease over when it wakes; and since it watched
//! nobody meanwhile, it counts the others anew instead of taking them for dead.
//!
//! A shard belongs to the living router with the highest hash of both names, among those that serve its source: a death or a newcomer
//! moves nothing else. A newcomer is counted by the others as soon as they see it, that is within one poll; it takes nothing before
//! [`SETTLE`], three polls, unless nobody else is there. So a shard changes hands with a gap rather than an overlap, though nothing
//! rests on that: owner epochs and the fence at the sink decide. What a dead router leaves in the bucket is waited for once, then removed.
//!
//! Each life of a router has a nonce. Of two processes with the same name the later one wins, for it may well be the restart of one
//! that hangs; the earlier one finds the other's nonce in its record, owns nothing, and takes over again when the other is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use longhaul_event::hash64;
use tokio::time::Instant;

/// How often our record is written.
pub(crate) const BEAT_EVERY: Duration = Duration::from_secs(2);
/// How long we own anything after we sent the last record that was stored.
pub(crate) const LEASE: Duration = Duration::from_secs(5);
/// How long a record must have stood still before its router counts as dead.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(6);
/// How long a newcomer waits for others to see it.
pub(crate) const SETTLE: Duration = Duration::from_millis(1500);
/// Between two looks that are further apart nobody watched.
const BLIND_AFTER: Duration = Duration::from_secs(3);

/// What stands in a record: one life of a router, and hashes of the sources that it serves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Record {
    pub(crate) life: String,
    pub(crate) serves: BTreeSet<u64>,
}

/// What we know of the routers.
#[derive(Debug)]
pub(crate) struct Members {
    me: String,
    life: String,
    /// Revision of our own key, whoever wrote it; 0 when it is not there.
    revision: u64,
    /// Whether this life ever had its record in the bucket.
    known: bool,
    /// Whether there was a record of another life where ours went: it may have owned until a moment ago.
    displaced: bool,
    /// A later life of our name.
    twin: Option<Other>,
    others: BTreeMap<String, Other>,
    dead: Vec<(String, u64)>,
    watching: Option<Watching>,
    /// When the last record was sent that was stored.
    renewed: Option<Instant>,
    joined: BTreeMap<u64, Joined>,
}

#[derive(Debug, Clone)]
struct Other {
    revision: u64,
    seen: Instant,
    serves: Arc<BTreeSet<u64>>,
}

/// Looks that followed each other closely.
#[derive(Debug, Clone, Copy)]
struct Watching {
    since: Instant,
    last: Instant,
}

/// A source that our stored record names.
#[derive(Debug, Clone, Copy)]
struct Joined {
    at: Instant,
    settled: bool,
}

impl Members {
    /// Nothing is known yet.
    pub(crate) fn new(me: &str, life: &str) -> Self {
        Self {
            me: me.to_owned(),
            life: life.to_owned(),
            revision: 0,
            known: false,
            displaced: false,
            twin: None,
            others: BTreeMap::new(),
            dead: Vec::new(),
            watching: None,
            renewed: None,
            joined: BTreeMap::new(),
        }
    }

    /// A record was read; `None` for one that was removed.
    pub(crate) fn heard(&mut self, name: &str, revision: u64, record: Option<Record>, now: Instant) {
        if name == self.me {
            return self.heard_mine(revision, record, now);
        }
        let Some(record) = record else {
            self.others.remove(name);
            return;
        };
        if self.others.get(name).is_none_or(|other| other.revision != revision) {
            let other = Other { revision, seen: now, serves: Arc::new(record.serves) };
            self.others.insert(name.to_owned(), other);
        }
    }

    fn heard_mine(&mut self, revision: u64, record: Option<Record>, now: Instant) {
        self.revision = revision;
        match record {
            Some(record) if record.life == self.life => self.twin = None,
            Some(_) if !self.known => self.displaced = true,
            Some(record) => {
                if self.twin.as_ref().is_none_or(|twin| twin.revision != revision) {
                    self.twin = Some(Other { revision, seen: now, serves: Arc::new(record.serves) });
                }
                self.give_up();
            }
            // Somebody took us, or our twin, for dead.
            None => {
                self.twin = None;
                self.give_up();
            }
        }
    }

    /// Our record is not what we believed: everything is about to be read again.
    pub(crate) fn doubt(&mut self) {
        self.revision = 0;
    }

    /// All records were read, by requests of which the first was sent at `started`.
    pub(crate) fn watched(&mut self, started: Instant) {
        let close = |watching: &Watching| started.saturating_duration_since(watching.last) <= BLIND_AFTER;
        let since = self.watching.filter(close).map_or(started, |watching| watching.since);
        self.watching = Some(Watching { since, last: started });
        let lives = |other: &Other| started.saturating_duration_since(other.seen.max(since)) < DEAD_AFTER;
        let dead = &mut self.dead;
        self.others.retain(|name, other| {
            let stays = lives(other);
            if !stays {
                dead.push((name.clone(), other.revision));
            }
            stays
        });
        self.twin = self.twin.take().filter(lives);
        self.settle(started);
    }

    /// Counts as seen by the others, once a look that began after our record was stored shows that nobody else is there, or in time.
    fn settle(&mut self, started: Instant) {
        let (others, displaced) = (&self.others, self.displaced);
        for (source, joined) in &mut self.joined {
            let alone = !displaced && !others.values().any(|other| other.serves.contains(source));
            let in_time = started.saturating_duration_since(joined.at) >= SETTLE;
            joined.settled |= in_time || (alone && started > joined.at);
        }
        if self.joined.values().any(|joined| joined.settled) {
            self.displaced = false;
        }
    }

    /// Our record, with these sources, was sent at `sent` and stored.
    pub(crate) fn renewed(&mut self, revision: u64, serves: &BTreeSet<u64>, sent: Instant, now: Instant) {
        self.expire(now);
        self.revision = revision;
        self.known = true;
        self.renewed = Some(sent);
        self.joined.retain(|source, _| serves.contains(source));
        for source in serves {
            self.joined.entry(*source).or_insert(Joined { at: now, settled: false });
        }
    }

    /// Whether our record should be written now, to name these sources.
    pub(crate) fn wants_beat(&self, serves: &BTreeSet<u64>, now: Instant) -> bool {
        let old = self.renewed.is_none_or(|sent| now.saturating_duration_since(sent) >= BEAT_EVERY);
        self.twin.is_none() && (old || !serves.iter().eq(self.joined.keys()))
    }

    /// Whether something that we joined waits for nothing but the next look.
    pub(crate) fn wants_look(&self) -> bool {
        let last = self.watching.map(|watching| watching.last);
        self.joined.values().any(|joined| !joined.settled && last.is_none_or(|last| last <= joined.at))
    }

    /// The revision that our next record replaces.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The routers that died since the last call, and the revisions of what they left.
    pub(crate) fn take_dead(&mut self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.dead)
    }

    /// Whether another life of our name is there.
    pub(crate) fn has_twin(&self) -> bool {
        self.twin.is_some()
    }

    /// Until when we own anything, if nothing more is heard.
    pub(crate) fn valid_until(&self) -> Option<Instant> {
        Some(self.renewed?.min(self.watching?.last) + LEASE)
    }

    /// Forgets what we owned if its time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.valid_until().is_none_or(|until| now >= until) {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.renewed = None;
        self.joined.clear();
    }

    /// What follows for shards.
    pub(crate) fn view(&mut self, now: Instant) -> View {
        self.expire(now);
        let settled = self.joined.iter().filter(|(_, joined)| joined.settled).map(|(source, _)| *source);
        View {
            me: self.me.clone(),
            sources: settled.collect(),
            others: self.others.iter().map(|(name, other)| (name.clone(), Arc::clone(&other.serves))).collect(),
        }
    }
}

/// Which shards are ours, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct View {
    me: String,
    /// Where we count.
    sources: BTreeSet<u64>,
    others: Vec<(String, Arc<BTreeSet<u64>>)>,
}

impl View {
    /// Whether we own that shard of that source.
    pub(crate) fn owns(&self, source: u64, shard: &str) -> bool {
        let ours = (weight(shard, &self.me), self.me.as_str());
        let mut rivals = self.others.iter().filter(|(_, serves)| serves.contains(&source));
        self.sources.contains(&source) && rivals.all(|(name, _)| ours > (weight(shard, name), name.as_str()))
    }
}

/// Rendezvous hashing: how much a router is meant for a shard.
fn weight(shard: &str, router: &str) -> u64 {
    hash64(format!("{shard}\n{router}").as_bytes())
}

#[cfg(test)]
mod tests;
