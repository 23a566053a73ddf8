//! Datagrams that belong to no link: counted, so that noise at a port is seen. QUIC drops them, or answers that it knows nothing of them.
//!
//! QUIC asks the generator of connection ids whether an id that it does not know could be one of its own; that is where they are counted.
//! What looks like the beginning of a connection is not counted here: it ends as a handshake that fails, or as one that is not answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator, HashedConnectionIdGenerator, InvalidCid};

/// How many datagrams came that belong to no link. Clones share the count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Strangers(Arc<AtomicU64>);

impl Strangers {
    /// How many came since it was last asked.
    pub(crate) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }

    /// A generator of connection ids that counts here. The key makes its ids known again after a restart.
    pub(crate) fn generator(&self, key: u64) -> Box<dyn ConnectionIdGenerator> {
        Box::new(Counting { ids: HashedConnectionIdGenerator::from_key(key), strangers: self.clone() })
    }
}

struct Counting {
    ids: HashedConnectionIdGenerator,
    strangers: Strangers,
}

impl ConnectionIdGenerator for Counting {
    fn generate_cid(&mut self) -> ConnectionId {
        self.ids.generate_cid()
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        self.ids.validate(id).inspect_err(|_| {
            self.strangers.0.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn cid_len(&self) -> usize {
        self.ids.cid_len()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        self.ids.cid_lifetime()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_ours_is_known_also_after_a_restart_and_any_other_is_counted() {
        let strangers = Strangers::default();
        let id = strangers.generator(7).generate_cid();
        assert!(strangers.generator(7).validate(&id).is_ok());
        assert_eq!(strangers.take(), 0);
        assert!(strangers.generator(8).validate(&id).is_err());
        assert!(strangers.generator(7).validate(&ConnectionId::new(b"no ours.")).is_err());
        assert_eq!((strangers.take(), strangers.take()), (2, 0), "each is told once");
    }
}
