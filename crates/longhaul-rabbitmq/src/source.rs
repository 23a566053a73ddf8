//! Sources: one queue is one shard, read by one router at a time and listed by that one only.

use std::sync::Arc;

use futures::future::BoxFuture;
use lapin::types::ShortString;
use longhaul_broker::{Reader, Shard, Source, SourceError, SourceSpec};
use longhaul_event::Start;
use longhaul_topic::Filter;
use longhaul_topology::SourceKind;
use tokio::sync::watch;

use crate::client::{Client, Role};
use crate::fault::Fault;
use crate::lock::Lock;
use crate::names;
use crate::owner::{Owners, Ownership};
use crate::reader::QueueReader;
use crate::spool::Spool;
use crate::task::Task;

/// A queue, spooling an exchange or existing by itself.
pub(crate) struct RabbitSource {
    client: Arc<Client>,
    what: Arc<What>,
    shards: watch::Receiver<Arc<Vec<Shard>>>,
    _preparing: Task,
}

/// What is read.
struct What {
    spool: Spool,
    /// What the route asks for; empty for an existing queue, of which all is read.
    filters: Vec<Filter>,
}

impl RabbitSource {
    /// Starts declaring and binding, and gets in line for the queue. The shard is listed when the broker has answered, whatever it said
    /// (opening tells), and when it is this router's turn.
    pub(crate) fn start(client: Arc<Client>, owners: &Owners, spec: SourceSpec) -> Result<Self, SourceError> {
        let what = Arc::new(What::of(spec)?);
        let (listed, shards) = watch::channel(Arc::new(Vec::new()));
        let queue = what.spool.queue();
        let owner = owners.join(&client, &names::queue_owner(queue.as_str()), format!("queue {queue}"));
        let preparing = prepare(Arc::clone(&client), Arc::clone(&what), owner, listed);
        let task = Task::spawn(&client.runtime, preparing);
        Ok(Self { client, what, shards, _preparing: task })
    }

    async fn open(&self) -> Result<QueueReader, Fault> {
        let connection = self.client.connection(Role::Read).await?;
        let kind = self.client.access.queue_type;
        let queue = self.what.spool.queue();
        let waiting = self.what.spool.prepare(&connection, kind).await?;
        let lock = names::queue_lock(queue.as_str());
        let (channel, lock) = Lock::take(&connection, &lock, &format!("reads the queue {queue}")).await?;
        self.what.spool.forget_old_bindings(&connection, kind).await;
        let access = &self.client.access;
        QueueReader::start(channel, lock, queue, access.prefetch, waiting, &self.client.context, &self.what.filters)
            .await
    }
}

/// Prepares until the broker has answered once (a queue that could not be declared is tried again by whoever opens the shard), then
/// lists the shard while this router has it.
async fn prepare(client: Arc<Client>, what: Arc<What>, owner: Arc<Ownership>, listed: watch::Sender<Arc<Vec<Shard>>>) {
    while let Some(connection) = client.connection_at_last(Role::Read).await {
        let prepared = what.spool.prepare(&connection, client.access.queue_type).await;
        if let Err(fault) = &prepared {
            let queue = what.spool.queue().as_str();
            tracing::warn!(queue, reason = fault.text(), "the source is not ready");
        }
        if connection.status().connected() {
            break;
        }
        // The connection went away meanwhile; the client needs a moment to see that.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let name = what.spool.queue().as_str().to_owned();
    owner.list(vec![Shard { name, topic: None, partition: None, replayable: false }], listed).await;
}

impl What {
    fn of(spec: SourceSpec) -> Result<Self, SourceError> {
        match (spec.source, spec.spool) {
            (SourceKind::RabbitQueue { queue }, _) => {
                Ok(Self { spool: Spool::Existing(short(&queue)?), filters: Vec::new() })
            }
            (SourceKind::RabbitExchange { exchange, .. }, _) if exchange.is_empty() => {
                Err(SourceError::Config("an exchange needs a name; to read a queue, say queue".to_owned()))
            }
            (SourceKind::RabbitExchange { exchange, topics }, Some(queue)) => {
                let patterns = topics.iter().map(|filter| short(&names::pattern(filter))).collect::<Result<_, _>>()?;
                let spool = Spool::Own { queue: short(&queue)?, exchange: short(&exchange)?, patterns };
                Ok(Self { spool, filters: topics })
            }
            (SourceKind::RabbitExchange { exchange, .. }, None) => Err(SourceError::Config(format!(
                "the exchange {exchange:?} is read through a spool queue, which has no name here"
            ))),
            (other, _) => Err(SourceError::Config(format!("RabbitMQ has no {other:?}"))),
        }
    }
}

pub(crate) fn short(name: &str) -> Result<ShortString, SourceError> {
    let refused = |_| SourceError::Config(format!("the name {name:?} is longer than the 255 bytes of AMQP"));
    ShortString::try_new(name).map_err(refused)
}

impl Source for RabbitSource {
    fn shards(&self) -> watch::Receiver<Arc<Vec<Shard>>> {
        self.shards.clone()
    }

    /// The only shard is the queue, and where reading starts is what was not acknowledged.
    fn open<'a>(&'a self, shard: &'a Shard, _start: Start) -> BoxFuture<'a, Result<Box<dyn Reader>, SourceError>> {
        Box::pin(async move {
            if shard.name != self.what.spool.queue().as_str() {
                return Err(SourceError::Config(format!("{:?} is no shard of this source", shard.name)));
            }
            let reader: Box<dyn Reader> = Box::new(Self::open(self).await?);
            Ok(reader)
        })
    }
}
