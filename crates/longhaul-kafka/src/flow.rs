//! One flow on its way into Kafka: events in order, handed to the producer as far as there is room.
//!
//! A write hands over what it can at once, on the caller's thread; librdkafka copies and returns. What finds no room, or a topic that
//! is not known yet, stays in line, and the futures of the writes hand it over, one of them at a time and in order. Once anything
//! fails, nothing more is handed over: the flow is spent, and nothing overtakes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longhaul_broker::{Poison, SinkError};
use longhaul_event::Event;
use longhaul_topic::Topic;

use crate::batch::{Batch, Pending};
use crate::map::check_topic;
use crate::producer::{NotTaken, Producer};
use crate::shape::{Shape, too_large_for_client};
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
    shape: Shape,
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
    pub(crate) fn new(topics: Arc<Topics>, pending: Arc<Pending>, shape: Shape) -> Self {
        let (line, driver) = Default::default();
        Self { topics, shape, pending, line, driver }
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
        if let Err(refused) = self.shape.check(event, info) {
            return Sent::Refused(refused);
        }
        if self.pending.bytes() > FLOW_BYTES_MAX {
            return Sent::Not(Step::Full);
        }
        match self.shape.record(event, batch).map(|record| producer.send(record)) {
            Ok(Ok(())) => Sent::Yes,
            Ok(Err(NotTaken::Full)) => Sent::Not(Step::Full),
            Ok(Err(NotTaken::TooLarge)) => Sent::Refused(too_large_for_client(event.offset)),
            Ok(Err(NotTaken::Failed(error))) => Sent::Refused(SinkError::Transient(format!("Kafka: {error}"))),
            Err(refused) => Sent::Refused(refused),
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
