//! Writing: a flow's events and its cursor into the log.
//!
//! The lock of a flow is a lease that the writer's thread hands out: the latest open wins, and what an earlier writer still sends
//! is refused. Events and cursor are in one store, each write durable when it resolves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_broker::{Opened, Poison, Sink, SinkError, Standing, Writer};
use longhaul_event::{Event, Position};
use longhaul_topology::FlowKey;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use crate::log::{Log, answered};
use crate::record::Records;
use crate::store::StoreError;
use crate::writer::{Command, Lease};

/// The log as a sink.
pub(crate) struct LogSink {
    log: Arc<Log>,
}

impl LogSink {
    pub(crate) fn new(log: Arc<Log>) -> Self {
        Self { log }
    }
}

impl Sink for LogSink {
    fn open<'a>(&'a self, flow: &'a FlowKey, _partition: Option<u32>) -> BoxFuture<'a, Result<Opened, SinkError>> {
        async move {
            let (lease, cursor) = self.log.open_flow(flow.id()).await.map_err(|error| told(&error))?;
            let writer = LogWriter {
                log: Arc::clone(&self.log),
                lease,
                spent: Arc::default(),
                before: None,
                standing: Standing::default(),
            };
            Ok(Opened { writer: Box::new(writer), cursor })
        }
        .boxed()
    }
}

/// Writes one flow.
struct LogWriter {
    log: Arc<Log>,
    lease: Lease,
    /// Set by the first error; whoever comes later is refused.
    spent: Arc<AtomicBool>,
    /// Resolves when the command before this one is on its way, if there was no room for it at once.
    before: Option<oneshot::Receiver<()>>,
    /// How far the cursors went that were sent.
    standing: Standing,
}

impl LogWriter {
    /// Puts a command on its way, in order: at once if there is room, else when the returned future is polled.
    fn send(&mut self, command: Command) -> BoxFuture<'static, Result<(), StoreError>> {
        let waiting = self.before.take().map(|mut before| match before.try_recv() {
            Ok(()) => Ok(None),
            Err(oneshot::error::TryRecvError::Empty) => Ok(Some(before)),
            Err(oneshot::error::TryRecvError::Closed) => Err(given_up()),
        });
        let (before, command) = match waiting {
            Some(Err(error)) => return futures::future::ready(Err(error)).boxed(),
            Some(Ok(Some(before))) => (Some(before), command),
            None | Some(Ok(None)) => match self.log.commands().try_send(command) {
                Ok(()) => return futures::future::ready(Ok(())).boxed(),
                Err(TrySendError::Closed(_)) => return futures::future::ready(Err(StoreError::Closed)).boxed(),
                Err(TrySendError::Full(command)) => (None, command),
            },
        };
        let (sent, next) = oneshot::channel();
        self.before = Some(next);
        let commands = self.log.commands().clone();
        async move {
            if let Some(before) = before {
                before.await.map_err(|_| given_up())?;
            }
            commands.send(command).await.map_err(|_| StoreError::Closed)?;
            // Nobody waits behind the last one.
            let _ = sent.send(());
            Ok(())
        }
        .boxed()
    }

    /// Waits for the way and for the answer; an error spends the writer.
    fn settle<T: Send + 'static>(
        &self,
        way: BoxFuture<'static, Result<(), StoreError>>,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> BoxFuture<'static, Result<(), SinkError>> {
        let spent = Arc::clone(&self.spent);
        async move {
            let settled = match way.await {
                Ok(()) => answered(answer).await.map(|_| ()),
                Err(error) => Err(error),
            };
            settled.map_err(|error| {
                spent.store(true, Ordering::Release);
                told(&error)
            })
        }
        .boxed()
    }
}

fn given_up() -> StoreError {
    StoreError::Failing { full: false, reason: "a write before this one was given up".to_owned() }
}

impl LogWriter {
    fn append(
        &mut self,
        mut events: Vec<Event>,
        mut cursor: Option<Position>,
    ) -> BoxFuture<'static, Result<(), SinkError>> {
        if self.spent.load(Ordering::Acquire) {
            return futures::future::ready(Err(spent())).boxed();
        }
        let poison = events.iter().position(|event| larger(event, self.log.event_bytes_max()));
        let poison = poison.map(|at| {
            let refused = too_large(&events[at], self.log.event_bytes_max());
            cursor = cursor.map(|cursor| Position { offset: events[at].offset.wrapping_sub(1), ..cursor });
            events.truncate(at);
            // From here on nothing of this flow may be written: it would stand before the event that is refused now.
            self.spent.store(true, Ordering::Release);
            refused
        });
        if events.is_empty() {
            return futures::future::ready(poison.map_or(Ok(()), Err)).boxed();
        }
        if let Some(cursor) = cursor {
            self.standing.sent(cursor);
        }
        let (reply, answer) = oneshot::channel();
        let records = Records::encode(&events);
        drop(events);
        let way = self.send(Command::Append { records, lease: Some(self.lease), cursor, reply });
        let written = self.settle(way, answer);
        async move { written.await.and_then(|()| poison.map_or(Ok(()), Err)) }.boxed()
    }
}

impl Writer for LogWriter {
    fn write(&mut self, events: Vec<Event>) -> BoxFuture<'static, Result<(), SinkError>> {
        self.append(events, None)
    }

    fn write_with_cursor(&mut self, events: Vec<Event>, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>> {
        self.append(events, Some(cursor))
    }

    fn commit(&mut self, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>> {
        if self.spent.load(Ordering::Acquire) {
            return futures::future::ready(Err(spent())).boxed();
        }
        if self.standing.covers(cursor) {
            return futures::future::ready(Ok(())).boxed();
        }
        let (reply, answer) = oneshot::channel();
        let way = self.send(Command::Cursor { lease: self.lease, cursor, reply });
        self.settle(way, answer)
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        // Without room the lease stays until the next open of this flow: a few bytes.
        let _ = self.log.commands().try_send(Command::Close { lease: self.lease });
    }
}

fn larger(event: &Event, max: usize) -> bool {
    let len = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    len(&event.payload).max(len(&event.key)) > max
}

fn too_large(event: &Event, max: usize) -> SinkError {
    let bytes = event.payload.as_ref().map_or(0, Bytes::len);
    let reason = format!(
        "its payload of {bytes} bytes, or its key, is larger than the {max} bytes that the embedded broker takes"
    );
    SinkError::Poison { offset: event.offset, kind: Poison::TooLarge, reason }
}

fn spent() -> SinkError {
    SinkError::Transient("this writer has failed before; open the flow again".to_owned())
}

fn told(error: &StoreError) -> SinkError {
    SinkError::Transient(error.to_string())
}
