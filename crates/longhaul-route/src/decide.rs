//! The decision: does this flow carry this event, and with which provenance?
//!
//! An event may be forwarded again from where the mesh wrote it (chains of routes are allowed), but never to where it was first read
//! or has been written. What a bridge of somebody else brought is known to be where it is read now, though its path does not say so:
//! that place is added to the path together with the next one.

use bytes::BytesMut;
use longhaul_event::Event;
use longhaul_event::provenance::{HOPS_MAX, Hop, Place, View, topic_hash};

use crate::predicate::Lookup;
use crate::table::Destination;
use crate::{Admission, CompiledRoute, Refusal, render};

impl CompiledRoute {
    /// Whether the flow to that destination carries the event, which has been through [`ingress`](crate::ingress).
    ///
    /// # Errors
    /// Why it does not: the first reason in the order of [`Refusal`].
    ///
    /// # Panics
    /// When there is no such destination.
    pub fn decide(&self, to: usize, event: &Event, admission: Admission) -> Result<(), Refusal> {
        self.decide_where(to, event, admission, self.takes_topic(event))
    }

    /// [`decide`](Self::decide) for events of one shard; `verdicts` is emptied and gets one for each. Events of equal topic that
    /// follow each other, as those of a Kafka partition do, are matched once.
    ///
    /// # Panics
    /// When there is no such destination, or not one admission for each event.
    pub fn decide_batch(
        &self,
        to: usize,
        events: &[Event],
        admissions: &[Admission],
        verdicts: &mut Vec<Result<(), Refusal>>,
    ) {
        assert_eq!(events.len(), admissions.len(), "every event has its admission");
        verdicts.clear();
        let mut last: Option<(&Event, bool)> = None;
        verdicts.extend(events.iter().zip(admissions).map(|(event, admission)| {
            let takes_topic = match last {
                Some((before, takes)) if before.topic == event.topic => takes,
                _ => self.takes_topic(event),
            };
            last = Some((event, takes_topic));
            self.decide_where(to, event, *admission, takes_topic)
        }));
    }

    fn takes_topic(&self, event: &Event) -> bool {
        self.filters.as_ref().is_none_or(|filters| filters.matches_any(&event.topic))
    }

    fn decide_where(&self, to: usize, event: &Event, admission: Admission, takes_topic: bool) -> Result<(), Refusal> {
        let destination = &self.destinations[to];
        if !takes_topic {
            return Err(Refusal::Filter);
        }
        if self.predicate.as_ref().is_some_and(|predicate| !predicate.holds(&Lookup::new(event))) {
            return Err(Refusal::Predicate);
        }
        // Before the path: that is its ancestor's and says nothing about it.
        if let Admission::Refused(refusal) = admission {
            return Err(refusal);
        }
        self.check_path(destination, event)?;
        let template = &self.route.to[to].topic;
        if destination.may_lack_topic
            && !render::can_render(template, event, &self.route.from.region, &self.route.from.broker)
        {
            return Err(Refusal::Topic);
        }
        Ok(())
    }

    fn check_path(&self, destination: &Destination, event: &Event) -> Result<(), Refusal> {
        let path = View::new(&event.provenance);
        if destination.place == self.place || path.is_some_and(|path| path.visited(destination.place)) {
            return Err(Refusal::Loop);
        }
        let hops = path.map_or(0, |path| path.hops().len() + usize::from(!path.visited(self.place)));
        if hops < HOPS_MAX { Ok(()) } else { Err(Refusal::HopLimit) }
    }

    /// Appends the topic that the event has at that destination, if [`decide`](Self::decide) took it.
    ///
    /// # Panics
    /// When there is no such destination.
    pub fn render(&self, to: usize, event: &Event, topic: &mut String) {
        let from = &self.route.from;
        render::render(&self.route.to[to].topic, event, &from.region, &from.broker, topic);
    }

    /// The provenance to write with the event at that destination under that topic, if [`decide`](Self::decide) took it: what it came
    /// with, and the hop. Replaces what is in `provenance`, whose room serves one event after the other.
    ///
    /// # Panics
    /// When there is no such destination.
    pub fn stamp(&self, to: usize, event: &Event, admission: &Admission, topic: &str, provenance: &mut BytesMut) {
        debug_assert!(!matches!(admission, Admission::Refused(_)), "what was refused is not written");
        provenance.clear();
        let Some(path) = View::new(&event.provenance) else { return provenance.extend_from_slice(&event.provenance) };
        let hops = [hop(self.place, event.topic.as_str()), hop(self.destinations[to].place, topic)];
        let new = if path.visited(self.place) { &hops[1..] } else { &hops[..] };
        let fits = path.extend_into(new, provenance);
        debug_assert!(fits, "the decision refuses what has too many hops");
    }
}

fn hop(place: Place, topic: &str) -> Hop {
    Hop { place, topic: topic_hash(topic) }
}
