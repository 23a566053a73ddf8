//! Which life of a partition a position belongs to, so that nobody reads on in another log than the one that was read.
//!
//! ```text
//! incarnation   cuts: 8 bits | hash of Kafka's topic id: 56 bits
//! ```
//! A topic that is deleted and made again has another id. A log that is cut off at its end (by an unclean leader election) keeps the id,
//! and what comes next takes offsets that were read before: the cuts that this router noticed count as lives too. No disk: after a
//! restart, or at another router, only the cursors of flows that went on behind a cut bring its number back. Where no id is known
//! (Kafka before 2.8) only cuts count.
//!
//! The client library tells topic ids, and where a log was cut, in nothing but two lines of its own log, which [`Heard`] reads; the
//! tests against a real broker fail when a new version words them otherwise. Start with [`Life`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use longhaul_broker::Gap;
use longhaul_event::{Position, hash64};

/// The part of librdkafka's log that has the lines.
pub(crate) const LOGGED: &str = "topic";
/// How many bits of an incarnation are the topic's.
const TOPIC_BITS: u32 = 56;

/// A partition's topic and number.
pub(crate) type Address = (String, i32);

/// The topic's part of an incarnation.
pub(crate) fn topic_of(incarnation: u64) -> u64 {
    incarnation & ((1 << TOPIC_BITS) - 1)
}

fn cuts_of(incarnation: u64) -> u64 {
    incarnation >> TOPIC_BITS
}

/// One partition as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Life {
    topic: u64,
    /// At most 255; further cuts are not told apart.
    cuts: u64,
    /// The lowest offset at which it was cut, as far as that is known.
    end: Option<u64>,
}

impl Life {
    fn incarnation(&self) -> u64 {
        self.topic | self.cuts << TOPIC_BITS
    }

    fn cut(&mut self, end: u64) {
        self.cuts = (self.cuts + 1).min(u64::from(u8::MAX));
        self.end = Some(self.end.map_or(end, |before| before.min(end)));
    }

    /// The offset behind a position, if the log from `low` to before `high` still has all that follows it.
    fn judge(&mut self, position: Position, low: u64, high: u64) -> Result<u64, Gap> {
        if topic_of(position.incarnation) != self.topic {
            return Err(Gap::Recreated { cursor: position.incarnation, found: self.incarnation() });
        }
        let (cuts, cursor) = (cuts_of(position.incarnation), position.offset);
        if cuts > self.cuts {
            // Noticed by somebody before us, who could not tell us where.
            *self = Self { cuts, end: None, ..*self };
        }
        let next = cursor.wrapping_add(1);
        if let Some(end) = self.end.filter(|end| cuts < self.cuts && next > *end) {
            return Err(Gap::Truncated { cursor, end });
        }
        if next < low {
            return Err(Gap::Purged { from: next, to: low });
        }
        if next > high {
            self.cut(high);
            return Err(Gap::Truncated { cursor, end: high });
        }
        Ok(next)
    }
}

/// The lives of all partitions of a cluster; as many as it has partitions that were ever read.
#[derive(Default)]
pub(crate) struct Lives(Mutex<BTreeMap<Address, Life>>);

impl Lives {
    /// Does that with the life of a partition of the topic with that number.
    fn of<T>(&self, address: &Address, topic: u64, act: impl FnOnce(&mut Life) -> T) -> T {
        let mut lives = locked(&self.0);
        let life = lives.entry(address.clone()).or_default();
        if life.topic != topic {
            *life = Life { topic, ..Life::default() };
        }
        act(life)
    }

    /// The incarnation now.
    pub(crate) fn now(&self, address: &Address, topic: u64) -> u64 {
        self.of(address, topic, |life| life.incarnation())
    }

    /// Whether another incarnation of it is known by now.
    pub(crate) fn is_former(&self, address: &Address, incarnation: u64) -> bool {
        locked(&self.0).get(address).is_some_and(|life| life.incarnation() != incarnation)
    }

    /// The incarnation now and the offset behind a position, if the log from `low` to before `high` still has all that follows it.
    ///
    /// # Errors
    /// [`Gap::Recreated`] for a position in another topic, [`Gap::Purged`] below the log's beginning, [`Gap::Truncated`] beyond its end,
    /// or behind where it was cut since: that stays so however far the log grows.
    pub(crate) fn judge(
        &self,
        address: &Address,
        topic: u64,
        position: Position,
        low: u64,
        high: u64,
    ) -> Result<(u64, u64), Gap> {
        self.of(address, topic, |life| life.judge(position, low, high).map(|next| (life.incarnation(), next)))
    }

    /// Whoever reads that incarnation found that the log was cut off there; told once by each reader.
    pub(crate) fn cut(&self, address: &Address, incarnation: u64, end: u64) {
        self.of(address, topic_of(incarnation), |life| {
            if life.incarnation() == incarnation {
                life.cut(end);
            }
        });
    }
}

/// What one client has said about topics in its log.
#[derive(Default)]
pub(crate) struct Heard {
    /// Number of topics by name.
    topics: Mutex<BTreeMap<String, u64>>,
    cuts: Mutex<Vec<(Address, u64)>>,
    news: AtomicBool,
    lines: AtomicU64,
}

impl Heard {
    /// Takes a line of the log.
    pub(crate) fn hear(&self, fac: &str, line: &str) {
        if fac == "METADATA"
            && let Some((topic, number)) = topic_line(line)
        {
            locked(&self.topics).insert(topic.to_owned(), number);
            self.news.store(true, Ordering::Release);
        }
        if fac == "OFFSET"
            && let Some((topic, partition, end)) = cut_line(line)
        {
            locked(&self.cuts).push(((topic.to_owned(), partition), end));
            self.news.store(true, Ordering::Release);
        }
        self.lines.fetch_add(1, Ordering::Release);
    }

    /// How many lines it has said.
    pub(crate) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Acquire)
    }

    /// The number of a topic, if the cluster has told its id.
    pub(crate) fn topic(&self, name: &str) -> Option<u64> {
        locked(&self.topics).get(name).copied()
    }

    /// Whether something was said since this was asked.
    pub(crate) fn take_news(&self) -> bool {
        self.news.load(Ordering::Relaxed) && self.news.swap(false, Ordering::AcqRel)
    }

    /// Where logs were cut, each told once.
    pub(crate) fn take_cuts(&self) -> Vec<(Address, u64)> {
        std::mem::take(&mut *locked(&self.cuts))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `.. Topic orders changed id from AAAAAAAAAAAAAAAAAAAAAA to iVLAwNhFRUmYI_tVcUrb6g`, at the first sight of a topic as well.
fn topic_line(line: &str) -> Option<(&str, u64)> {
    let (topic, ids) = line.rsplit_once("Topic ")?.1.split_once(" changed id from ")?;
    let (_, id) = ids.split_once(" to ")?;
    Some((topic, topic_of(hash64(id.trim().as_bytes())).max(1)))
}

/// `.. orders [3]: offset reset (at ..) ..: Partition log truncation detected at ..: broker end offset is 100 (offset leader epoch 0). ..`
fn cut_line(line: &str) -> Option<(&str, i32, u64)> {
    let (place, reason) = line.split_once("]: offset reset (at ")?;
    let (topic, partition) = place.rsplit_once(" [")?;
    let topic = topic.rsplit_once(": ").map_or(topic, |(_, topic)| topic);
    let end = reason.split_once("broker end offset is ")?.1.split_once(' ')?.0;
    Some((topic, partition.parse().ok()?, u64::try_from(end.parse::<i64>().ok()?).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: u64 = 0xabc;

    fn at(cuts: u64, offset: u64) -> Position {
        Position { incarnation: TOPIC | cuts << TOPIC_BITS, offset }
    }

    fn life() -> Life {
        Life { topic: TOPIC, ..Life::default() }
    }

    #[test]
    fn a_cursor_is_taken_only_where_nothing_is_missing() {
        assert_eq!(life().judge(at(0, 9), 10, 20), Ok(10), "the first event that is left is the next one");
        assert_eq!(life().judge(at(0, 8), 10, 20), Err(Gap::Purged { from: 9, to: 10 }));
        assert_eq!(life().judge(at(0, 19), 10, 20), Ok(20), "all was read");
        assert_eq!(life().judge(at(0, 20), 10, 20), Err(Gap::Truncated { cursor: 20, end: 20 }));
        assert_eq!(life().judge(at(0, u64::MAX), 0, 20), Ok(0), "before offset 0");
        assert_eq!(life().judge(at(0, u64::MAX), 3, 20), Err(Gap::Purged { from: 0, to: 3 }));
        for other in [0, 7, TOPIC ^ 1] {
            let position = Position { incarnation: other, offset: 15 };
            assert_eq!(life().judge(position, 10, 20), Err(Gap::Recreated { cursor: other, found: TOPIC }));
        }
    }

    #[test]
    fn what_was_cut_off_stays_a_gap_however_far_the_log_grows() {
        let mut life = life();
        let gap = Err(Gap::Truncated { cursor: 149, end: 100 });
        assert_eq!(life.judge(at(0, 149), 0, 100), gap);
        assert_eq!(life.judge(at(0, 149), 0, 5000), gap);
        assert_eq!(life.judge(at(0, 99), 0, 5000), Ok(100), "nothing is missing behind it");
        assert_eq!(life.judge(at(1, 149), 0, 5000), Ok(150), "read after the cut");
        assert_eq!(life.incarnation(), at(1, 0).incarnation);
        assert_eq!(life.judge(at(1, 6000), 0, 5000), Err(Gap::Truncated { cursor: 6000, end: 5000 }), "cut again");
        assert_eq!(life.judge(at(1, 4999), 0, 9000), Err(Gap::Truncated { cursor: 4999, end: 100 }), "rather too much");
        assert_eq!(life.judge(at(2, 5001), 0, 9000), Ok(5002));
    }

    #[test]
    fn a_cursor_brings_back_the_number_of_cuts_after_a_restart() {
        let mut life = life();
        assert_eq!(life.judge(at(3, 149), 0, 200), Ok(150));
        assert_eq!(life.incarnation(), at(3, 0).incarnation);
        assert_eq!(life.judge(at(2, 149), 0, 200), Ok(150), "where it was cut is forgotten");
    }

    #[test]
    fn every_reader_tells_of_a_cut_and_it_counts_once() {
        let (lives, address) = (Lives::default(), ("t".to_owned(), 0));
        let first = lives.now(&address, TOPIC);
        for _ in 0..2 {
            lives.cut(&address, first, 100);
        }
        assert_eq!(lives.now(&address, TOPIC), at(1, 0).incarnation);
        assert!(lives.is_former(&address, first) && !lives.is_former(&address, at(1, 0).incarnation));
        assert!(lives.judge(&address, TOPIC, at(0, 100), 0, 200).is_err());
        assert_eq!(lives.now(&address, TOPIC + 1), TOPIC + 1, "a topic made again was never cut");
    }

    #[test]
    fn the_client_tells_ids_and_cuts_in_its_log() {
        let heard = Heard::default();
        assert!(!heard.take_news());
        heard.hear(
            "METADATA",
            "[thrd:main]: Topic a.b changed id from AAAAAAAAAAAAAAAAAAAAAA to iVLAwNhFRUmYI_tVcUrb6g",
        );
        assert!(heard.take_news() && !heard.take_news());
        let first = heard.topic("a.b").expect("it was told");
        heard.hear(
            "METADATA",
            "[thrd:main]: Topic a.b changed id from iVLAwNhFRUmYI_tVcUrb6g to JVLAwNhFRUmYI_tVcUrb6g",
        );
        assert_ne!(heard.topic("a.b"), Some(first));
        heard.hear("METADATA", "[thrd:main]: Topic a.b [0] Leader 1 Epoch 0");
        assert_eq!((heard.lines(), heard.topic("b")), (3, None));
        let line = "[thrd:main]: a.b [3]: offset reset (at offset INVALID (leader epoch 2), broker 2) to offset INVALID (leader epoch -1): \
                    Partition log truncation detected at offset 150 (leader epoch 0): broker end offset is 100 (offset leader epoch 0). \
                    Reset to INVALID.: Local: Partition log truncation detected";
        heard.hear("OFFSET", line);
        assert_eq!(heard.take_cuts(), [(("a.b".to_owned(), 3), 100)]);
        heard.hear(
            "OFFSET",
            "[thrd:main]: a.b [3]: offset reset (at offset 7 (leader epoch 2), broker 2) to END: out of range",
        );
        assert_eq!(heard.take_cuts(), []);
    }
}
