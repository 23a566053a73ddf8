//! The states of both machines and every step between them, as tables: (state, event) to state, or a typed refusal.
//!
//! A refused step is not an error of the program: late answers are normal (an Accept of a path that was given up, a sink that opens
//! after the drain). The machines ignore them, and say so to their driver.

/// Where an owner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OwnerState {
    /// No way to an applier.
    Idle,
    /// Asked an applier to open; waits for its Accept.
    Opening,
    /// Accepted; waits for a reader at the position to resume from.
    Seeking,
    /// Sends within credit.
    Streaming,
    /// Waits before it opens again.
    Faulted,
}

/// What moves an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnerEvent {
    LinkUp,
    /// A link came up while a fault of the source still has to be waited out.
    LinkUpEarly,
    LinkDown,
    Accepted,
    Seeked,
    SourceFailed,
    Reset,
    OpenTimedOut,
    /// No progress, or a contradiction.
    Broken,
    RetryDue,
}

/// Where an applier stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApplierState {
    /// No sink, no path.
    Closed,
    /// The sink is being opened; a path waits for it.
    Opening,
    /// The sink is being opened; the path that asked for it is gone.
    Abandoned,
    /// Takes batches and writes them.
    Serving,
    /// The path is gone; what was accepted is still written, and a new path goes on from there.
    Severed,
    /// Takes nothing more, writes what it has.
    Draining,
    /// Done for good.
    Drained,
}

/// What moves an applier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApplierEvent {
    Open,
    /// An Open before which others may have moved the cursor, while nothing is under way here.
    OpenAnew,
    SinkOpened,
    SinkFailed,
    PathLost,
    Violated,
    Drain,
    Flushed,
}

/// A step that the table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadTransition;

impl OwnerState {
    pub(crate) fn next(self, event: OwnerEvent) -> Result<Self, BadTransition> {
        use OwnerEvent as E;
        use OwnerState as S;
        Ok(match (self, event) {
            // The first way, or a new one.
            (S::Idle, E::LinkUp) => S::Opening,
            (S::Idle, E::LinkUpEarly) => S::Faulted,
            // Whatever was under way on that path is void; the next Accept says from where it is done again.
            (_, E::LinkDown) => S::Idle,
            (S::Opening, E::Accepted) => S::Seeking,
            (S::Seeking, E::Seeked) => S::Streaming,
            // The reader cannot be opened, or broke while streaming.
            (S::Seeking | S::Streaming, E::SourceFailed) => S::Faulted,
            (S::Opening | S::Seeking | S::Streaming, E::Reset) => S::Faulted,
            (S::Opening, E::OpenTimedOut) => S::Faulted,
            (S::Streaming, E::Broken) => S::Faulted,
            (S::Faulted, E::RetryDue) => S::Opening,
            _ => return Err(BadTransition),
        })
    }

    /// The word for status pages and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Opening => "opening",
            Self::Seeking => "seeking",
            Self::Streaming => "streaming",
            Self::Faulted => "faulted",
        }
    }
}

impl ApplierState {
    pub(crate) fn next(self, event: ApplierEvent) -> Result<Self, BadTransition> {
        use ApplierEvent as E;
        use ApplierState as S;
        Ok(match (self, event) {
            // An open path needs a sink; a live one serves at once.
            (S::Closed | S::Opening | S::Abandoned, E::Open | E::OpenAnew) => S::Opening,
            // The writer goes, and the cursor is read again.
            (S::Serving | S::Severed, E::OpenAnew) => S::Opening,
            (S::Serving | S::Severed, E::Open) => S::Serving,
            (S::Opening, E::SinkOpened) => S::Serving,
            (S::Abandoned, E::SinkOpened) => S::Severed,
            // What was accepted and not written is void; the next cursor says from where it is done again.
            (S::Opening | S::Abandoned | S::Serving | S::Severed, E::SinkFailed) => S::Closed,
            // What was accepted is kept: the same owner comes back over another path.
            (S::Serving | S::Severed, E::PathLost) => S::Severed,
            (S::Opening | S::Abandoned, E::PathLost) => S::Abandoned,
            (S::Serving, E::Violated) => S::Severed,
            // Nothing to flush without a sink.
            (S::Closed | S::Opening | S::Abandoned, E::Drain) => S::Drained,
            (S::Serving | S::Severed, E::Drain) => S::Draining,
            (S::Draining, E::Flushed | E::SinkFailed) => S::Drained,
            // A router that goes away stays away: these change nothing, and an Open is answered with a Reset.
            (S::Closed, E::PathLost) => S::Closed,
            (S::Draining | S::Drained, E::Open | E::OpenAnew | E::PathLost | E::Drain) => self,
            _ => return Err(BadTransition),
        })
    }

    /// Whether a sink is being opened.
    pub(crate) fn is_opening(self) -> bool {
        matches!(self, Self::Opening | Self::Abandoned)
    }

    /// Whether a writer is live.
    pub(crate) fn has_sink(self) -> bool {
        matches!(self, Self::Serving | Self::Severed | Self::Draining)
    }

    /// The word for status pages and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Opening => "opening",
            Self::Abandoned => "abandoned",
            Self::Serving => "serving",
            Self::Severed => "severed",
            Self::Draining => "draining",
            Self::Drained => "drained",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Write as _};

    use super::*;

    fn table<S: Copy + Debug, E: Copy + Debug>(
        states: &[S],
        events: &[E],
        next: fn(S, E) -> Result<S, BadTransition>,
    ) -> String {
        let mut text = String::new();
        for &state in states {
            for &event in events {
                let to = next(state, event).map_or_else(|_| "-".to_owned(), |to| format!("{to:?}"));
                writeln!(text, "{:<10} {:<13} {to}", format!("{state:?}"), format!("{event:?}")).unwrap();
            }
        }
        text
    }

    #[test]
    fn owner_transitions() {
        use OwnerEvent as E;
        use OwnerState as S;
        let states = [S::Idle, S::Opening, S::Seeking, S::Streaming, S::Faulted];
        let events = [
            E::LinkUp,
            E::LinkUpEarly,
            E::LinkDown,
            E::Accepted,
            E::Seeked,
            E::SourceFailed,
            E::Reset,
            E::OpenTimedOut,
            E::Broken,
            E::RetryDue,
        ];
        insta::assert_snapshot!(table(&states, &events, S::next));
    }

    #[test]
    fn applier_transitions() {
        use ApplierEvent as E;
        use ApplierState as S;
        let states = [S::Closed, S::Opening, S::Abandoned, S::Serving, S::Severed, S::Draining, S::Drained];
        let events =
            [E::Open, E::OpenAnew, E::SinkOpened, E::SinkFailed, E::PathLost, E::Violated, E::Drain, E::Flushed];
        insta::assert_snapshot!(table(&states, &events, S::next));
    }
}
