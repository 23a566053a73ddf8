//! Losses: how many in a round, and which share of them is not ours to mend.
//!
//! Start with [`Ledger`]. Some paths lose packets at random, whatever one sends. The only honest way to tell that from a full queue is to
//! send less and look: what is lost all the same is the *floor*, and only losses above it count as overload.

/// More than that is no random loss, whatever it looks like.
const FLOOR_MAX: f64 = 0.12;
/// Packets that must have been answered before a share of losses means anything.
const JUDGED_PACKETS: u64 = 200;
/// How fast the floor follows when less is lost than it says.
const FALL: f64 = 0.25;

/// What became of what was sent.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    acknowledged: u64,
    lost: u64,
}

impl Tally {
    fn bytes(self) -> u64 {
        self.acknowledged + self.lost
    }

    fn share(self) -> f64 {
        self.lost as f64 / self.bytes().max(1) as f64
    }
}

/// Counts acknowledged and lost bytes, by round and since the last judgement of the floor.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    round: Tally,
    recent: Tally,
    low: Tally,
    floor: f64,
}

impl Ledger {
    /// Bytes arrived. `low`: they were sent while we sent clearly less than the path takes, and no queue stood.
    pub(super) fn acknowledged(&mut self, bytes: u64, low: bool) {
        self.round.acknowledged += bytes;
        self.recent.acknowledged += bytes;
        if low {
            self.low.acknowledged += bytes;
        }
    }

    /// Bytes were lost.
    pub(super) fn lost(&mut self, bytes: u64, low: bool) {
        self.round.lost += bytes;
        self.recent.lost += bytes;
        if low {
            self.low.lost += bytes;
        }
    }

    /// Bytes lost in this round beyond the floor, where at least `base` bytes were sent.
    pub(super) fn excess(&self, base: u64) -> f64 {
        let base = base.max(self.round.bytes()).max(1) as f64;
        self.round.lost as f64 / base - self.floor
    }

    /// Bytes lost in this round.
    pub(super) fn round_lost(&self) -> u64 {
        self.round.lost
    }

    /// Ends a round; returns the share of it that was lost beyond the floor.
    pub(super) fn end_round(&mut self, mtu: u64) -> f64 {
        let excess = self.round.share() - self.floor;
        self.round = Tally::default();
        if self.recent.bytes() >= JUDGED_PACKETS * mtu {
            // Down whenever less is lost; up only by an experiment.
            let share = self.recent.share();
            if share < self.floor {
                self.floor -= FALL * (self.floor - share);
            }
            self.recent = Tally::default();
        }
        excess.max(0.0)
    }

    /// Begins an experiment: from now on, what is marked low counts.
    pub(super) fn begin_low(&mut self) {
        self.low = Tally::default();
    }

    /// Ends it, if enough was seen: what was lost although we sent less becomes the floor. Returns whether that explains the losses.
    pub(super) fn judge_low(&mut self, mtu: u64) -> Option<f64> {
        if self.low.bytes() < JUDGED_PACKETS * mtu {
            return None;
        }
        let share = self.low.share().min(FLOOR_MAX);
        self.low = Tally::default();
        self.floor = self.floor.max(share);
        self.recent = Tally::default();
        Some(share)
    }

    /// The share of packets that is lost whatever we do.
    pub(super) fn floor(&self) -> f64 {
        self.floor
    }
}
