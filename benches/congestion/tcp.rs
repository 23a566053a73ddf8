//! [`Tcp`]: a connection over a wire that carries as much as it can, with the congestion control of the kernel that is asked for.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longhaul_test_wire::Wire;
use socket2::{Domain, SockAddr, Socket, Type};

const CHUNK_BYTES: usize = 256 * 1024;

/// The connection; it ends when dropped.
pub struct Tcp {
    arrived: Arc<AtomicU64>,
    sender: TcpStream,
}

impl Tcp {
    /// Connects from the near end to the far one and begins to send.
    ///
    /// # Errors
    /// In words, such as when the kernel has no such congestion control.
    pub fn over(wire: &Wire, congestion: &str) -> Result<Self, String> {
        let address = SockAddr::from(SocketAddr::from((wire.far().address(), 0)));
        let listener = wire.far().within(|| listen(&address)).map_err(|error| error.to_string())?;
        let to = listener.local_addr().map_err(|error| error.to_string())?;
        let socket =
            wire.near().within(|| Socket::new(Domain::IPV4, Type::STREAM, None)).map_err(|error| error.to_string())?;
        socket.set_tcp_congestion(congestion.as_bytes()).map_err(|error| format!("no TCP {congestion}: {error}"))?;
        socket.connect(&to).map_err(|error| error.to_string())?;
        let (receiver, _) = listener.accept().map_err(|error| error.to_string())?;
        let arrived = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&arrived);
        std::thread::spawn(move || count(&mut receiver.into(), &counter));
        let sender: TcpStream = socket.into();
        let mut writer = sender.try_clone().map_err(|error| error.to_string())?;
        std::thread::spawn(move || {
            let chunk = vec![7; CHUNK_BYTES];
            while writer.write_all(&chunk).is_ok() {}
        });
        Ok(Self { arrived, sender })
    }

    /// Bytes that arrived so far.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        // Ends both threads: the writer cannot write, and the reader sees the end.
        let _ = self.sender.shutdown(Shutdown::Both);
    }
}

fn listen(address: &SockAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(address)?;
    socket.listen(1)?;
    Ok(socket)
}

fn count(stream: &mut TcpStream, arrived: &AtomicU64) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(bytes) = stream.read(&mut chunk) {
        if bytes == 0 {
            return;
        }
        arrived.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
