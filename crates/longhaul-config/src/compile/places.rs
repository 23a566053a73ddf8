//! Where in its document each part of a mesh stands, so that a problem of the mesh gets a line and a column.

use std::collections::BTreeMap;

use longhaul_topology::{Place, Problem, Severity};

use crate::report::{Report, Span};

/// Spans by place.
#[derive(Debug, Default)]
pub(crate) struct Places(BTreeMap<Place, Span>);

impl Places {
    pub(crate) fn put(&mut self, place: Place, span: Span) {
        self.0.insert(place, span);
    }

    /// The span of a place, or of the next larger one that is written: `topic` may be left out, its destination is not.
    pub(crate) fn span(&self, place: Place) -> Span {
        let mut at = Some(place);
        while let Some(place) = at {
            if let Some(span) = self.0.get(&place) {
                return *span;
            }
            at = around(place);
        }
        Span::default()
    }

    /// The problem as a report.
    pub(crate) fn report(&self, problem: &Problem) -> Report {
        let mut report = Report::new(self.span(problem.at), &problem.label, &problem.message);
        report.related = problem.related.iter().map(|(place, label)| (self.span(*place), label.clone())).collect();
        report.help.clone_from(&problem.help);
        report.note = problem.kind.severity() == Severity::Note;
        report
    }
}

/// What a place is part of.
fn around(place: Place) -> Option<Place> {
    match place {
        Place::Routers(region) | Place::Broker(region, _) => Some(Place::Region(region)),
        Place::LinkEnd(link, _) => Some(Place::Link(link)),
        Place::FromRegion(route) | Place::FromBroker(route) | Place::FromTopic(route, _) => Some(Place::From(route)),
        Place::ToRegion(route, to)
        | Place::ToBroker(route, to)
        | Place::ToTopic(route, to)
        | Place::ToPartition(route, to) => Some(Place::To(route, to)),
        Place::From(route) | Place::To(route, _) | Place::Guarantee(route) | Place::OnPoison(route) => {
            Some(Place::Route(route))
        }
        Place::MirrorFrom(mirror) | Place::MirrorTo(mirror) => Some(Place::Mirror(mirror)),
        Place::Region(_) | Place::Link(_) | Place::Route(_) | Place::Mirror(_) => None,
    }
}
