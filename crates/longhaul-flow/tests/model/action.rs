//! What can happen between an owner and an applier, one action at a time.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Produce,
    Send,
    DeliverParcel,
    ToApplier,
    ToOwner,
    FinishWrite,
    FinishCommit,
    FinishSinkOpen,
    FinishSeek,
    Wait,
    LinkUp,
    LinkDown,
    PathLostAtApplier,
    SwitchConnection,
    RestartOwner,
    RestartApplier,
    FailSink,
    LoseTail,
    FailSource,
    LoseParcel,
    Recap,
}

impl Action {
    pub(crate) fn is_calm(self) -> bool {
        matches!(
            self,
            Self::Produce
                | Self::Send
                | Self::DeliverParcel
                | Self::ToApplier
                | Self::ToOwner
                | Self::FinishWrite
                | Self::FinishCommit
                | Self::FinishSinkOpen
                | Self::FinishSeek
                | Self::LinkUp
        )
    }

    pub(crate) fn loses_the_reader(self) -> bool {
        matches!(self, Self::RestartOwner | Self::FailSource)
    }

    pub(crate) fn loses_the_writer(self) -> bool {
        matches!(self, Self::RestartApplier | Self::FailSink | Self::LoseTail)
    }
}
