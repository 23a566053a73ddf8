//! A relay before a broker, for what a router that is killed or hangs looks like from there.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Frozen,
    Cut,
}

pub struct Relay {
    uri: String,
    state: Arc<watch::Sender<State>>,
    task: JoinHandle<()>,
}

impl Relay {
    pub async fn start(uri: &str) -> Self {
        let (login, rest) = uri.rsplit_once('@').expect("an address with a login");
        let (broker, vhost) = rest.split_once('/').expect("a virtual host");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(watch::Sender::new(State::Open));
        let task = tokio::spawn(serve(listener, broker.to_owned(), Arc::clone(&state)));
        Self { uri: format!("{login}@127.0.0.1:{port}/{vhost}"), state, task }
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// All connections end, and no new one is made.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Nothing goes through any more, in either direction, and nobody is told.
    pub fn freeze(&self) {
        self.state.send_replace(State::Frozen);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, broker: String, state: Arc<watch::Sender<State>>) {
    while let Ok((near, _)) = listener.accept().await {
        if *state.borrow() != State::Open {
            continue;
        }
        let Ok(far) = TcpStream::connect(&broker).await else { continue };
        tokio::spawn(carry(near, far, state.subscribe()));
    }
}

async fn carry(mut near: TcpStream, mut far: TcpStream, mut state: watch::Receiver<State>) {
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        let now = *state.borrow_and_update();
        tokio::select! {
            biased;
            changed = state.changed() => if changed.is_err() || *state.borrow() == State::Cut { return },
            read = near.read(&mut up), if now == State::Open => match read {
                Ok(count @ 1..) if far.write_all(&up[..count]).await.is_ok() => {}
                _ => return,
            },
            read = far.read(&mut down), if now == State::Open => match read {
                Ok(count @ 1..) if near.write_all(&down[..count]).await.is_ok() => {}
                _ => return,
            },
        }
    }
}
