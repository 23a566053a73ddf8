//! CloudEvents in HTTP: requests that are changed at random, to an embedded broker over a socket. Each is answered or its connection closed, and
//! the broker goes on serving.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use longhaul_broker::{Connector, Context};
use longhaul_embedded::Embedded;

const PATIENCE: Duration = Duration::from_secs(10);
/// So long a request may wait for the rest of it, or for its answer, before there will be no more of it.
const ANSWER: Duration = Duration::from_millis(30);

#[test]
fn http() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let broker = runtime.block_on(start(folder.path()));
    let address = broker.local_addr();
    crate::run("http", |input| {
        let answer = ask(address, input, ANSWER);
        let status = answer.split(' ').nth(1).map(str::to_owned);
        assert!(status.is_none_or(|status| !status.starts_with('5')), "{answer}");
    });
    let healthy = b"POST /v1/topics/a.b/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    assert!(ask(address, healthy, PATIENCE).starts_with("HTTP/1.1 200"), "it still serves");
    runtime.block_on(broker.close());
}

async fn start(data: &std::path::Path) -> Arc<Embedded> {
    let access = longhaul_config::Embedded {
        data: data.to_owned(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        retain_age: None,
        retain_bytes: Some(16 << 20),
    };
    let text = str::to_owned;
    let context = Context {
        mesh: text("m"),
        region: text("eu"),
        broker: text("log"),
        router: text("r1"),
        cluster: 42,
        event_bytes_max: 1 << 20,
    };
    Embedded::start(&access, context).await.expect("the broker starts")
}

/// Sends bytes, and after a while says that there will be no more; what comes back, up to the end of the connection.
fn ask(address: SocketAddr, input: &[u8], answer_within: Duration) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time limit");
    // A connection that is closed early takes no more, and may be reset.
    let _ = stream.write_all(input);
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(answer_within)).expect("a time limit");
    if !read(&mut stream, &mut answer) {
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        assert!(read(&mut stream, &mut answer), "neither answered nor closed: {}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads to the end; whether that came in time.
fn read(stream: &mut TcpStream, answer: &mut Vec<u8>) -> bool {
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return true,
            Ok(bytes) => answer.extend_from_slice(&piece[..bytes]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return false;
            }
            Err(_) => return true,
        }
    }
}
