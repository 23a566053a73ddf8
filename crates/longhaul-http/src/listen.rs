//! A listener with a limit: a connection beyond it is accepted when another one ends. A connection is not closed under an answer that its
//! client has not read yet.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// How long a client may go on to send after it was refused. A socket that is closed over unread bytes resets its peer, which then loses the
/// answer that says why.
const LINGER: Duration = Duration::from_secs(5);
/// What of it is read at a time.
const DISCARDED_BYTES: usize = 16 << 10;

/// Accepts so many connections at once.
pub(super) struct Limited {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Limited {
    pub(super) fn new(listener: TcpListener, connections_max: usize) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(connections_max)) }
    }

    /// The next connection, and who it is.
    pub(super) async fn accept(&mut self) -> (Connection, SocketAddr) {
        let room = Arc::clone(&self.room).acquire_owned().await.expect("the semaphore is never closed");
        // This implementation knows which errors of accept pass, and waits for those that need it.
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        // An answer is small and awaited: it must not wait for an acknowledgement. Without it, it is only slower.
        let _ = stream.set_nodelay(true);
        (Connection { stream, lingers: None, _room: room }, peer)
    }
}

/// A connection, and its place in the limit.
pub(super) struct Connection {
    stream: TcpStream,
    /// From our end of the stream until its client's.
    lingers: Option<Pin<Box<Sleep>>>,
    _room: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ends our direction, and reads the other one to its end without keeping it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, lingers, .. } = self.get_mut();
        let lingers = match lingers {
            Some(lingers) => lingers,
            None => {
                ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                lingers.insert(Box::pin(sleep(LINGER)))
            }
        };
        let mut room = [0; DISCARDED_BYTES];
        while lingers.as_mut().poll(cx).is_pending() {
            let mut read = ReadBuf::new(&mut room);
            let ended = ready!(Pin::new(&mut *stream).poll_read(cx, &mut read));
            if ended.is_err() || read.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
