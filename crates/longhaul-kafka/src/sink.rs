//! The sink, at least once: idempotent producer, confirmed by all replicas, cursor after the data.
//!
//! Kafka has no lock that would go with an idempotent producer: nothing fences a second router. Within this process a flow that is
//! opened again ends its former writer, and opens only when nothing of that one is under way any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_broker::{Opened, Sink, SinkError, Writer};
use longhaul_event::{Event, FlowId, Position};
use longhaul_topology::{FlowKey, Partition};

use crate::batch::{Caution, Pending};
use crate::bucket::Buckets;
use crate::cluster::Cluster;
use crate::cursor::Cursors;
use crate::flow::Flow;
use crate::shape::Shape;
use crate::topics::Topics;

/// How long an opening waits for what a former writer has under way.
const DRAIN_MAX: Duration = Duration::from_secs(5);
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// What all sinks of one cluster share.
pub(crate) struct Destination {
    pub(crate) topics: Arc<Topics>,
    pub(crate) cursors: Arc<Cursors>,
    flows: Mutex<HashMap<FlowId, Known>>,
    /// Of the sinks that write in transactions, as long as there are any.
    buckets: Mutex<Weak<Buckets>>,
}

/// What is remembered of a flow from one writer to the next.
struct Known {
    /// Of the newest writer.
    pending: Weak<Pending>,
    caution: Arc<Caution>,
}

impl Destination {
    pub(crate) fn new(topics: Arc<Topics>, cursors: Arc<Cursors>) -> Self {
        Self { topics, cursors, flows: Mutex::default(), buckets: Mutex::default() }
    }

    /// The buckets of all sinks that write in transactions.
    pub(crate) fn buckets(&self, cluster: &Arc<Cluster>) -> Arc<Buckets> {
        let mut slot = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buckets) = slot.upgrade() {
            return buckets;
        }
        let buckets = Arc::new(Buckets::new(Arc::clone(cluster), Arc::clone(&self.topics)));
        *slot = Arc::downgrade(&buckets);
        buckets
    }

    /// Takes the flow over from its former writer.
    pub(crate) async fn take_over(&self, flow: FlowId) -> Result<Arc<Pending>, SinkError> {
        let (former, caution) = self.former(flow);
        if let Some(former) = former {
            former.spend();
            let until = Instant::now() + DRAIN_MAX;
            while !former.is_idle() {
                if Instant::now() > until {
                    return Err(SinkError::Transient("what the former writer sent is still under way".to_owned()));
                }
                // Deliveries are counted down without a signal.
                tokio::time::sleep(DRAIN_POLL).await;
            }
        }
        let pending = Arc::new(Pending::new(Arc::clone(&caution)));
        let known = Known { pending: Arc::downgrade(&pending), caution };
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).insert(flow, known);
        Ok(pending)
    }

    fn former(&self, flow: FlowId) -> (Option<Arc<Pending>>, Arc<Caution>) {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        if flows.len().is_power_of_two() {
            flows.retain(|_, known| known.pending.strong_count() > 0 || known.caution.is_on());
        }
        match flows.get(&flow) {
            Some(known) => (known.pending.upgrade(), Arc::clone(&known.caution)),
            None => Default::default(),
        }
    }
}

/// A sink of one cluster.
pub(crate) struct KafkaSink {
    pub(crate) destination: Arc<Destination>,
    pub(crate) partition: Partition,
    pub(crate) tombstone_on_empty: bool,
}

impl KafkaSink {
    async fn open_flow(&self, key: &FlowKey, partition: Option<u32>) -> Result<Opened, SinkError> {
        let shape = shape(self.partition, self.tombstone_on_empty, key, partition)?;
        let pending = self.destination.take_over(key.id()).await?;
        let cursor = self.destination.cursors.read(key.id()).await?;
        let topics = Arc::clone(&self.destination.topics);
        let flow = Arc::new(Flow::new(topics, pending, shape));
        let cursors = Arc::clone(&self.destination.cursors);
        Ok(Opened { writer: Box::new(KafkaWriter { key: key.clone(), flow, cursors }), cursor })
    }
}

impl Sink for KafkaSink {
    fn open<'a>(&'a self, flow: &'a FlowKey, partition: Option<u32>) -> BoxFuture<'a, Result<Opened, SinkError>> {
        Box::pin(self.open_flow(flow, partition))
    }
}

/// Writes one flow.
struct KafkaWriter {
    key: FlowKey,
    flow: Arc<Flow>,
    cursors: Arc<Cursors>,
}

impl Writer for KafkaWriter {
    fn write(&mut self, events: Vec<Event>) -> BoxFuture<'static, Result<(), SinkError>> {
        if self.flow.pending.is_spent() {
            return std::future::ready(Err(spent())).boxed();
        }
        let batch = self.flow.write(events);
        let flow = Arc::clone(&self.flow);
        async move {
            flow.drive(&batch).await;
            batch.finished().await.inspect_err(|_| flow.doubt())
        }
        .boxed()
    }

    fn commit(&mut self, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>> {
        if self.flow.pending.is_spent() {
            return std::future::ready(Err(spent())).boxed();
        }
        let (cursors, flow, key) = (Arc::clone(&self.cursors), Arc::clone(&self.flow), self.key.clone());
        async move { cursors.write(&flow.pending, &key, cursor).await.inspect_err(|_| flow.pending.spend()) }.boxed()
    }
}

impl Drop for KafkaWriter {
    fn drop(&mut self) {
        self.flow.pending.spend();
    }
}

/// What the records of a flow have in common, by the words of its route.
pub(crate) fn shape(
    route: Partition,
    tombstone_on_empty: bool,
    key: &FlowKey,
    partition: Option<u32>,
) -> Result<Shape, SinkError> {
    let partition = match (route, partition) {
        (Partition::Key, _) => None,
        (Partition::Same, Some(partition)) => Some(partition),
        (Partition::Same, None) => {
            let shard = &key.from.2;
            let reason = format!("partition: same: the source shard {shard} has no partition number");
            return Err(SinkError::Config(reason));
        }
    };
    Ok(Shape { partition, tombstone_on_empty })
}

pub(crate) fn spent() -> SinkError {
    SinkError::Transient("an earlier write of this flow failed".to_owned())
}
