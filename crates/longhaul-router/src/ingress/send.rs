//! Sending: what of a batch the route takes, as far as credit goes, as one batch on the wire.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::FutureExt;
use longhaul_broker::SourceError;
use longhaul_event::{Event, correlation};
use longhaul_flow::Span;
use longhaul_route::Refusal;
use longhaul_telemetry::During;
use longhaul_topology::{Class, OnPoison};
use longhaul_wire::{BATCH_EVENTS_MAX, Chain, Compression, WireError};

use super::{BATCH_BYTES_MAX, COMPRESSION, Driver, PROGRESS_AFTER};
use crate::audit::Fate;
use crate::cursor::Cursor;
use crate::links::Port;
use crate::refusals::Refusals;
use crate::ring::RingBatch;
use crate::tap::Outcome;

impl Driver {
    /// Encodes what the route takes of a batch, as far as credit goes, and submits it.
    pub(super) fn send_batch(&mut self, batch: &Arc<RingBatch>) {
        let Some(allowance) = self.owner.allowance() else { return };
        let flow = Arc::clone(&self.flow);
        let from = batch.events.partition_point(|event| event.offset < self.next);
        let (events, admissions) = (&batch.events[from..], &batch.admissions[from..]);
        let deciding = flow.tracer.as_ref().map(|_| SystemTime::now());
        flow.route.decide_batch(self.flow.to, events, admissions, &mut self.verdicts);
        let decided = deciding.map(|began| (began, SystemTime::now()));
        let bytes_max = allowance.bytes.min(BATCH_BYTES_MAX);
        let events_max = allowance.events.min(u64::from(BATCH_EVENTS_MAX));
        let drops = flow.route.route().on_poison == OnPoison::Drop;
        let (mut looked_at, mut size, mut end) = (0, 0, batch.end);
        for ((event, admission), verdict) in events.iter().zip(admissions).zip(&mut self.verdicts) {
            if self.audit.is_full() {
                end = event.offset;
                break;
            }
            if let Err(refusal) = verdict {
                if refusal.is_poison() && !drops {
                    if self.encoder.is_empty() {
                        let reason = refusal.as_str();
                        return self.cannot_carry(batch, event.offset, reason);
                    }
                    end = event.offset;
                    break;
                }
                self.refusals.add(*refusal);
                self.audit.add(event.offset, if refusal.is_poison() { Fate::Dropped } else { Fate::Filtered });
            } else {
                self.topic.clear();
                flow.route.render(flow.to, event, &mut self.topic);
                flow.route.stamp(flow.to, event, admission, &self.topic, &mut self.provenance);
                // An event that is larger than a batch goes alone, as soon as there is credit for it.
                let room = match self.encoder.is_empty() {
                    true => allowance.bytes,
                    false => bytes_max.saturating_sub(self.encoder.len() as u64),
                };
                let fits = encoded_bound(event, &self.topic, &self.provenance) <= room
                    && u64::from(self.encoder.count()) < events_max;
                let alone = self.encoder.is_empty() && allowance.overdraft;
                if !(fits || alone) {
                    end = event.offset;
                    break;
                }
                if let Err(error) = self.encoder.push(event, &self.topic, &self.provenance) {
                    if drops && !matches!(error, WireError::BatchFull) {
                        *verdict = Err(Refusal::TooLarge);
                        self.refusals.add(Refusal::TooLarge);
                        self.audit.add(event.offset, Fate::Dropped);
                    } else if self.encoder.is_empty() {
                        return self.cannot_carry(batch, event.offset, &error.to_string());
                    } else {
                        end = event.offset;
                        break;
                    }
                } else {
                    self.audit.add(event.offset, Fate::Delivered);
                }
            }
            looked_at += 1;
            size += event.size();
        }
        flow.status.read(looked_at, size as u64);
        let events = &events[..usize::try_from(looked_at).unwrap_or(events.len())];
        self.audit.read(events);
        self.refusals.flush(&flow.status);
        if end < batch.end && matches!(self.cursor, Cursor::Own(_)) {
            self.rest = Some(Arc::clone(batch));
        }
        // Nothing fits into what is left: only an acknowledgement brings more.
        let full = self.audit.is_full();
        let starved = end < batch.end && self.encoder.is_empty() && !full;
        let moved = self.next != end;
        self.next = end;
        if !self.encoder.is_empty() || full {
            let sent = self.send_span();
            if sent && let Some(decided) = decided {
                self.trace(batch, events, decided);
            }
            self.tap(events, sent);
        } else if moved {
            self.tap(events, false);
            self.skipped_since.get_or_insert(self.flow.now());
            // A flow that never gets to the end of what it skips must say how far it is all the same.
            self.report_progress();
        }
        if end < batch.end && (starved || self.owner.allowance().is_none_or(|left| left.bytes < BATCH_BYTES_MAX)) {
            let now = self.flow.now();
            self.owner.handle_blocked(now);
            self.blocked = true;
        }
    }

    /// An event that cannot be sent stays in its source; the flow stops before it and says so, once all that went before is delivered.
    fn cannot_carry(&mut self, batch: &Arc<RingBatch>, offset: u64, reason: &str) {
        (self.rest, self.refusals) = (None, Refusals::default());
        self.audit.take_back(self.next);
        if self.owner.in_flight() != (0, 0) {
            self.rest = matches!(self.cursor, Cursor::Own(_)).then(|| Arc::clone(batch));
            // Looked at again with the next acknowledgement.
            self.blocked = true;
            return;
        }
        let text = format!("the event at offset {offset} cannot be sent: {reason}");
        let event = batch.events.iter().find(|event| event.offset == offset);
        if let Some(event) = event
            && self.flow.status.set_fault(&text)
        {
            tracing::warn!(
                flow = %self.flow.status.name(), offset, event = %event.id,
                correlation_id = correlation(&event.headers).as_deref(), reason,
                "an event cannot be sent; its flow halts before it"
            );
            if let Some(tapping) = self.flow.tap.tapping() {
                tapping.see(event, Outcome::Halted, Some(reason));
            }
        }
        self.source_failed(&SourceError::Config(text));
    }

    /// Records spans of what was sent. A send ends when the link has the batch: what it waits there for shows between send and receive.
    fn trace(&self, batch: &RingBatch, looked_at: &[Event], decided: During) {
        let taken = looked_at.iter().zip(&self.verdicts).filter(|(_, verdict)| verdict.is_ok()).map(|(event, _)| event);
        if let Some(tracer) = &self.flow.tracer {
            let sent = (decided.1, SystemTime::now());
            tracer.sent(taken, self.owner.path_epoch(), [batch.read, decided, sent]);
        }
    }

    /// Shows what has become of each event to those who tap.
    fn tap(&self, looked_at: &[Event], sent: bool) {
        let Some(tapping) = self.flow.tap.tapping() else { return };
        for (event, verdict) in looked_at.iter().zip(&self.verdicts) {
            let (outcome, reason) = match verdict {
                // It comes again.
                Ok(()) if !sent => continue,
                Ok(()) => (Outcome::Sent, None),
                Err(Refusal::Filter) => (Outcome::Skipped, None),
                Err(refusal) if refusal.is_poison() => (Outcome::Dropped, Some(refusal.as_str())),
                Err(refusal) => (Outcome::Refused, Some(refusal.as_str())),
            };
            tapping.see(event, outcome, reason);
        }
    }

    /// Returns whether the batch is on its way.
    fn send_span(&mut self) -> bool {
        let Some(sent) = self.owner.sent() else { return false };
        let (events, bytes) = (self.encoder.count(), u32::try_from(self.encoder.len()).unwrap_or(u32::MAX));
        let span = Span { prev: sent.offset, last: self.next.wrapping_sub(1), events, bytes };
        let batch = self.encoder.finish(self.chain(false, self.incarnation, span.prev, span.last), COMPRESSION);
        self.skipped_since = None;
        let sends = self.owner.handle_sent(self.flow.now(), span);
        if sends {
            self.audit.end_span(span.last);
            self.flow.status.sent(events, bytes);
            self.submit(batch);
        }
        sends
    }

    /// Skipped events that no event follows are covered by an empty batch after a while, so that cursors move on.
    pub(super) fn report_progress(&mut self) {
        let now = self.flow.now();
        if self.skipped_since.is_some_and(|since| now >= since + PROGRESS_AFTER) {
            self.send_span();
        }
    }

    /// An empty batch that covers nothing: begins a chain, or asks the applier to say where it is.
    pub(super) fn send_point(&mut self, start: bool, incarnation: u64, after: u64) {
        let batch = self.encoder.finish(self.chain(start, incarnation, after, after), Compression::None);
        self.submit(batch);
    }

    pub(super) fn chain(&self, start: bool, incarnation: u64, prev: u64, last: u64) -> Chain {
        let handle = self.port.as_ref().map_or(0, Port::handle);
        Chain { handle, path_epoch: self.owner.path_epoch(), start, incarnation, prev, last }
    }

    pub(super) fn submit(&mut self, batch: Bytes) {
        let class = if matches!(self.cursor, Cursor::Own(_)) { Class::CatchUp } else { self.flow.route.route().class };
        if let Some(port) = &self.port {
            let mut submitting = port.submit(class, batch);
            // Most of the time there is room at once; then nothing needs to be waited for.
            if (&mut submitting).now_or_never().is_none() {
                self.submitting = Some(submitting);
            }
        }
    }
}

/// Bytes that an event takes in a batch at the most.
fn encoded_bound(event: &Event, topic: &str, provenance: &[u8]) -> u64 {
    (event.size() + topic.len() + provenance.len()) as u64
}
