//! What the destination refuses for good: left out or parked, as the route says, when the flow comes to it again; and the books.
//!
//! A refused event breaks the writer. The flow opens again behind what is confirmed, and this time the event is taken out of its batch:
//! parked first, so that no cursor moves over it before, then what stands with it is written.

use futures::FutureExt;
use longhaul_broker::SinkError;
use longhaul_event::{Event, Position, correlation};
use longhaul_flow::Span;
use longhaul_telemetry::set_aside;
use longhaul_topology::OnPoison;

use super::{Batch, Driver};
use crate::audit::Fate;
use crate::parked::{Refused, park};
use crate::tap::Outcome;

impl Driver {
    /// Takes refused events out of a batch, and writes the batch into the books. Returns those that are to be parked.
    pub(super) fn set_aside(&mut self, span: Span, events: &mut Vec<Event>) -> Vec<(Event, Refused)> {
        let Some(accepted) = self.applier.accepted() else { return Vec::new() };
        self.begin_books(accepted.incarnation, span.prev);
        self.audit.read(events);
        let of_span = |refused: &Refused| {
            let found = events.binary_search_by_key(&refused.at.offset, |event| event.offset);
            refused.at.incarnation == accepted.incarnation && found.is_ok()
        };
        if !self.refused.iter().any(of_span) {
            self.audit.add_all(events, Fate::Delivered);
            self.audit.end_span(span.last);
            return Vec::new();
        }
        let parks = self.plan.route.route().on_poison == OnPoison::Park;
        let (mut kept, mut aside) = (Vec::with_capacity(events.len()), Vec::new());
        for event in events.drain(..) {
            let at = Position { offset: event.offset, ..accepted };
            let refused = self.refused.iter().find(|refused| refused.at == at);
            match refused {
                None => {
                    self.audit.add(event.offset, Fate::Delivered);
                    kept.push(event);
                }
                Some(refused) if parks => {
                    self.audit.add(event.offset, Fate::Parked);
                    let refused = Refused { at, kind: refused.kind, reason: refused.reason.clone() };
                    aside.push((event, refused));
                }
                Some(refused) => {
                    self.audit.add(event.offset, Fate::Dropped);
                    tracing::warn!(
                        flow = %self.flow.status.name(), offset = event.offset, event = %event.id,
                        correlation_id = correlation(&event.headers).as_deref(), reason = refused.reason,
                        "left out an event that its destination refuses"
                    );
                    if let Some(tapping) = self.flow.tap.tapping() {
                        tapping.see(&event, Outcome::Dropped, Some(&refused.reason));
                    }
                }
            }
        }
        self.audit.end_span(span.last);
        *events = kept;
        aside
    }

    /// Spans of events that are not written: with the reason for which they were set aside.
    pub(super) fn end_aside(&self, batch: &mut Batch) {
        if let Some(tracer) = self.flow.tracer.as_ref().filter(|_| !batch.watched.writing.is_empty()) {
            let aside = set_aside(&mut batch.watched.writing, &batch.events);
            tracer.written(aside, Some("set aside: the destination refuses it"));
        }
    }

    /// Parks events; `rest`, which stands with them, is written when that is done.
    pub(super) fn park(&mut self, rest: Batch, aside: Vec<(Event, Refused)>) {
        let Some(place) = self.plan.parking.clone() else {
            return self.sink_failed(&SinkError::Config("the destination has no place for what it refuses".to_owned()));
        };
        self.ask();
        let (flow, partition) = (self.flow.key.clone(), self.partition);
        self.parked = Some(rest);
        let (status, tapping) = (std::sync::Arc::clone(&self.flow.status), self.flow.tap.tapping());
        self.parking = Some(
            async move {
                let kinds: Vec<_> = aside.iter().map(|(_, refused)| refused.kind).collect();
                let tapped = tapping.map(|tapping| (tapping, aside.clone()));
                park(place, flow, partition, aside).await?;
                kinds.into_iter().for_each(|kind| status.parked(kind));
                if let Some((tapping, parked)) = tapped {
                    let see = |(event, refused): &(Event, Refused)| {
                        tapping.see(event, Outcome::Parked, Some(&refused.reason));
                    };
                    parked.iter().for_each(see);
                }
                Ok(())
            }
            .boxed(),
        );
    }

    pub(super) fn handle_parked(&mut self, parked: Result<(), SinkError>) {
        self.parking = None;
        self.heard = self.flow.now();
        match (parked, self.parked.take()) {
            (Ok(()), Some(rest)) => self.write(rest),
            (Ok(()), None) => {}
            (Err(error), _) => self.sink_failed(&error),
        }
    }

    /// The sink was opened and has that cursor: what is not behind it comes again.
    pub(super) fn reopen_books(&mut self, cursor: Option<Position>) {
        if let Some(cursor) = cursor {
            match self.audit.incarnation() {
                None => self.audit.begin(cursor.incarnation, cursor.offset),
                Some(_) => self.audit.meet(cursor),
            }
        }
        self.audit.void();
    }

    /// A chain of another life of the shard is delivered from here: the one before it is written to its end.
    fn begin_books(&mut self, incarnation: u64, prev: u64) {
        if self.audit.incarnation() != Some(incarnation) {
            let begins = self.begins.take().filter(|begins| begins.incarnation == incarnation);
            self.audit.settle_all();
            self.audit.begin(incarnation, begins.map_or(prev, |begins| begins.offset));
        }
    }
}
