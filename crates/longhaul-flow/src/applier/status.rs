//! What an applier shows of itself.

use longhaul_event::Position;

use super::Applier;
use crate::credit::Credit;
use crate::state::ApplierState;

impl<B> Applier<B> {
    /// The state.
    #[must_use]
    pub fn state(&self) -> ApplierState {
        self.state
    }

    /// The epochs of the last Open.
    #[must_use]
    pub fn epochs(&self) -> (u64, u32) {
        (self.owner_epoch, self.path_epoch)
    }

    /// The last accepted position.
    #[must_use]
    pub fn accepted(&self) -> Option<Position> {
        self.accepted
    }

    /// The last position that the sink has confirmed.
    #[must_use]
    pub fn written(&self) -> Option<Position> {
        self.accepted.map(|accepted| Position { offset: self.written, ..accepted })
    }

    /// The last position whose cursor is committed.
    #[must_use]
    pub fn durable(&self) -> Option<Position> {
        self.accepted.zip(self.durable).map(|(accepted, offset)| Position { offset, ..accepted })
    }

    /// The credit that was last told to the owner.
    #[must_use]
    pub fn granted(&self) -> Credit {
        self.grant.told()
    }

    /// The window in bytes from which credit is granted.
    #[must_use]
    pub fn window_bytes(&self) -> u64 {
        self.grant.window()
    }

    /// Events and bytes that are here: held, accepted or with the sink.
    #[must_use]
    pub fn outstanding(&self) -> (u64, u64) {
        self.grant.outstanding()
    }

    /// Bytes of memory that are promised: here, or granted and still to come.
    #[must_use]
    pub fn committed_bytes(&self) -> u64 {
        self.grant.committed_bytes()
    }

    /// Number of batches that came early and are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.window.held()
    }

    /// Whether everything that was accepted is written and its cursor committed.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        let all = self.accepted.is_none_or(|accepted| self.durable == Some(accepted.offset));
        all && self.window.is_empty() && self.committing.is_none()
    }
}
