//! What happens on the way from one router to another, each way for itself.

/// The state of a way. Times are in microseconds, shares in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Nothing gets through.
    pub cut: bool,
    /// How long a datagram takes.
    pub delay: u64,
    /// Bytes in a second.
    pub rate: u64,
    /// How long a datagram may wait for its turn before it is dropped.
    pub queue: u64,
    /// How many are lost.
    pub loss: u64,
    /// How many take up to `late` longer, and are overtaken.
    pub reorder: u64,
    /// How much longer those take at most.
    pub late: u64,
    /// How many arrive twice.
    pub duplicate: u64,
    /// How many arrive with a bit turned over.
    pub spoil: u64,
    /// The largest payload of UDP that gets through; what is larger is swallowed without a word.
    pub payload_max: usize,
}

/// The largest payload of UDP over IPv4 in Ethernet.
pub(crate) const ETHERNET_PAYLOAD: usize = 1500 - 28;

impl Weather {
    /// Nothing goes wrong: 100 Mbit/s, 100 ms of queue.
    #[must_use]
    pub fn fair(delay: u64) -> Self {
        Self {
            cut: false,
            delay,
            rate: 12_500_000,
            queue: 100_000,
            loss: 0,
            reorder: 0,
            late: 0,
            duplicate: 0,
            spoil: 0,
            payload_max: ETHERNET_PAYLOAD,
        }
    }
}
