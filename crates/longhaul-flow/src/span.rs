//! What a batch covers.

/// A batch on the wire: the offsets `(prev, last]` of one shard incarnation, and what of it the route takes.
///
/// Offsets count from 0; "before offset 0" is `u64::MAX`, as in `0.wrapping_sub(1)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The offset before the first that is covered: the `last` of the batch before it.
    pub prev: u64,
    /// The last offset that is covered.
    pub last: u64,
    /// Number of events; 0 when the route skips the whole range.
    pub events: u32,
    /// Their size, uncompressed: what counts against credit.
    pub bytes: u32,
}

impl Span {
    /// Whether it covers nothing: an empty START, or a touch.
    pub(crate) fn is_point(&self) -> bool {
        self.prev == self.last
    }

    /// Whether `last` lies before `prev`, or events are said to lie in an empty range: no honest owner sends that.
    pub(crate) fn is_broken(&self) -> bool {
        ordinal(self.last) < ordinal(self.prev) || u64::from(self.events) > ordinal(self.last) - ordinal(self.prev)
    }
}

/// Offsets in the order of the log: "before offset 0" comes first.
pub(crate) fn ordinal(offset: u64) -> u64 {
    offset.wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_first_offset_comes_first() {
        assert!(ordinal(u64::MAX) < ordinal(0));
        assert!(ordinal(0) < ordinal(1));
    }

    #[test]
    fn broken_spans_are_seen() {
        assert!(!Span { prev: u64::MAX, last: 0, events: 1, bytes: 9 }.is_broken());
        assert!(Span { prev: 5, last: 4, events: 0, bytes: 0 }.is_broken());
        assert!(Span { prev: 5, last: 6, events: 2, bytes: 0 }.is_broken());
    }
}
