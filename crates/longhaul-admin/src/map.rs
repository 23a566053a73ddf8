//! The links of the mesh document as this router knows them: one line for each pair of linked regions. Pure: views in, values out.
//!
//! A router knows the links that it dials, those of its own region. What other regions hold between them it does not know, and says so:
//! [`LinkState::Unknown`] is never drawn as if it were well.

use longhaul_router::MeshView;
use serde::{Deserialize, Serialize};

use crate::snapshot::LinkLine;

/// How a link of the mesh document stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Every router of the other region is reached.
    Up,
    /// Some of its routers are reached, not all.
    Partial,
    /// None is reached.
    Down,
    /// Not dialled by this router.
    Unknown,
}

impl LinkState {
    /// The word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Partial => "partial",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

/// A link of the mesh document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapLink {
    /// The regions, as the document has them.
    pub between: [String; 2],
    /// How it stands.
    pub state: LinkState,
    /// Routers of the other region that are reached, of how many that are dialled.
    pub reached: [usize; 2],
    /// Shortest round-trip time among them, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Bytes sent in a second, over all of them.
    pub sent_rate: Option<f64>,
    /// Bytes received in a second, over all of them.
    pub received_rate: Option<f64>,
    /// Share of sent packets that were lost, the worst of them.
    pub loss: Option<f64>,
    /// Why it is not up, or not known.
    pub reason: Option<String>,
}

/// Every link of the document, in its order.
pub(crate) fn map(mesh: &MeshView, links: &[LinkLine]) -> Vec<MapLink> {
    mesh.links.iter().map(|between| link(between, &mesh.region, links)).collect()
}

fn link(between: &[String; 2], here: &str, links: &[LinkLine]) -> MapLink {
    let other = match between {
        [a, b] if a == here => Some(b),
        [a, b] if b == here => Some(a),
        _ => None,
    };
    let dialled: Vec<&LinkLine> = links.iter().filter(|line| Some(&line.link.region) == other).collect();
    let up: Vec<&LinkLine> = dialled.iter().copied().filter(|line| line.link.up).collect();
    let state = match (other, up.len()) {
        (None, _) => LinkState::Unknown,
        (Some(_), 0) => LinkState::Down,
        (Some(_), some) if some < dialled.len() => LinkState::Partial,
        (Some(_), _) => LinkState::Up,
    };
    let down = dialled.iter().find(|line| !line.link.up).and_then(|line| line.link.error.clone());
    let reason = match state {
        LinkState::Up => None,
        LinkState::Unknown => Some("only its own regions see it".to_owned()),
        LinkState::Partial | LinkState::Down => Some(down.unwrap_or_else(|| "not reached yet".to_owned())),
    };
    MapLink {
        between: between.clone(),
        state,
        reached: [up.len(), dialled.len()],
        rtt_ms: up.iter().map(|line| line.link.rtt_ms).min_by(f64::total_cmp),
        sent_rate: sum(&up, |line| line.sent_rate),
        received_rate: sum(&up, |line| line.received_rate),
        loss: up.iter().filter_map(|line| line.loss).max_by(f64::total_cmp),
        reason,
    }
}

/// What is known of it; `None` when nothing is.
fn sum(lines: &[&LinkLine], of: impl Fn(&LinkLine) -> Option<f64>) -> Option<f64> {
    lines.iter().filter_map(|line| of(line)).reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::{dialled, mesh};

    fn states(links: &[LinkLine]) -> Vec<LinkState> {
        map(&mesh(), links).iter().map(|link| link.state).collect()
    }

    #[test]
    fn a_link_is_known_to_whoever_dials_it_and_to_nobody_else() {
        let found = map(&mesh(), &[dialled("b", true), dialled("c", false)]);
        let states: Vec<_> = found.iter().map(|link| link.state).collect();
        assert_eq!(states, [LinkState::Up, LinkState::Down, LinkState::Unknown]);
        assert_eq!(found[0].reason, None);
        assert_eq!(found[1].reason.as_deref(), Some("refused"));
        assert!(found[2].reason.is_some());
        assert_eq!((found[0].rtt_ms, found[2].rtt_ms), (Some(2.0), None));
    }

    #[test]
    fn a_region_is_partly_reached_when_one_of_its_routers_is() {
        let two = [dialled("b", true), dialled("b", false), dialled("c", true)];
        assert_eq!(states(&two), [LinkState::Partial, LinkState::Up, LinkState::Unknown]);
        let rates: Vec<_> =
            map(&mesh(), &[dialled("b", true), dialled("b", true)]).iter().map(|link| link.sent_rate).collect();
        assert_eq!(rates, [Some(200.0), None, None]);
    }

    #[test]
    fn what_was_never_dialled_is_not_up() {
        assert_eq!(states(&[]), [LinkState::Down, LinkState::Down, LinkState::Unknown]);
    }
}
