//! Why the embedded broker does not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the embedded broker does not start. Every text is a sentence that says what to do or to look at.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The listener's address cannot be bound.
    #[error("the embedded broker cannot listen on {addr}: {source}")]
    Listen {
        /// The configured address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The folder of the store cannot be made or used.
    #[error("the folder {} of the embedded broker cannot be used: {source}", path.display())]
    Folder {
        /// The configured folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process, or another broker of this one, has the store open.
    #[error("the store {} of the embedded broker is in use by somebody else; each broker needs a folder of its own", path.display())]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// What stands in the store is not what was written.
    #[error(
        "the store {} of the embedded broker is damaged and is left as it is: {reason}; restore it from a copy, or move it away to \
         begin with an empty log",
        path.display()
    )]
    Corrupted {
        /// The store's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The store does not open for another reason, such as a full disk.
    #[error("the store {} of the embedded broker does not open: {reason}", path.display())]
    Store {
        /// The store's file.
        path: PathBuf,
        /// What the system or the store says.
        reason: String,
    },
}
