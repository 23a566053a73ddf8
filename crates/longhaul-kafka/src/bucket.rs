//! A bucket of flows: one name for transactions, one thread, one transaction at a time for all that its flows write meanwhile.
//!
//! A bucket's name is fixed by mesh, region, broker and number, so that the next router that opens one of its flows fences whoever had
//! it before. Every time that the name is taken (again) a new life begins: who was opened in an earlier one is refused, because only a
//! cursor that is read after the name was taken is known to be the last. While a transaction commits, writes gather for the next.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use longhaul_broker::SinkError;
use longhaul_event::{Event, FlowId, Position};
use longhaul_topology::FlowKey;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::batch::{Batch, Pending};
use crate::cluster::Cluster;
use crate::group::Committer;
use crate::shape::Shape;
use crate::topics::Topics;

/// One transaction takes no more writes beyond so many bytes: they stand in memory until it is through.
const GROUP_BYTES_MAX: usize = 16 << 20;

/// What all writes of one opened flow share.
pub(crate) struct AtomicFlow {
    pub(crate) key: FlowKey,
    pub(crate) id: FlowId,
    pub(crate) shape: Shape,
    pub(crate) pending: Arc<Pending>,
    /// Life of the bucket in which it was opened.
    pub(crate) life: u64,
}

/// Events and where they bring their flow. Dropped before its fate is known, it has failed.
pub(crate) struct Work {
    pub(crate) flow: Arc<AtomicFlow>,
    pub(crate) events: Vec<Event>,
    pub(crate) cursor: Option<Position>,
    pub(crate) batch: Arc<Batch>,
    pub(crate) bytes: usize,
    /// Why it is not written beyond its cursor.
    pub(crate) stop: Option<SinkError>,
}

impl Work {
    pub(crate) fn new(flow: Arc<AtomicFlow>, events: Vec<Event>, cursor: Option<Position>) -> Self {
        let batch = Batch::new(Arc::clone(&flow.pending), &events);
        let bytes = events.iter().map(Event::size).sum();
        Self { flow, events, cursor, batch, bytes, stop: None }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.batch.is_sealed() {
            self.batch.conclude(Err(SinkError::Transient("the transaction was given up".to_owned())));
        }
    }
}

/// Who waits for the bucket to have its name; told the life that it is in.
type Opening = oneshot::Sender<Result<u64, SinkError>>;

/// The buckets of one cluster.
pub(crate) struct Buckets {
    cluster: Arc<Cluster>,
    topics: Arc<Topics>,
    buckets: [Mutex<Option<Arc<Bucket>>>; FlowId::BUCKETS],
}

impl Buckets {
    pub(crate) fn new(cluster: Arc<Cluster>, topics: Arc<Topics>) -> Self {
        Self { cluster, topics, buckets: Default::default() }
    }

    /// The bucket of a flow. To be called within the runtime.
    ///
    /// # Errors
    /// [`SinkError::Transient`] when there is no thread to be had.
    pub(crate) fn of(&self, flow: FlowId) -> Result<Arc<Bucket>, SinkError> {
        let number = flow.bucket();
        let mut slot = self.buckets[number].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = slot.as_ref().filter(|bucket| !bucket.0.lock().closed) {
            return Ok(Arc::clone(bucket));
        }
        let name = format!("{}.{number}", self.cluster.settings.group);
        let committer = Committer::new(Arc::clone(&self.cluster), Arc::clone(&self.topics), Handle::current(), name);
        let bucket = Arc::new(Bucket::start(committer)?);
        *slot = Some(Arc::clone(&bucket));
        Ok(bucket)
    }
}

/// A running bucket. Dropping it ends the thread.
pub(crate) struct Bucket(Arc<Shared>);

#[derive(Default)]
struct Shared {
    orders: Mutex<Orders>,
    wake: Condvar,
}

/// What the thread has to do. Writers keep few writes under way, and so the line short.
#[derive(Default)]
struct Orders {
    opening: Vec<Opening>,
    line: VecDeque<Work>,
    /// Nobody gives orders any more, or nobody takes them.
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut orders = self.lock();
        orders.closed = true;
        let rest = (std::mem::take(&mut orders.opening), std::mem::take(&mut orders.line));
        drop(orders);
        // Dropping them tells those who wait.
        drop(rest);
        self.wake.notify_one();
    }

    /// Waits for something to do; `None` at the end.
    fn next(&self) -> Option<(Vec<Opening>, Vec<Work>)> {
        let mut orders = self.lock();
        loop {
            if orders.closed {
                return None;
            }
            if !orders.opening.is_empty() || !orders.line.is_empty() {
                return Some((std::mem::take(&mut orders.opening), group(&mut orders.line)));
            }
            orders = self.wake.wait(orders).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The next writes that go into one transaction: many, or those of one flow that must be written with caution.
fn group(line: &mut VecDeque<Work>) -> Vec<Work> {
    let (mut group, mut bytes): (Vec<Work>, usize) = (Vec::new(), 0);
    while let Some(next) = line.front() {
        let cautious = next.flow.pending.is_cautious();
        let fits = group.first().is_none_or(|first| match first.flow.pending.is_cautious() {
            true => Arc::ptr_eq(&first.flow, &next.flow),
            false => !cautious,
        });
        if !fits || bytes > GROUP_BYTES_MAX {
            break;
        }
        bytes += next.bytes;
        group.extend(line.pop_front());
    }
    group
}

impl Bucket {
    fn start(mut committer: Committer) -> Result<Self, SinkError> {
        let shared = Arc::new(Shared::default());
        let served = Arc::clone(&shared);
        let run = move || {
            while let Some((opening, group)) = served.next() {
                let done = catch_unwind(AssertUnwindSafe(|| {
                    if !opening.is_empty() {
                        let ready = committer.ready();
                        for one in opening {
                            let _ = one.send(ready.clone());
                        }
                    }
                    committer.write(group);
                }));
                if done.is_err() {
                    served.close();
                }
            }
        };
        let spawned = std::thread::Builder::new().name("kafka-commit".to_owned()).spawn(run);
        spawned.map_err(|error| SinkError::Transient(format!("no thread for Kafka transactions: {error}")))?;
        Ok(Self(shared))
    }

    /// Waits until the bucket has its name and nothing is under way that was written before; returns its life.
    ///
    /// # Errors
    /// [`SinkError`] when the cluster is away, or does not allow it.
    pub(crate) async fn open(&self) -> Result<u64, SinkError> {
        let (reply, answer) = oneshot::channel();
        self.order(reply);
        answer.await.unwrap_or_else(|_| Err(SinkError::Transient("the thread of a Kafka bucket has ended".to_owned())))
    }

    fn order(&self, opening: Opening) {
        let mut orders = self.0.lock();
        if !orders.closed {
            orders.opening.push(opening);
        }
        drop(orders);
        self.0.wake.notify_one();
    }

    /// Puts work in line, behind all that was put there before.
    pub(crate) fn write(&self, work: Work) {
        let mut orders = self.0.lock();
        let refused = match orders.closed {
            true => Some(work),
            false => {
                orders.line.push_back(work);
                None
            }
        };
        drop(orders);
        drop(refused);
        self.0.wake.notify_one();
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.0.close();
    }
}
