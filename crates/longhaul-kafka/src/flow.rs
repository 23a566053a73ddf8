//! One flow on its way into Kafka: events in order, handed to the producer as far as there is room.
//!
//! A write hands over what it can at once, on the caller's thread; librdkafka copies and returns. What finds no room, or a topic that
//! is not known yet, stays in line, and the futures of the writes hand it over, one of them at a time and in order. Once anything
//! fails, nothing more is handed over: the flow is spent, and nothing overtakes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longhaul_broker::{Poison, SinkError};
use longhaul_event::{Event, HeaderTag, Identity};
use longhaul_topic::Topic;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use crate::batch::{Batch, Pending};
use crate::map::{ID, IDENTITY, OF_CONTENT, PROVENANCE, batch_bytes, check_topic, header_value, payload};
use crate::producer::{NotTaken, Producer};
use crate::topics::{TopicInfo, Topics};

/// Bytes of one flow that may be under way: a flow whose partition has no leader must not fill the producer that others use.
const FLOW_BYTES_MAX: usize = 16 << 20;
/// The producer does not tell when there is room again.
const ROOM_POLL: Duration = Duration::from_millis(2);
/// Topics whose details a flow keeps at hand.
const TOPICS_MAX: usize = 1000;

/// An open flow.
pub(crate) struct Flow {
    topics: Arc<Topics>,
    /// The partition to write, for `partition: same`.
    partition: Option<u32>,
    tombstone_on_empty: bool,
    pub(crate) pending: Arc<Pending>,
    line: Mutex<VecDeque<Chunk>>,
    driver: tokio::sync::Mutex<Driver>,
}

/// A write that waits in line.
struct Chunk {
    events: VecDeque<Event>,
    batch: Arc<Batch>,
}

/// Who hands over; one at a time.
#[derive(Default)]
struct Driver {
    current: Option<Chunk>,
    topics: HashMap<Topic, Target>,
    /// Whether every event gets a batch of its own.
    alone: bool,
}

/// A topic and who writes it.
#[derive(Clone)]
struct Target {
    info: Arc<TopicInfo>,
    producer: Arc<Producer>,
}

enum Step {
    /// Nothing is in line.
    Idle,
    /// There is no room.
    Full,
    /// Nothing is known of this topic.
    Ask(Topic),
}

enum Sent {
    Yes,
    Not(Step),
    Refused(SinkError),
}

impl Flow {
    pub(crate) fn new(
        topics: Arc<Topics>,
        pending: Arc<Pending>,
        partition: Option<u32>,
        tombstone_on_empty: bool,
    ) -> Self {
        let (line, driver) = Default::default();
        Self { topics, partition, tombstone_on_empty, pending, line, driver }
    }

    /// Puts events in line and hands over what can be handed over now.
    pub(crate) fn write(&self, events: Vec<Event>) -> Arc<Batch> {
        let batch = Batch::new(Arc::clone(&self.pending), &events);
        let chunk = Chunk { events: events.into(), batch: Arc::clone(&batch) };
        self.line.lock().unwrap_or_else(PoisonError::into_inner).push_back(chunk);
        // Whoever drives already comes to it in order.
        if let Ok(mut driver) = self.driver.try_lock() {
            let _ = driver.advance(self);
        }
        batch
    }

    /// Hands over until this batch is through, or given up.
    pub(crate) async fn drive(&self, batch: &Batch) {
        while !batch.is_sealed() {
            let mut driver = self.driver.lock().await;
            match driver.advance(self) {
                Step::Idle => {}
                Step::Full => tokio::time::sleep(ROOM_POLL).await,
                Step::Ask(topic) => match self.topics.destination(topic.as_str()).await {
                    // It is known from now on, unless everything is in doubt again.
                    Ok(_) => {}
                    Err(error) => driver.refuse(error),
                },
            }
        }
    }

    /// What was known of topics may be wrong: a write failed.
    pub(crate) fn doubt(&self) {
        self.topics.doubt();
    }

    fn next(&self) -> Option<Chunk> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Where an event of that topic goes.
    fn target(&self, topic: &Topic, alone: bool) -> Result<Target, Sent> {
        let name = topic.as_str();
        let Some(info) = self.topics.known(name) else {
            return Err(Sent::Not(Step::Ask(topic.clone())));
        };
        let producer = match alone {
            false => Arc::clone(&info.producer),
            true => self.topics.cautious(&info).map_err(Sent::Refused)?,
        };
        Ok(Target { info, producer })
    }

    fn send(&self, event: &Event, batch: &Arc<Batch>, Target { info, producer }: &Target) -> Sent {
        let poison = |kind, reason| Sent::Refused(SinkError::Poison { offset: event.offset, kind, reason });
        if let Some(limit) = info.batch_limit {
            let bytes = batch_bytes(event);
            if bytes > limit {
                let topic = &event.topic;
                let reason =
                    format!("it takes {bytes} bytes, and Kafka topic {topic} {limit} at most (max.message.bytes)");
                return poison(Poison::TooLarge, reason);
            }
        }
        if let Some(partition) = self.partition.filter(|partition| *partition >= info.partitions) {
            let (topic, partitions) = (&event.topic, info.partitions);
            return Sent::Refused(SinkError::Config(format!(
                "partition: same: Kafka topic {topic} has {partitions} partitions, none with number {partition}"
            )));
        }
        if self.pending.bytes() > FLOW_BYTES_MAX {
            return Sent::Not(Step::Full);
        }
        let Some(headers) = headers(event) else {
            return poison(Poison::Refused, "the value of a typed header is malformed".to_owned());
        };
        let mut record = BaseRecord::with_opaque_to(event.topic.as_str(), Arc::clone(batch)).headers(headers);
        record.key = event.key.as_deref();
        record.payload = payload(event, self.tombstone_on_empty);
        record.partition = self.partition.and_then(|partition| i32::try_from(partition).ok());
        // Without a time, Kafka's client takes the present one.
        record.timestamp = Some(event.time_ms).filter(|ms| *ms > 0);
        match producer.send(record) {
            Ok(()) => Sent::Yes,
            Err(NotTaken::Full) => Sent::Not(Step::Full),
            Err(NotTaken::TooLarge) => {
                poison(Poison::TooLarge, "larger than the client's `message.max.bytes`".to_owned())
            }
            Err(NotTaken::Failed(error)) => Sent::Refused(SinkError::Transient(format!("Kafka: {error}"))),
        }
    }
}

impl Driver {
    /// Hands over in order until there is nothing, no room, or a question.
    fn advance(&mut self, flow: &Flow) -> Step {
        let alone = flow.pending.is_cautious();
        self.topics.retain(|_, target| target.info.is_fresh() && !target.producer.is_dead());
        loop {
            if self.current.is_none() {
                self.current = flow.next();
            }
            let Some(chunk) = &mut self.current else { return Step::Idle };
            let Some(event) = chunk.events.front() else {
                chunk.batch.seal();
                self.current = None;
                continue;
            };
            if flow.pending.is_spent() {
                let reason = "an earlier write of this flow failed, or its writer is gone";
                chunk.batch.fail(event.offset, SinkError::Transient(reason.to_owned()));
                chunk.batch.seal();
                self.current = None;
                continue;
            }
            if alone != self.alone {
                // Two producers keep no order between them.
                if !flow.pending.is_idle() {
                    return Step::Full;
                }
                self.alone = alone;
                self.topics.clear();
            }
            let sent = match self.topics.get(&event.topic) {
                Some(target) => flow.send(event, &chunk.batch, target),
                None => match check_topic(event.topic.as_str()) {
                    Err(reason) => {
                        let (offset, kind) = (event.offset, Poison::BadTopic);
                        Sent::Refused(SinkError::Poison { offset, kind, reason })
                    }
                    Ok(()) => match flow.target(&event.topic, alone) {
                        Err(not) => not,
                        Ok(target) => {
                            if self.topics.len() >= TOPICS_MAX {
                                self.topics.clear();
                            }
                            let target = self.topics.entry(event.topic.clone()).insert_entry(target);
                            flow.send(event, &chunk.batch, target.get())
                        }
                    },
                },
            };
            match sent {
                Sent::Yes => {
                    chunk.events.pop_front();
                }
                Sent::Not(step) => return step,
                Sent::Refused(error) => self.refuse(error),
            }
        }
    }

    /// The event that is next cannot be handed over; it stays, so that the flow ends with it.
    fn refuse(&mut self, error: SinkError) {
        let Some(chunk) = &self.current else { return };
        let offset = chunk.events.front().map_or(u64::MAX, |event| event.offset);
        chunk.batch.fail(offset, error);
    }
}

/// The headers of a record: the application's, then Longhaul's. `None` when a value cannot be said.
fn headers(event: &Event) -> Option<OwnedHeaders> {
    let mut headers = OwnedHeaders::new_with_capacity(4);
    for header in event.headers.iter() {
        // Nearly all values are plain bytes.
        if header.tag == HeaderTag::BYTES {
            headers = headers.insert(Header { key: header.name, value: Some(header.value) });
            continue;
        }
        let value = header_value(&header)?;
        headers = headers.insert(Header { key: header.name, value: value.as_deref() });
    }
    headers = headers.insert(Header { key: ID, value: Some(&hex(event.id.0)[..]) });
    if event.identity == Identity::Content {
        headers = headers.insert(Header { key: IDENTITY, value: Some(OF_CONTENT) });
    }
    if !event.provenance.is_empty() {
        headers = headers.insert(Header { key: PROVENANCE, value: Some(&event.provenance[..]) });
    }
    Some(headers)
}

/// 32 lower-case hex digits, without an allocation.
fn hex(value: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (at, digit) in digits.iter_mut().enumerate() {
        let nibble = (value >> (124 - 4 * at)) & 0xf;
        *digit = b"0123456789abcdef"[usize::try_from(nibble).expect("four bits fit")];
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_written_as_it_is_read() {
        for value in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0011_2233_4455_6677] {
            assert_eq!(hex(value), format!("{value:032x}").as_bytes());
        }
    }
}
