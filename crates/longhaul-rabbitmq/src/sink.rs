//! Sinks: an exchange, where the routing key is the topic, or a queue or stream, where the topic is a header.
//!
//! A sink declares none of them. What it does declare is the lock and the cursor of each flow. The guarantee is at least once: the cursor is
//! written after the data, so a crash between them repeats events, with the identity that they had.

use std::sync::Arc;

use futures::future::BoxFuture;
use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Connection, ExchangeKind};
use longhaul_broker::{Opened, Sink, SinkError};
use longhaul_event::Position;
use longhaul_topology::{FlowKey, SinkKind};

use crate::client::{Client, Role};
use crate::fault::{Fault, is_not_found};
use crate::lock::Lock;
use crate::stream::tap::{Place, Tap};
use crate::writer::{CursorCell, FlowWriter, Limits, Target};
use crate::{cell, cursor, names};

/// An exchange or a queue that flows are written to.
pub(crate) struct RabbitSink {
    client: Arc<Client>,
    target: Target,
}

impl RabbitSink {
    /// A sink for what a route writes.
    pub(crate) fn new(client: Arc<Client>, kind: &SinkKind) -> Result<Self, SinkError> {
        let short = |name: &str| {
            let refused = |_| SinkError::Config(format!("the name {name:?} is longer than the 255 bytes of AMQP"));
            ShortString::try_new(name).map_err(refused)
        };
        let limits = Arc::new(Limits::new());
        let target = match kind {
            SinkKind::RabbitExchange { exchange } if exchange.is_empty() => {
                return Err(SinkError::Config("an exchange needs a name; to write to a queue, say queue".to_owned()));
            }
            SinkKind::RabbitExchange { exchange } => {
                Target { exchange: short(exchange)?, queue: None, is_stream: false, limits }
            }
            SinkKind::RabbitQueue { queue: name } | SinkKind::RabbitStream { stream: name } => {
                let is_stream = matches!(kind, SinkKind::RabbitStream { .. });
                Target { exchange: ShortString::default(), queue: Some(short(name)?), is_stream, limits }
            }
            other => return Err(SinkError::Config(format!("RabbitMQ has no {other:?}"))),
        };
        Ok(Self { client, target })
    }

    async fn open(&self, flow: &FlowKey) -> Result<Opened, Fault> {
        let connection = self.client.connection(Role::Write).await?;
        self.check_target(&connection).await?;
        let id = flow.id();
        let (channel, lock) = Lock::take(&connection, &names::flow_lock(id), "writes this flow").await?;
        let confirm = channel.confirm_select(ConfirmSelectOptions::default()).await;
        confirm.map_err(|e| Fault::of(&e, "asking for confirmations"))?;
        let name = names::cursor(id);
        let value = cell::open(&connection, &channel, &name, self.client.access.queue_type).await?;
        let cursor = value.map(|bytes| read_cursor(&name, &bytes)).transpose()?;
        let frame_bytes_max = usize::try_from(connection.configuration().frame_max()).unwrap_or(usize::MAX);
        let cell = CursorCell { name, note: note(flow) };
        let writer = FlowWriter::start(&self.client.runtime, channel, lock, self.target.clone(), cell, frame_bytes_max);
        Ok(Opened { writer: Box::new(writer), cursor })
    }

    /// On a channel of its own, since the answer "no" closes it.
    async fn check_target(&self, connection: &Connection) -> Result<(), Fault> {
        let channel = connection.create_channel().await.map_err(|e| Fault::of(&e, "opening a channel"))?;
        let (asked, what) = match &self.target.queue {
            Some(queue) => {
                let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let asked = channel.queue_declare(queue.clone(), passive, FieldTable::default()).await;
                let kind = if self.target.is_stream { "stream" } else { "queue" };
                (asked.map(|_| ()), format!("the {kind} {:?}", queue.as_str()))
            }
            None => {
                let exchange = self.target.exchange.clone();
                let what = format!("the exchange {:?}", exchange.as_str());
                let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                let asked = channel.exchange_declare(exchange, ExchangeKind::Topic, passive, FieldTable::default());
                (asked.await, what)
            }
        };
        asked.map_err(|error| missing(&error, &what, &connection.status().vhost()))?;
        // RabbitMQ (3.10) that has just started confirms what it is given for a stream that it has not found yet, and drops it. A stream that can
        // be read has been found.
        if let Some(stream) = self.target.queue.as_ref().filter(|_| self.target.is_stream) {
            Tap::open(connection, stream, Place::Last, 1).await?;
        }
        Ok(())
    }
}

fn missing(error: &lapin::Error, what: &str, vhost: &ShortString) -> Fault {
    if is_not_found(error) {
        let place = vhost.as_str();
        return Fault::Config(format!(
            "{what} is not there in the virtual host {place:?}: declare it, Longhaul does not"
        ));
    }
    Fault::of(error, &format!("looking for {what}"))
}

fn read_cursor(name: &ShortString, bytes: &[u8]) -> Result<Position, Fault> {
    cursor::decode(bytes).ok_or_else(|| {
        Fault::Config(format!(
            "the queue {name} holds no cursor that this version understands: somebody else wrote to it"
        ))
    })
}

fn note(flow: &FlowKey) -> String {
    let FlowKey { mesh, route, from: (region, broker, shard), to } = flow;
    format!("cursor of mesh {mesh}, route {route}: {region}/{broker}/{shard} to {}/{}", to.0, to.1)
}

impl Sink for RabbitSink {
    fn open<'a>(&'a self, flow: &'a FlowKey, _partition: Option<u32>) -> BoxFuture<'a, Result<Opened, SinkError>> {
        Box::pin(async move { Self::open(self, flow).await.map_err(SinkError::from) })
    }
}
