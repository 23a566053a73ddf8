//! The control stream: Hello, heartbeats, and frames both ways.
//!
//! A heartbeat goes out every second and is echoed. A peer of which nothing was heard for three seconds is dead. The stream has the
//! highest priority of all, so a heartbeat never waits behind events.

use std::{
    sync::Arc,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use longhaul_wire::{Frame, Hello, Limits, VERSION_SKEW_MAX, agreed_version, next_frame};
use quinn::{Connection, RecvStream, SendStream};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    IdentityWatch, RouterName,
    error::{LinkError, close},
    link::{Core, FrameReceiver, Wire, encode},
    transport::Role,
    verify::Peer,
};

const HEARTBEAT: Duration = Duration::from_secs(1);
const DEAD_AFTER: Duration = Duration::from_secs(3);
/// A peer that gives signs of life and takes nothing for that long will never take it: whoever has something to tell it waits until then.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a link stands on that this router dialled and whose peer's certificate has turned bad.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(10);
const PRIORITY: i32 = 100;
/// Frames that wait to be written; they are made here, and short.
const FRAMES_QUEUED_MAX: usize = 1024;
/// Frames that wait to be taken; a peer may make each of them 64 KiB long.
const FRAMES_TAKEN_MAX: usize = 64;
const ECHOES_QUEUED_MAX: usize = 8;
/// Frames are written together up to this size.
const WRITE_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// The control stream while the Hellos are exchanged.
pub(crate) struct Opening {
    send: SendStream,
    recv: RecvStream,
    buffer: BytesMut,
}

impl Opening {
    pub(crate) fn new(send: SendStream, recv: RecvStream) -> Self {
        // Fails only for a stream that was reset, and then the next write says so.
        let _ = send.set_priority(PRIORITY);
        Self { send, recv, buffer: BytesMut::new() }
    }

    /// Exchanges Hellos; who dialled speaks first. A peer that is not taken is told why before the stream goes: its end would be
    /// another reason, and come first.
    pub(crate) async fn exchange(
        &mut self,
        connection: &Connection,
        role: Role,
        here: &Hello,
        certified: &RouterName,
    ) -> Result<Hello, LinkError> {
        let exchanged = match role {
            Role::Dialer => match self.say(here).await {
                Ok(()) => self.hear(here, certified).await,
                Err(error) => Err(error),
            },
            Role::Listener => match self.hear(here, certified).await {
                Ok(hello) => self.say(here).await.map(|()| hello),
                Err(error) => Err(error),
            },
        };
        exchanged.inspect_err(|error| refuse(connection, error))
    }

    async fn say(&mut self, hello: &Hello) -> Result<(), LinkError> {
        let bytes = encode(&Frame::Hello(hello.clone()))?;
        match self.send.write_all(&bytes).await {
            Ok(()) => Ok(()),
            Err(quinn::WriteError::ConnectionLost(error)) => Err(error.into()),
            Err(error) => Err(LinkError::Handshake(error.to_string())),
        }
    }

    /// Reads the Hello of the peer and holds it against its certificate.
    async fn hear(&mut self, here: &Hello, certified: &RouterName) -> Result<Hello, LinkError> {
        loop {
            match next_frame(&mut self.buffer)? {
                Some(Frame::Hello(hello)) => return check(hello, here, certified),
                Some(_) => return Err(LinkError::Hello("another frame came before the Hello".into())),
                None => match self.recv.read_chunk(READ_BYTES, true).await {
                    Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                    Ok(None) => return Err(LinkError::Hello("the control stream ended before the Hello".into())),
                    Err(quinn::ReadError::ConnectionLost(error)) => return Err(error.into()),
                    Err(error) => return Err(LinkError::Handshake(error.to_string())),
                },
            }
        }
    }

    /// Starts the tasks of the control stream. `more` are tasks that belong to the same link.
    pub(crate) fn start(self, wire: Arc<Wire>, here: &Hello, peer: Hello, mut more: JoinSet<()>) -> FrameReceiver {
        let (frames, to_write) = mpsc::channel(FRAMES_QUEUED_MAX);
        let (to_take, taken) = mpsc::channel(FRAMES_TAKEN_MAX);
        let (echo, echoes) = mpsc::channel(ECHOES_QUEUED_MAX);
        more.spawn(write(wire.clone(), self.send, to_write, echoes));
        more.spawn(read(wire.clone(), self.recv, self.buffer, to_take, echo));
        let limits = Limits::negotiated(here, &peer);
        FrameReceiver { core: Core::new(wire, peer, limits, frames, more), frames: taken }
    }
}

/// Tells the peer why it is not taken.
pub(crate) fn refuse(connection: &Connection, error: &LinkError) {
    connection.close(error.close_code().into(), error.close_text().as_bytes());
}

fn check(hello: Hello, here: &Hello, certified: &RouterName) -> Result<Hello, LinkError> {
    let refuse = |text: String| Err(LinkError::Hello(text));
    if agreed_version(here.version, hello.version).is_none() {
        let (theirs, ours) = (hello.version, here.version);
        let apart = format!("one speaks version {theirs} of the protocol, the other version {ours}");
        return refuse(format!("{apart}; at most {VERSION_SKEW_MAX} apart may meet, so upgrade the older one first"));
    }
    if hello.mesh != here.mesh {
        return refuse(format!("it says mesh {:?}, this is mesh {:?}", hello.mesh, here.mesh));
    }
    for (what, said, proven) in [
        ("mesh", &hello.mesh, &certified.mesh),
        ("region", &hello.region, &certified.region),
        ("router", &hello.router, &certified.router),
    ] {
        if said != proven {
            return refuse(format!("it says {what} {said:?}, its certificate says {proven:?}"));
        }
    }
    Ok(hello)
}

async fn write(
    wire: Arc<Wire>,
    mut send: SendStream,
    mut frames: mpsc::Receiver<Bytes>,
    mut echoes: mpsc::Receiver<u64>,
) {
    let mut tick = tokio::time::interval(HEARTBEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = BytesMut::with_capacity(WRITE_BYTES);
    loop {
        tokio::select! {
            biased;
            _ = tick.tick() => {
                append(&mut buffer, &Frame::Heartbeat { at_micros: micros_since(wire.began) });
            }
            Some(at_micros) = echoes.recv() => append(&mut buffer, &Frame::HeartbeatEcho { at_micros }),
            frame = frames.recv() => match frame {
                Some(bytes) => buffer.extend_from_slice(&bytes),
                None => return,
            },
        }
        while buffer.len() < WRITE_BYTES
            && let Ok(bytes) = frames.try_recv()
        {
            buffer.extend_from_slice(&bytes);
        }
        match tokio::time::timeout(WRITE_PATIENCE, send.write_all(&buffer)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return wire.fail(unexpected("the control stream was stopped")),
            Err(_) => {
                let text = format!("the peer has not read what it is told for {} s", WRITE_PATIENCE.as_secs());
                return wire.fail(LinkError::Protocol { code: close::NOT_READING, text });
            }
        }
        buffer.clear();
    }
}

async fn read(
    wire: Arc<Wire>,
    mut recv: RecvStream,
    mut buffer: BytesMut,
    frames: mpsc::Sender<Frame>,
    echo: mpsc::Sender<u64>,
) {
    let mut heard = Instant::now();
    loop {
        loop {
            match next_frame(&mut buffer) {
                Ok(Some(Frame::Heartbeat { at_micros })) => drop(echo.try_send(at_micros)),
                Ok(Some(Frame::HeartbeatEcho { at_micros })) => {
                    let rtt = micros_since(wire.began).saturating_sub(at_micros);
                    wire.heartbeat_rtt_micros.store(rtt, Ordering::Relaxed);
                }
                Ok(Some(Frame::Hello(_))) => return wire.fail(unexpected("a second Hello")),
                Ok(Some(frame)) => {
                    if frames.send(frame).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => return wire.fail(error.into()),
            }
        }
        match tokio::time::timeout_at(heard + DEAD_AFTER, recv.read_chunk(READ_BYTES, true)).await {
            Ok(Ok(Some(chunk))) => buffer.extend_from_slice(&chunk.bytes),
            Ok(Ok(None)) => return wire.fail(unexpected("the control stream ended")),
            Ok(Err(_)) => return wire.fail(unexpected("the control stream was reset")),
            Err(_) => return wire.fail(LinkError::Dead),
        }
        heard = Instant::now();
    }
}

/// Ends the link when the certificate of its peer has run out, or is no longer good by what this router now knows. The peer that was
/// dialled may have another certificate by now, which only a new link shows: there is time to make one.
pub(crate) async fn watch_certificate(wire: Arc<Wire>, peer: Peer, mut own: IdentityWatch) {
    let mut tick = tokio::time::interval(HEARTBEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let patience = if peer.role == Role::Dialer { RENEWAL_PATIENCE } else { Duration::ZERO };
    // What came into force during the handshake counts as well.
    let (mut judged_by, mut bad_since) = (None, None);
    loop {
        let current = own.current();
        if judged_by.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &current)) {
            let fault = peer.judge(&current).err();
            judged_by = Some(current);
            bad_since = fault.map(|fault| (bad_since.map_or_else(Instant::now, |(since, _)| since), fault));
        }
        if let Some((_, fault)) = bad_since.take_if(|(since, _)| since.elapsed() >= patience) {
            return wire.fail(LinkError::Certificate(fault));
        }
        if SystemTime::now() >= wire.peer_expiry {
            return wire.fail(LinkError::Expired);
        }
        tokio::select! {
            biased;
            () = own.changed() => {}
            _ = tick.tick() => {}
        }
    }
}

fn append(buffer: &mut BytesMut, heartbeat: &Frame) {
    longhaul_wire::encode_frame(heartbeat, buffer).expect("a heartbeat is a few bytes");
}

fn unexpected(text: &str) -> LinkError {
    LinkError::Protocol { code: close::UNEXPECTED, text: text.to_owned() }
}

fn micros_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}
