//! Why an event does not go somewhere.

use std::fmt;

/// Why a flow does not carry an event. The text form is the metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// No filter of the route takes its topic.
    Filter,
    /// The route's predicate does not hold.
    Predicate,
    /// Its content was transformed, with its headers copied, more often than any chain of applications does.
    TransformLoop,
    /// It was first read at the destination, or has been written there, or has just been read there.
    Loop,
    /// It has been written to as many brokers as provenance can name.
    HopLimit,
    /// The topic template cannot be filled from it: no such token, no key or header or one that is no text, or a topic too long.
    Topic,
    /// No frame of a link can hold it. The encoder finds that out, not the decision.
    TooLarge,
}

impl Refusal {
    /// All of them, for registering metrics.
    pub const ALL: [Self; 7] =
        [Self::Filter, Self::Predicate, Self::TransformLoop, Self::Loop, Self::HopLimit, Self::Topic, Self::TooLarge];

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Predicate => "predicate",
            Self::Loop => "loop",
            Self::HopLimit => "hop_limit",
            Self::TransformLoop => "transform_loop",
            Self::Topic => "topic",
            Self::TooLarge => "too_large",
        }
    }

    /// Whether the route asked for the event and cannot have it, so that leaving it out would be a loss: the flow must follow
    /// the route's poison policy. The others are no loss: nobody asked, or the destination has the event already.
    #[must_use]
    pub fn is_poison(self) -> bool {
        matches!(self, Self::HopLimit | Self::TransformLoop | Self::Topic | Self::TooLarge)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_refusal_has_a_label_of_its_own() {
        let labels: BTreeSet<&str> = Refusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
        assert_eq!(labels.len(), Refusal::ALL.len());
        assert!(labels.iter().all(|label| label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
        assert!(Refusal::ALL.iter().all(|refusal| refusal.to_string() == refusal.as_str()));
    }

    /// An event that a route asked for must never be left out in silence; one that nobody asked for, or that is there already, must not
    /// halt a flow.
    #[test]
    fn what_the_route_asked_for_and_cannot_have_is_poison_and_nothing_else() {
        let poison: Vec<_> = Refusal::ALL.into_iter().filter(|refusal| refusal.is_poison()).collect();
        assert_eq!(poison, [Refusal::TransformLoop, Refusal::HopLimit, Refusal::Topic, Refusal::TooLarge]);
    }
}
