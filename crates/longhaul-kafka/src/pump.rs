//! The thread that reads all partitions of a source: always polling, one consumer for any number of lanes.
//!
//! A lane over its share of [`LANES_BYTES_MAX`] has its partition paused until a quarter is left. librdkafka does not say which
//! partition an error belongs to, so an error about offsets makes the thread check them all: what lies outside the log becomes a gap,
//! the rest is assigned again at its exact offset. What it tells of topics that were made again and of logs that were cut (see `life`) ends
//! the lanes of that life before a record of the next one can reach them. When the thread ends, for whatever reason, every lane ends with an error.
//! Start with [`Pump`]; [`Pumping`] is the thread's own state.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use longhaul_broker::{Gap, ReadBatch, SourceError};
use longhaul_event::{Event, Position};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::{debug, warn};

use crate::client::{Events, forbidden, unknown_topic};
use crate::cluster::{ASK_MAX, Cluster};
use crate::lane::{Lane, READ_BYTES_MAX};
use crate::life::{Address, Heard, topic_of};
use crate::map::{Chunk, Origin, Record};

/// Bytes that all lanes of a pump hold together, about; each lane's share lies within the two bounds.
const LANES_BYTES_MAX: usize = 32 << 20;
const LANE_BYTES: std::ops::RangeInclusive<usize> = (512 << 10)..=(4 << 20);
/// Orders that may wait for the thread.
const COMMANDS_MAX: usize = 1024;
/// Longest poll, and so the longest wait of an order or of a resume.
const POLL: Duration = Duration::from_millis(10);
/// Records taken before lanes are looked after again.
const BURST: usize = 2000;
const CHORES_EVERY: Duration = Duration::from_secs(1);

/// A running pump. Dropping it ends the thread.
pub(crate) struct Pump {
    commands: SyncSender<Feed>,
}

/// A lane as the thread feeds it.
pub(crate) struct Feed {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) origin: Origin,
    /// The next offset to read.
    pub(crate) next: u64,
    pub(crate) lane: Arc<Lane>,
}

impl Feed {
    fn topic_number(&self) -> u64 {
        topic_of(self.origin.incarnation)
    }

    fn address(&self) -> Address {
        (self.topic.clone(), self.partition)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.topic, self.partition)
    }

    /// The last offset that was read.
    fn position(&self) -> Position {
        Position { incarnation: self.origin.incarnation, offset: self.next.wrapping_sub(1) }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.lane.fail(SourceError::Transient("the thread that reads Kafka has ended".to_owned()));
    }
}

impl Pump {
    /// Starts a thread, for many lanes or for one.
    ///
    /// # Errors
    /// [`SourceError`] when there is no client or no thread to be had.
    pub(crate) fn start(cluster: &Arc<Cluster>, many: bool) -> Result<Self, SourceError> {
        let consumer: BaseConsumer<Events> = cluster
            .settings
            .consumer(many)
            .create_with_context(Events::new(Arc::clone(&cluster.diagnosis)))
            .map_err(|error| SourceError::Config(format!("no Kafka consumer: {error}")))?;
        let (commands, orders) = sync_channel(COMMANDS_MAX);
        let pumping = Pumping {
            cluster: Arc::clone(cluster),
            consumer,
            orders,
            feeds: Vec::new(),
            index: BTreeMap::new(),
            current: 0,
            suspect: false,
            chores_due: Instant::now() + CHORES_EVERY,
        };
        std::thread::Builder::new()
            .name("kafka-read".to_owned())
            .spawn(move || pumping.run())
            .map_err(|error| SourceError::Transient(format!("no thread for reading Kafka: {error}")))?;
        Ok(Self { commands })
    }

    /// Starts reading a lane. A feed that cannot be taken fails its lane; `false` says that the thread has ended.
    pub(crate) fn open(&self, feed: Feed) -> bool {
        match self.commands.try_send(feed) {
            Ok(()) | Err(TrySendError::Full(_)) => true,
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

/// One feed and what the thread knows about it.
struct Fed {
    feed: Feed,
    chunk: Chunk,
    /// Bytes of the last chunk: the room that the next one gets.
    room: usize,
    paused: bool,
    failed: bool,
    /// Whether the position that librdkafka tells belongs to this assignment: a partition that was assigned before may still
    /// tell the old one until a record came.
    position_is_ours: bool,
}

struct Pumping {
    cluster: Arc<Cluster>,
    consumer: BaseConsumer<Events>,
    orders: Receiver<Feed>,
    feeds: Vec<Option<Fed>>,
    /// Where in `feeds` a partition is; kept after its end, as a sign that it was assigned before.
    index: BTreeMap<String, BTreeMap<i32, usize>>,
    /// Where the last record belonged: the next one mostly belongs there too.
    current: usize,
    /// Whether an error came that may belong to any of the partitions.
    suspect: bool,
    chores_due: Instant,
}

impl Pumping {
    fn run(mut self) {
        while self.take_orders() {
            self.poll_burst();
            self.flush_all();
            self.look_after_lanes();
            if Instant::now() >= self.chores_due {
                self.chores_due = Instant::now() + CHORES_EVERY;
                self.chores();
            }
        }
    }

    /// `false` when nobody can give orders any more.
    fn take_orders(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(feed) => self.open(feed),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn open(&mut self, feed: Feed) {
        // The reader before it on the same partition is gone, but may not have been noticed yet.
        self.look_after_lanes();
        let known = self.index.entry(feed.topic.clone()).or_default().get(&feed.partition).copied();
        let at = known.unwrap_or(self.feeds.len());
        if known.is_none() {
            self.feeds.push(None);
            self.index.entry(feed.topic.clone()).or_default().insert(feed.partition, at);
        }
        if self.feeds[at].is_some() {
            feed.lane.fail(SourceError::Transient("another reader still has this partition".to_owned()));
            return;
        }
        if self.consumer.context().heard.topic(&feed.topic).is_some_and(|topic| topic != feed.topic_number()) {
            // One of the two is out of date, which the next answer tells.
            let _ = self.consumer.fetch_metadata(Some(&feed.topic), ASK_MAX);
            feed.lane.fail(SourceError::Transient(format!("topic {} was made again", feed.topic)));
            return;
        }
        let assigned = assign(&self.consumer, &feed);
        if let Err(error) = &assigned {
            feed.lane.fail(self.cluster.diagnosis.source_error("assigning a partition", error));
            return;
        }
        self.feeds[at] = Some(Fed {
            feed,
            chunk: Chunk::default(),
            room: 0,
            paused: false,
            failed: false,
            position_is_ours: known.is_none(),
        });
    }

    fn poll_burst(&mut self) {
        let mut patience = POLL;
        for _ in 0..BURST {
            // The message borrows the consumer alone.
            let Self { cluster, consumer, feeds, index, current, .. } = self;
            let polled = consumer.poll(patience);
            let heard = &consumer.context().heard;
            if heard.take_news() {
                handle_news(cluster, heard, feeds);
            }
            match polled {
                None => return,
                Some(Ok(message)) => {
                    if let Some(at) = find(index, current, feeds, &message) {
                        take(feeds[at].as_mut(), &message);
                    }
                }
                Some(Err(error)) => self.handle_error(&error),
            }
            patience = Duration::ZERO;
        }
    }

    fn handle_error(&mut self, error: &KafkaError) {
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        let Some(code) = error.rdkafka_error_code() else { return };
        match code {
            // librdkafka connects again by itself, for ever.
            RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::Resolve
                if !fatal => {}
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
                let reason = self.cluster.diagnosis.source_error("reading", error);
                self.fail_all(&reason);
            }
            _ if fatal => self.fail_all(&SourceError::Transient(format!("the Kafka consumer gave up: {error}"))),
            _ => {
                debug!(%error, "reading Kafka: every partition is checked");
                self.suspect = true;
            }
        }
    }

    fn fail_all(&mut self, error: &SourceError) {
        for fed in self.feeds.iter_mut().flatten() {
            fed.fail(error.clone());
        }
    }

    fn flush_all(&mut self) {
        let limit = self.cluster.settings.event_bytes_max;
        for fed in self.feeds.iter_mut().flatten() {
            fed.flush(limit);
        }
    }

    /// Lets go of partitions without a reader, pauses full lanes, resumes empty ones.
    fn look_after_lanes(&mut self) {
        let open = self.feeds.iter().flatten().count().max(1);
        let high = (LANES_BYTES_MAX / open).clamp(*LANE_BYTES.start(), *LANE_BYTES.end());
        let (mut gone, mut full, mut drained) =
            <(TopicPartitionList, TopicPartitionList, TopicPartitionList)>::default();
        for slot in &mut self.feeds {
            let Some(fed) = slot else { continue };
            let Feed { topic, partition, lane, .. } = &fed.feed;
            if lane.is_closed() || fed.failed {
                gone.add_partition(topic, *partition);
                *slot = None;
            } else if !fed.paused && lane.bytes() > high {
                full.add_partition(topic, *partition);
                fed.paused = true;
            } else if fed.paused && lane.bytes() <= high / 4 {
                drained.add_partition(topic, *partition);
                fed.paused = false;
            }
        }
        let told = |what: &str, result: Result<(), KafkaError>| {
            if let Err(error) = result {
                warn!(%error, "a Kafka partition was not {what}");
            }
        };
        if gone.count() > 0 {
            // A paused partition would stay paused for the next reader.
            told("resumed", self.consumer.resume(&gone));
            told("released", self.consumer.incremental_unassign(&gone));
        }
        if full.count() > 0 {
            told("paused", self.consumer.pause(&full));
        }
        if drained.count() > 0 {
            told("resumed", self.consumer.resume(&drained));
        }
    }

    fn chores(&mut self) {
        self.pass_markers();
        self.learn_ends();
        self.leave_former_lives();
        if self.suspect {
            self.suspect = self.check_all();
        }
    }

    /// What librdkafka handed over or passed by itself (transaction markers, aborted records) is covered.
    fn pass_markers(&mut self) {
        let Ok(positions) = self.consumer.position() else { return };
        for fed in self.feeds.iter_mut().flatten() {
            let Feed { topic, partition, .. } = &fed.feed;
            let Some(element) = positions.find_partition(topic, *partition) else { continue };
            let Offset::Offset(position) = element.offset() else { continue };
            let position = u64::try_from(position).unwrap_or(0);
            if fed.position_is_ours && !fed.failed && position > fed.feed.next {
                fed.feed.next = position;
                fed.feed.lane.push(ReadBatch { events: Vec::new(), last: position - 1 });
            }
        }
    }

    /// What an open transaction hides counts: it waits to be delivered, and if the transaction hangs, somebody must see it.
    fn learn_ends(&mut self) {
        let Some(statistics) = self.consumer.context().take_statistics() else { return };
        for fed in self.feeds.iter().flatten() {
            let partitions = statistics.topics.get(&fed.feed.topic).map(|topic| &topic.partitions);
            let known = partitions.and_then(|partitions| partitions.get(&fed.feed.partition));
            let end = known.map_or(-1, |known| known.hi_offset);
            if let Ok(end) = u64::try_from(end) {
                fed.feed.lane.know_end(end);
            }
        }
    }

    /// Another reader may have noticed that a topic was made again or a log was cut.
    fn leave_former_lives(&mut self) {
        for fed in self.feeds.iter_mut().flatten().filter(|fed| !fed.failed) {
            if self.cluster.lives.is_former(&fed.feed.address(), fed.feed.origin.incarnation) {
                fed.fail(SourceError::Transient(format!("{} is read in another life", fed.feed.name())));
            }
        }
    }

    /// Looks where every partition's log begins and ends; `true` when the cluster did not answer, and it must be done again.
    fn check_all(&mut self) -> bool {
        for fed in self.feeds.iter_mut().flatten().filter(|fed| !fed.failed) {
            let Feed { topic, partition, .. } = &fed.feed;
            let shard = fed.feed.name();
            match self.consumer.fetch_watermarks(topic, *partition, ASK_MAX) {
                Ok((low, high)) => {
                    let (low, high) = (u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0));
                    let (address, number) = (fed.feed.address(), fed.feed.topic_number());
                    match self.cluster.lives.judge(&address, number, fed.feed.position(), low, high) {
                        Err(gap) => fed.fail(SourceError::Gap(gap)),
                        Ok(_) => fed.assign_again(&self.consumer),
                    }
                }
                Err(error) => match error.rdkafka_error_code() {
                    Some(code) if unknown_topic(code) => {
                        fed.fail(SourceError::Transient(format!("Kafka no longer has {shard}")));
                    }
                    Some(code) if forbidden(code) => {
                        fed.fail(SourceError::Config(format!("reading {shard}: {error}")));
                    }
                    _ => return true,
                },
            }
        }
        false
    }
}

/// Ends the lanes of topics that were made again and of logs that were cut, as the client's log told.
fn handle_news(cluster: &Cluster, heard: &Heard, feeds: &mut [Option<Fed>]) {
    let cuts = heard.take_cuts();
    for fed in feeds.iter_mut().flatten().filter(|fed| !fed.failed) {
        let Feed { topic, partition, .. } = &fed.feed;
        let (position, number) = (fed.feed.position(), fed.feed.topic_number());
        if let Some(found) = heard.topic(topic).filter(|found| *found != number) {
            fed.fail(SourceError::Gap(Gap::Recreated { cursor: position.incarnation, found }));
            continue;
        }
        let cut = cuts.iter().find(|((of, at), _)| of == topic && at == partition);
        let Some((address, end)) = cut else { continue };
        warn!(shard = fed.feed.name(), end, next = fed.feed.next, "the log of a Kafka partition was cut at its end");
        cluster.lives.cut(address, position.incarnation, *end);
        // Where nothing is missing a reader begins again, in the life behind the cut.
        let judged = cluster.lives.judge(address, number, position, 0, u64::MAX);
        fed.fail(judged.err().map_or_else(|| SourceError::Transient("the log was cut".to_owned()), SourceError::Gap));
    }
}

fn assign(consumer: &BaseConsumer<Events>, feed: &Feed) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::new();
    let offset = Offset::Offset(i64::try_from(feed.next).unwrap_or(i64::MAX));
    list.add_partition_offset(&feed.topic, feed.partition, offset)?;
    consumer.incremental_assign(&list)
}

/// Where the feed of a message is; `None` when its reader has just gone.
fn find(
    index: &BTreeMap<String, BTreeMap<i32, usize>>,
    current: &mut usize,
    feeds: &[Option<Fed>],
    message: &BorrowedMessage<'_>,
) -> Option<usize> {
    let (topic, partition) = (message.topic(), message.partition());
    let same = |fed: &Fed| fed.feed.partition == partition && fed.feed.topic == topic;
    if !feeds.get(*current).and_then(Option::as_ref).is_some_and(same) {
        *current = *index.get(topic)?.get(&partition)?;
    }
    Some(*current)
}

fn take(fed: Option<&mut Fed>, message: &BorrowedMessage<'_>) {
    let Some(fed) = fed.filter(|fed| !fed.failed) else { return };
    let Ok(offset) = u64::try_from(message.offset()) else { return };
    if offset < fed.feed.next {
        // A record from before a pause, fetched again: it was taken already.
        return;
    }
    match fed.copy(offset, message) {
        Ok(()) => {
            fed.feed.next = offset + 1;
            fed.position_is_ours = true;
        }
        Err(reason) => {
            let at =
                format!("record {offset} of {}/{} cannot be carried: {reason}", fed.feed.topic, fed.feed.partition);
            fed.flush(usize::MAX);
            fed.fail(SourceError::Config(at));
        }
    }
}

impl Fed {
    fn copy(&mut self, offset: u64, message: &BorrowedMessage<'_>) -> Result<(), String> {
        let (key, payload) = (message.key(), message.payload());
        let record = Record { offset, key, payload, time_ms: message.timestamp().to_millis().unwrap_or(0) };
        if self.chunk.count() == 0 {
            let bytes = key.map_or(0, <[u8]>::len) + payload.map_or(0, <[u8]>::len);
            self.chunk = Chunk::with_room(self.room.max(bytes));
        }
        let Some(headers) = message.headers() else {
            return self.chunk.push(record, std::iter::empty()).map_err(|error| error.to_string());
        };
        let chunk = &mut self.chunk;
        // rdkafka panics when the name of a header is not UTF-8.
        let pushed = catch_unwind(AssertUnwindSafe(|| {
            chunk.push(record, headers.iter().map(|header| (header.key, header.value)))
        }));
        match pushed {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("the name of a header is not UTF-8".to_owned()),
        }
    }

    /// Hands the chunk to the reader.
    fn flush(&mut self, event_bytes_max: usize) {
        if self.chunk.count() == 0 {
            return;
        }
        let chunk = std::mem::take(&mut self.chunk);
        self.room = chunk.len().min(READ_BYTES_MAX);
        let Some(mut batch) = chunk.finish(&self.feed.origin) else { return };
        let too_large = batch.events.iter().position(|event| event.size() > event_bytes_max);
        let refusal = too_large.map(|at| {
            let Event { offset, .. } = batch.events[at];
            let size = batch.events[at].size();
            batch.events.truncate(at);
            batch.last = offset.wrapping_sub(1);
            let Feed { topic, partition, .. } = &self.feed;
            format!("record {offset} of {topic}/{partition} has {size} bytes, and an event at most {event_bytes_max}")
        });
        if !batch.events.is_empty() {
            self.feed.lane.push(batch);
        }
        if let Some(refusal) = refusal {
            self.fail(SourceError::Config(refusal));
        }
    }

    fn fail(&mut self, error: SourceError) {
        self.failed = true;
        self.feed.lane.fail(error);
    }

    /// librdkafka stops a partition after an error about its offset without saying which one it stopped.
    fn assign_again(&mut self, consumer: &BaseConsumer<Events>) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.feed.topic, self.feed.partition);
        let result = consumer.incremental_unassign(&list).and_then(|()| assign(consumer, &self.feed));
        self.position_is_ours = false;
        let result = result.and_then(|()| if self.paused { consumer.pause(&list) } else { Ok(()) });
        if let Err(error) = result {
            self.fail(SourceError::Transient(format!("assigning a partition again: {error}")));
        }
    }
}
