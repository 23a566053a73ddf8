//! Which versions of the protocol speak with each other: the one before, the same, and the one after.
//!
//! A mesh is upgraded router by router, so that two versions meet for as long as that takes. Each side says in its [`Hello`](crate::Hello) the
//! version that it speaks, and both speak the lower one: who is newer knows what the one before it said. Routers that are further apart part
//! again at the Hello, before any flow is opened. What may be added without a new version: fields at the end of a Hello, bits in its `features`,
//! kinds of frames from [`SKIPPABLE_FROM`](crate::SKIPPABLE_FROM) on.

/// How far two routers may be apart.
pub const VERSION_SKEW_MAX: u16 = 1;

/// The version that both speak, or `None` when they cannot. There is no version 0.
#[must_use]
pub fn agreed_version(here: u16, there: u16) -> Option<u16> {
    (there > 0 && here.abs_diff(there) <= VERSION_SKEW_MAX).then_some(here.min(there))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_before_and_the_one_after_are_spoken_to_and_the_next_ones_are_not() {
        let at = |there| agreed_version(7, there);
        assert_eq!([5, 6, 7, 8, 9].map(at), [None, Some(6), Some(7), Some(7), None]);
    }

    #[test]
    fn nothing_comes_before_the_first_version() {
        assert_eq!([0, 1, 2, 3].map(|there| agreed_version(1, there)), [None, Some(1), Some(1), None]);
    }

    #[test]
    fn both_ends_come_to_the_same() {
        for (here, there) in (1..6).flat_map(|here| (1..6).map(move |there| (here, there))) {
            assert_eq!(agreed_version(here, there), agreed_version(there, here), "{here} and {there}");
        }
        assert_eq!(agreed_version(1, u16::MAX), None);
    }
}
