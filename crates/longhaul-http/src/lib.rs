//! How a router serves HTTP, on its admin listener and on those of its embedded brokers: so many connections and no more, a close that
//! loses no answer, and an ear for what is no HTTP at all. What is asked for and answered is the caller's.

mod listen;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use listen::Limited;

/// How long a connection may take for the head of its next request: one that asks nothing gives its place to others.
pub const IDLE_MAX: Duration = Duration::from_secs(75);

/// Bytes that are no request; no handler ever sees them.
#[derive(Debug)]
pub struct Unread {
    /// What was answered before the connection was closed: 400, or 431 where a head is too long (also where the answer is 414, because of
    /// the length of its first line).
    pub status: u16,
    /// What is wrong with them.
    pub reason: String,
}

/// Serves until `closing` is ready, then until every request under way is answered. At most `connections_max` connections are open; whoever
/// comes later waits. What is no HTTP is told to `no_http`.
pub async fn serve(
    listener: TcpListener,
    connections_max: usize,
    app: Router,
    no_http: impl Fn(Unread) + Send + Sync + 'static,
    closing: impl Future<Output = ()>,
) {
    let mut listener = Limited::new(listener, connections_max);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE_MAX);
    let (app, no_http) = (TowerToHyperService::new(app), Arc::new(no_http));
    let open = GracefulShutdown::new();
    let mut closing = pin!(closing);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut closing => break,
        };
        let served = open.watch(http.serve_connection(TokioIo::new(stream), app.clone()));
        let no_http = Arc::clone(&no_http);
        tokio::spawn(async move {
            match served.await {
                Err(error) if error.is_parse() => {
                    let status = if error.is_parse_too_large() { 431 } else { 400 };
                    no_http(Unread { status, reason: format!("{peer} sent what is no HTTP: {error}") });
                }
                // Clients go when they like.
                Err(error) => tracing::debug!(client = %peer, %error, "an HTTP connection ended early"),
                Ok(()) => {}
            }
        });
    }
    drop(listener);
    open.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use axum::body::Body;
    use axum::routing::get;
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    async fn start(connections_max: usize) -> (std::net::SocketAddr, Arc<Mutex<Vec<Unread>>>, oneshot::Sender<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let unread = Arc::<Mutex<Vec<Unread>>>::default();
        let heard = Arc::clone(&unread);
        let (close, closed) = oneshot::channel();
        let closing = async move { drop(closed.await) };
        let later = || {
            futures::stream::iter(["soon", "late"]).then(async |part| {
                if part == "late" {
                    tokio::time::sleep(2 * IDLE_MAX).await;
                }
                Ok::<_, Infallible>(part)
            })
        };
        let app = Router::new()
            .route("/", get(async || "here"))
            .route("/stream", get(async move || Body::from_stream(later())));
        let no_http = move |bytes| heard.lock().expect("nobody panics").push(bytes);
        tokio::spawn(serve(listener, connections_max, app, no_http, closing));
        (address, unread, close)
    }

    async fn ask(address: std::net::SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.expect("a listener");
        stream.write_all(bytes).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    #[tokio::test]
    async fn what_is_no_http_is_told() {
        let (address, unread, _close) = start(8).await;
        assert!(ask(address, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ends_with("here"));
        assert!(
            ask(address, b"GET /none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 404")
        );
        assert!(unread.lock().expect("nobody panics").is_empty(), "requests are the application's");
        assert!(ask(address, b"NONSENSE\r\n\r\n").await.starts_with("HTTP/1.1 400"));
        let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(500));
        assert!(ask(address, many.as_bytes()).await.starts_with("HTTP/1.1 431"));
        let statuses = || unread.lock().expect("nobody panics").iter().map(|unread| unread.status).collect::<Vec<_>>();
        // It is told when the connection has ended, after the answer.
        while statuses().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(statuses(), [400, 431]);
        let reason = &unread.lock().expect("nobody panics")[0].reason;
        assert!(reason.starts_with("127.0.0.1:") && reason.contains("no HTTP"), "{reason}");
    }

    #[tokio::test]
    async fn whoever_comes_beyond_the_limit_waits() {
        let (address, _, _close) = start(1).await;
        let first = TcpStream::connect(address).await.expect("a listener");
        let second = tokio::spawn(ask(address, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
        // Long enough to be answered if it were not made to wait.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.expect("it ends").ends_with("here"));
    }

    #[tokio::test]
    async fn a_connection_that_asks_nothing_is_closed() {
        let (address, unread, _close) = start(8).await;
        let mut silent = TcpStream::connect(address).await.expect("a listener");
        tokio::time::pause();
        let mut answer = Vec::new();
        let asked = tokio::time::Instant::now();
        silent.read_to_end(&mut answer).await.expect("an end");
        assert!(asked.elapsed() >= IDLE_MAX, "{:?}", asked.elapsed());
        assert!(unread.lock().expect("nobody panics").is_empty(), "silence is no attack");
    }

    #[tokio::test]
    async fn a_stream_that_is_silent_for_longer_goes_on() {
        let (address, _, _close) = start(8).await;
        let mut stream = TcpStream::connect(address).await.expect("a listener");
        stream.write_all(b"GET /stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("it reads");
        let mut answer = vec![0; 1024];
        let mut read = 0;
        while !String::from_utf8_lossy(&answer[..read]).contains("soon") {
            read += stream.read(&mut answer[read..]).await.expect("it answers");
        }
        tokio::time::pause();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.expect("it goes on");
        assert!(rest.contains("late"), "{rest}");
    }

    #[tokio::test]
    async fn closing_answers_what_was_asked() {
        let (address, _, close) = start(8).await;
        let mut idle = TcpStream::connect(address).await.expect("a listener");
        assert!(ask(address, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ends_with("here"));
        close.send(()).expect("it is serving");
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.expect("an idle connection is closed");
        TcpStream::connect(address).await.expect_err("nobody listens any more");
    }
}
