//! Keeps this router among those that share the JetStream shards of one broker, and tells sources which shards are ours.
//!
//! One task for each broker, from the first JetStream source on: it reads the bucket, writes our record, and publishes what follows
//! ([`members`](crate::members) judges, [`roster`](crate::roster) asks). Whatever keeps it from doing so ends our ownership in time, and is
//! said in the broker's health. Dropping it is a crash to the others; [`leave`](Ownership::leave) is a clean end.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use longhaul_broker::{Context, Shard, SourceError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use crate::client::{Link, Session};
use crate::cursor::is_fenced;
use crate::health::Report;
use crate::members::{BEAT_EVERY, Members, View};
use crate::roster::Roster;

/// How often the bucket is read.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long reading it and writing our record may take.
const ROUND_MAX: Duration = Duration::from_secs(2);
/// How long a clean end may take.
const LEAVE_MAX: Duration = Duration::from_secs(1);

type Wanted = BTreeMap<u64, usize>;

/// Our place among the routers that read one broker.
#[derive(Debug)]
pub(crate) struct Ownership {
    wanted: watch::Sender<Wanted>,
    views: watch::Receiver<View>,
    leave: watch::Sender<bool>,
    keeper: tokio::task::JoinHandle<()>,
}

/// One source that is served as long as this lives.
#[derive(Debug)]
pub(crate) struct Serving {
    wanted: watch::Sender<Wanted>,
    views: watch::Receiver<View>,
    source: u64,
}

impl Ownership {
    /// Starts taking part. Must be called inside a tokio runtime.
    pub(crate) fn start(link: Arc<Link>, ctx: &Context, report: Report) -> Self {
        let (wanted, wants) = watch::channel(Wanted::new());
        let (tx, views) = watch::channel(View::default());
        let (leave, leaving) = watch::channel(false);
        let life = new_life();
        let keeper = Keeper {
            link,
            session: None,
            roster: Roster::new(ctx),
            members: Members::new(&ctx.router, &life),
            router: ctx.router.clone(),
            life,
            read_to: 0,
            wants,
            views: tx,
            report,
            told: None,
        };
        Self { wanted, views, leave, keeper: tokio::spawn(keeper.run(leaving)) }
    }

    /// From now on this router serves that source.
    pub(crate) fn serve(&self, source: u64) -> Serving {
        self.wanted.send_modify(|wanted| *wanted.entry(source).or_default() += 1);
        Serving { wanted: self.wanted.clone(), views: self.views.clone(), source }
    }

    /// Gives everything up and removes our record, so that the others need not wait.
    pub(crate) async fn leave(&self) {
        self.leave.send_replace(true);
        // The keeper alone hears of what is wanted.
        let _ = timeout(2 * LEAVE_MAX, self.wanted.closed()).await;
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.wanted.send_modify(|wanted| {
            if let Some(count) = wanted.get_mut(&self.source) {
                *count -= 1;
            }
            wanted.retain(|_, count| *count > 0);
        });
    }
}

impl Serving {
    /// Tells which of the candidates are ours, for ever.
    pub(crate) async fn filter(
        self,
        mut candidates: watch::Receiver<Arc<Vec<Shard>>>,
        owned: watch::Sender<Arc<Vec<Shard>>>,
    ) {
        let mut views = self.views.clone();
        loop {
            let (all, view) = (Arc::clone(&candidates.borrow_and_update()), views.borrow_and_update().clone());
            let ours = all.iter().filter(|shard| view.owns(self.source, &shard.name)).cloned().collect();
            tell(&owned, ours);
            let changed = tokio::select! {
                changed = candidates.changed() => changed,
                changed = views.changed() => changed,
            };
            if changed.is_err() {
                return tell(&owned, Vec::new());
            }
        }
    }
}

fn tell(owned: &watch::Sender<Arc<Vec<Shard>>>, shards: Vec<Shard>) {
    owned.send_if_modified(|now| {
        let changed = **now != shards;
        if changed {
            *now = Arc::new(shards);
        }
        changed
    });
}

/// Another text for every life of every process.
fn new_life() -> String {
    let mut random = RandomState::new().build_hasher();
    random.write_u32(std::process::id());
    format!("{:016x}", random.finish())
}

struct Keeper {
    link: Arc<Link>,
    /// The connection that was asked last.
    session: Option<Session>,
    roster: Roster,
    members: Members,
    router: String,
    life: String,
    /// The last revision that was read.
    read_to: u64,
    wants: watch::Receiver<Wanted>,
    views: watch::Sender<View>,
    report: Report,
    told: Option<String>,
}

impl Keeper {
    async fn run(mut self, mut leaving: watch::Receiver<bool>) {
        tokio::select! {
            () = self.stay() => {}
            () = async { drop(leaving.wait_for(|leave| *leave).await) } => {}
        }
        self.leave().await;
    }

    async fn stay(&mut self) {
        loop {
            let done = timeout_at(self.no_later_than(ROUND_MAX), self.round()).await;
            let done = done.unwrap_or_else(|_| Err(self.unanswered()));
            self.publish();
            let looks_again = done.is_ok() && self.members.wants_look();
            self.tell(done.err());
            if !looks_again {
                let pause = sleep_until(self.no_later_than(LOOK_EVERY));
                tokio::select! {
                    () = pause => {}
                    Ok(()) = self.wants.changed() => {}
                }
            }
        }
    }

    /// In that time, or when what we own is over.
    fn no_later_than(&self, pause: Duration) -> Instant {
        let limit = Instant::now() + pause;
        self.members.valid_until().map_or(limit, |until| until.min(limit))
    }

    /// Reads what is new, then writes our record if it is time. Who cannot read does not write: the others must not count on it.
    async fn round(&mut self) -> Result<(), SourceError> {
        self.session = None;
        let session = self.link.session().await?;
        self.session = Some(session.clone());
        self.look(&session).await?;
        self.publish();
        for (name, revision) in self.members.take_dead() {
            info!(router = name, "a router of this region does not answer any more; its shards move");
            // The others try as well, and it may be back meanwhile: a refusal is as good.
            let _ = self.roster.remove(&session, &name, revision).await;
        }
        let serves: BTreeSet<u64> = self.wants.borrow_and_update().keys().copied().collect();
        if self.members.wants_beat(&serves, Instant::now()) {
            self.beat(&session, &serves).await?;
        }
        Ok(())
    }

    async fn look(&mut self, session: &Session) -> Result<(), SourceError> {
        let started = Instant::now();
        while let Some(entry) = self.roster.next(session, self.read_to).await? {
            self.read_to = entry.revision;
            self.members.heard(&entry.name, entry.revision, entry.record, Instant::now());
        }
        self.members.watched(started);
        Ok(())
    }

    async fn beat(&mut self, session: &Session, serves: &BTreeSet<u64>) -> Result<(), SourceError> {
        let (sent, over) = (Instant::now(), self.members.revision());
        match self.roster.put(session, &self.router, &self.life, serves, over).await {
            Ok(revision) => {
                self.members.renewed(revision, serves, sent, Instant::now());
                Ok(())
            }
            // Somebody else wrote it, or the bucket was made anew: the next look shows which.
            Err(error) if is_fenced(&error) => {
                self.read_to = 0;
                self.members.doubt();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What it means that a round was not done in time.
    fn unanswered(&self) -> SourceError {
        let bucket = self.roster.bucket();
        match self.session.as_ref().and_then(Session::permission_error) {
            Some(text) => SourceError::Config(format!("NATS does not let us use the bucket {bucket}: {text}")),
            None => SourceError::Transient(format!("the bucket {bucket} does not answer")),
        }
    }

    fn publish(&mut self) {
        let view = self.members.view(Instant::now());
        self.views.send_if_modified(|now| {
            let changed = *now != view;
            *now = view;
            changed
        });
    }

    /// Says in the log and in the broker's health why we own nothing. A hiccup within the lease is nobody's concern.
    fn tell(&mut self, error: Option<SourceError>) {
        let trouble = match error {
            _ if self.members.has_twin() => Some(format!(
                "another router named {} reads from this broker: names must be unique in a region; this one owns nothing until the other is gone",
                self.router
            )),
            Some(error) if self.members.valid_until().is_none_or(|until| until <= Instant::now() + BEAT_EVERY) => {
                Some(format!("shards cannot be shared out, so this router owns none: {error}"))
            }
            Some(_) => return,
            None => None,
        };
        // A connection that is not there says so itself.
        if self.session.is_none() {
            return;
        }
        if trouble == self.told {
            return;
        }
        match &trouble {
            Some(reason) => {
                warn!(reason, "no part in the sources of this broker");
                self.report.down(reason);
            }
            None => self.report.up(),
        }
        self.told = trouble;
    }

    /// A clean end: first our sources own nothing any more, then the others may have it. The record is ours to remove only while it is ours.
    async fn leave(mut self) {
        // Without views every source gives up what it owns, and wants nothing any more.
        drop(std::mem::take(&mut self.views));
        let work = async {
            let _ = self.wants.wait_for(Wanted::is_empty).await;
            if self.members.valid_until().is_none() {
                return Ok(());
            }
            let session = self.link.session().await?;
            // A record that was being written may have another revision than we know.
            self.look(&session).await?;
            if !self.members.has_twin() {
                self.roster.remove(&session, &self.router, self.members.revision()).await?;
            }
            Ok::<_, SourceError>(())
        };
        let done = timeout(LEAVE_MAX, work).await.unwrap_or_else(|_| Err(self.unanswered()));
        if let Err(error) = done {
            warn!(%error, "our record could not be removed; the other routers take over a little later");
        }
    }
}
