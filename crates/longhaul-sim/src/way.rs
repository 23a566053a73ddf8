//! Which neighbour a flow goes over: the choice of the router's links and of its owning flows, call for call.

use std::collections::BTreeSet;
use std::time::Duration;

/// How long a link must be up before flows that found another way come back to it.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// How long after the start the best neighbour is waited for that no link was up to yet.
const FIRST_LINK_WAIT: Duration = Duration::from_secs(3);
/// How long another way is preferred to a neighbour that had no way on.
const AVOIDED_FOR: Duration = Duration::from_secs(5);
/// How long it is not asked again where there is no other.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A link that this router dialled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub conn: u64,
    pub peer: usize,
    pub region: usize,
    pub since: Duration,
}

/// The links of a router as its flows see them.
pub(crate) struct Neighbours<'a> {
    pub links: &'a [Link],
    /// Regions that a link was up to, at any time.
    pub seen: &'a BTreeSet<usize>,
    pub started: Duration,
}

impl Neighbours<'_> {
    pub(crate) fn link(&self, conn: u64) -> Option<&Link> {
        self.links.iter().find(|link| link.conn == conn)
    }

    pub(crate) fn has_many(&self, region: usize) -> bool {
        self.links.iter().filter(|link| link.region == region).count() > 1
    }

    /// The link over the best neighbour that has one up and is not to be avoided.
    pub(crate) fn over(
        &self,
        now: Duration,
        ways: &[usize],
        rank: impl Fn(usize) -> u64,
        avoided: impl Fn(usize) -> bool,
    ) -> Option<Link> {
        let is_live = |hop: usize| self.links.iter().any(|link| link.region == hop);
        // Right after the start, no way over others is taken only because their link came up first.
        let is_due = |hop: usize| !self.seen.contains(&hop) && now < self.started + FIRST_LINK_WAIT;
        let hop = ways.iter().copied().filter(|hop| !avoided(*hop)).find(|hop| is_live(*hop) || is_due(*hop))?;
        let there = self.links.iter().filter(|link| link.region == hop);
        there.max_by_key(|link| rank(link.peer)).copied()
    }

    /// Whether there is a better way than over that link, up for a while.
    pub(crate) fn has_better(
        &self,
        now: Duration,
        ways: &[usize],
        conn: u64,
        rank: impl Fn(usize) -> u64,
        avoided: impl Fn(usize) -> bool,
    ) -> bool {
        let Some(own) = self.link(conn) else { return false };
        let settled =
            |hop: usize| self.links.iter().filter(move |link| link.region == hop && now >= link.since + SETTLED_AFTER);
        settled(own.region).any(|link| rank(link.peer) > rank(own.peer))
            || ways
                .iter()
                .take_while(|better| **better != own.region)
                .any(|better| !avoided(*better) && settled(*better).next().is_some())
    }
}

/// Neighbours that had no way on, and since when that is known.
#[derive(Debug, Default)]
pub(crate) struct Avoided(Vec<(usize, Duration)>);

impl Avoided {
    pub(crate) fn add(&mut self, hop: usize, now: Duration) {
        self.0.push((hop, now));
    }

    pub(crate) fn forget(&mut self, now: Duration) {
        self.0.retain(|(_, since)| now < *since + AVOIDED_FOR);
    }

    pub(crate) fn remove(&mut self, hop: usize) {
        self.0.retain(|(avoided, _)| *avoided != hop);
    }

    pub(crate) fn has(&self, hop: usize) -> bool {
        self.0.iter().any(|(avoided, _)| *avoided == hop)
    }

    /// Where no other way is left, one that was refused is tried again soon.
    pub(crate) fn is_rested(&self, hop: usize, now: Duration) -> bool {
        self.0.iter().all(|(avoided, since)| *avoided != hop || now >= *since + ASK_AGAIN_AFTER)
    }
}
