//! Why a link ends or never comes to be, in sentences for people and labels for metrics.

use std::net::SocketAddr;

use longhaul_wire::WireError;
use quinn::ConnectionError;

/// Codes with which this crate closes a connection. Codes from 0x100 on are those of [`WireError::code`].
pub mod close {
    /// In good order.
    pub const DONE: u32 = 0;
    /// The Hello is not acceptable.
    pub const HELLO: u32 = 0x10;
    /// No sign of life.
    pub const DEAD: u32 = 0x11;
    /// The peer's certificate has expired.
    pub const EXPIRED: u32 = 0x12;
    /// A stream or frame where none may be.
    pub const UNEXPECTED: u32 = 0x13;
    /// A fault of the one who closes.
    pub const INTERNAL: u32 = 0x14;
    /// The peer's certificate is not good any more: it was revoked, or its CA is gone.
    pub const CERTIFICATE: u32 = 0x15;
    /// The peer does not read what it is told.
    pub const NOT_READING: u32 = 0x16;
    /// Parcels that are begun and do not go on, or hold nothing.
    pub const PARCELS: u32 = 0x17;
}

/// Why a link ended, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The router's own certificate files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The UDP socket.
    #[error("cannot use UDP at {addr}: {text}")]
    Socket {
        /// Where.
        addr: SocketAddr,
        /// What the system says.
        text: String,
    },
    /// The peer's certificate does not make it a peer.
    #[error("the certificate of the peer is refused: {0}")]
    Certificate(#[from] CertificateFault),
    /// The handshake failed for another reason.
    #[error("the handshake failed: {0}")]
    Handshake(String),
    /// The peer's Hello does not make it a peer.
    #[error("the Hello of the peer is refused: {0}")]
    Hello(String),
    /// The peer did what the protocol does not allow; the link was closed here.
    #[error("the peer broke the protocol: {text} (code {code:#x})")]
    Protocol {
        /// The code that the peer was told.
        code: u32,
        /// The reason that the peer was told.
        text: String,
    },
    /// The peer refused this router in the handshake.
    #[error("refused by the peer: {text} (code {code:#x})")]
    RefusedByPeer {
        /// Code of the QUIC transport; 0x100 and a TLS alert for certificates.
        code: u64,
        /// What the peer says.
        text: String,
    },
    /// The peer closed the link.
    #[error("closed by the peer: {text} (code {code:#x})")]
    ClosedByPeer {
        /// Its code.
        code: u64,
        /// What the peer says.
        text: String,
    },
    /// The peer does not know this link any more: it was started anew.
    #[error("the peer was started anew")]
    PeerRestarted,
    /// Three heartbeats missed.
    #[error("no sign of life from the peer for 3 s")]
    Dead,
    /// No answer in the handshake, or QUIC gave up.
    #[error("no answer from the peer in time")]
    TimedOut,
    /// The certificate of the peer ran out while the link was up.
    #[error("the certificate of the peer has expired")]
    Expired,
    /// Ended in good order, by a Goodbye.
    #[error("goodbye: {0}")]
    Goodbye(String),
    /// Closed here.
    #[error("closed here: {0}")]
    Closed(String),
    /// The flow was cancelled while its batch waited.
    #[error("the flow was cancelled")]
    Cancelled,
    /// A frame that cannot be sent; the link is as it was.
    #[error("cannot send: {0}")]
    Unsendable(WireError),
    /// Datagrams at the port of a listener that are no packets of a link, lately.
    #[error("{datagrams} datagrams came that belong to no link")]
    Noise {
        /// How many.
        datagrams: u64,
    },
    /// One of the others, with the address of the peer.
    #[error("{remote}: {error}")]
    Peer {
        /// Who.
        remote: SocketAddr,
        /// What.
        error: Box<LinkError>,
    },
}

/// Why a router cannot use its own certificate files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A file that cannot be read.
    #[error("cannot read {what} {path}: {text}")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// Where it is.
        path: String,
        /// What the system says.
        text: String,
    },
    /// A file without what it is for.
    #[error("{what} {path} holds no usable {what}: {text}")]
    Content {
        /// What the file is for.
        what: &'static str,
        /// Where it is.
        path: String,
        /// What is wrong with it.
        text: String,
    },
    /// A certificate that names no router.
    #[error("certificate {path}: {fault}")]
    Name {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        fault: CertificateFault,
    },
    /// Key and certificate do not belong together, or TLS cannot use them.
    #[error("certificate {path} and its key cannot be used: {text}")]
    Unusable {
        /// Where the certificate is.
        path: String,
        /// What TLS says.
        text: String,
    },
}

/// Why the certificate of a peer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateFault {
    /// Past its end.
    #[error("it has expired")]
    Expired,
    /// Before its beginning.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Taken back by its CA.
    #[error("it was revoked")]
    Revoked,
    /// Another CA.
    #[error("it was not issued by the CA of this mesh")]
    ForeignCa,
    /// None presented.
    #[error("none was presented")]
    Missing,
    /// No URI name of ours.
    #[error("it has no URI name longhaul://<mesh>/<region>/<router>")]
    NoName,
    /// More than one URI name of ours.
    #[error("it has more than one URI name longhaul://<mesh>/<region>/<router>")]
    ManyNames,
    /// A name that is none.
    #[error("its URI name {0:?} is not longhaul://<mesh>/<region>/<router>")]
    BadName(String),
    /// Another mesh.
    #[error("it is of mesh {found:?}, expected mesh {expected:?}")]
    WrongMesh {
        /// Ours.
        expected: String,
        /// Theirs.
        found: String,
    },
    /// Another region than the one that was dialled.
    #[error("it is of region {found:?}, expected region {expected:?}")]
    WrongRegion {
        /// The one that was dialled.
        expected: String,
        /// Theirs.
        found: String,
    },
    /// What else TLS finds.
    #[error("{0}")]
    Other(String),
}

/// What a batch handler finds wrong with a batch: ends the link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} (code {code:#x})")]
pub struct Violation {
    /// The code that the peer is told; choose 0x200 and up.
    pub code: u32,
    /// The reason that the peer is told.
    pub text: String,
}

impl LinkError {
    /// A short name for the label of a metric; one of a fixed set.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Identity(_) => "own_identity",
            Self::Socket { .. } => "socket",
            Self::Certificate(fault) => fault.label(),
            Self::Handshake(_) => "handshake",
            Self::Hello(_) => "hello",
            Self::Protocol { .. } => "protocol",
            Self::RefusedByPeer { .. } => "refused_by_peer",
            Self::ClosedByPeer { .. } => "closed_by_peer",
            Self::PeerRestarted => "peer_restarted",
            Self::Dead => "dead",
            Self::TimedOut => "timed_out",
            Self::Expired => "certificate_expired",
            Self::Goodbye(_) => "goodbye",
            Self::Closed(_) => "closed",
            Self::Cancelled => "cancelled",
            Self::Unsendable(_) => "unsendable",
            Self::Noise { .. } => "noise",
            Self::Peer { error, .. } => error.label(),
        }
    }

    /// The error without the address of the peer.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Peer { error, .. } => error.cause(),
            other => other,
        }
    }

    pub(crate) fn at(self, remote: SocketAddr) -> Self {
        Self::Peer { remote, error: Box::new(self) }
    }

    /// The code that the peer is told when this error closes the connection.
    pub(crate) fn close_code(&self) -> u32 {
        match self {
            Self::Hello(_) => close::HELLO,
            Self::Protocol { code, .. } => *code,
            Self::Dead => close::DEAD,
            Self::Expired => close::EXPIRED,
            Self::Certificate(_) => close::CERTIFICATE,
            Self::Closed(_) | Self::Goodbye(_) => close::DONE,
            _ => close::INTERNAL,
        }
    }

    /// The sentence that the peer is told when this error closes the connection.
    pub(crate) fn close_text(&self) -> String {
        match self {
            Self::Hello(text) | Self::Protocol { text, .. } | Self::Closed(text) | Self::Goodbye(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

impl CertificateFault {
    fn label(&self) -> &'static str {
        match self {
            Self::Expired => "certificate_expired",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::Revoked => "certificate_revoked",
            Self::ForeignCa => "certificate_foreign_ca",
            Self::Missing => "certificate_missing",
            Self::NoName | Self::ManyNames | Self::BadName(_) => "certificate_name",
            Self::WrongMesh { .. } => "certificate_wrong_mesh",
            Self::WrongRegion { .. } => "certificate_wrong_region",
            Self::Other(_) => "certificate_other",
        }
    }
}

impl From<WireError> for LinkError {
    fn from(error: WireError) -> Self {
        Self::Protocol { code: error.code(), text: error.to_string() }
    }
}

impl From<Violation> for LinkError {
    fn from(Violation { code, text }: Violation) -> Self {
        Self::Protocol { code, text }
    }
}

impl From<ConnectionError> for LinkError {
    fn from(error: ConnectionError) -> Self {
        const TLS_CERTIFICATE_REQUIRED: u8 = 116;
        match error {
            ConnectionError::ApplicationClosed(closed) => Self::ClosedByPeer {
                code: closed.error_code.into_inner(),
                text: String::from_utf8_lossy(&closed.reason).into_owned(),
            },
            ConnectionError::ConnectionClosed(closed) => Self::RefusedByPeer {
                code: closed.error_code.into(),
                text: String::from_utf8_lossy(&closed.reason).into_owned(),
            },
            ConnectionError::TransportError(fault)
                if fault.code == quinn_proto::TransportErrorCode::crypto(TLS_CERTIFICATE_REQUIRED) =>
            {
                Self::Certificate(CertificateFault::Missing)
            }
            ConnectionError::TransportError(fault) => Self::Handshake(fault.to_string()),
            ConnectionError::Reset => Self::PeerRestarted,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::LocallyClosed => Self::Closed("closed".into()),
            other @ (ConnectionError::VersionMismatch | ConnectionError::CidsExhausted) => {
                Self::Handshake(other.to_string())
            }
        }
    }
}
