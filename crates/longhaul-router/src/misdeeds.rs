//! What a peer with a good certificate must not do on a link, each with the code that it is told and the reason that is counted. A link on
//! which it happens is cut: its flows are opened again over the next one, and nobody else notices.

use longhaul_link::{LinkError, Violation, close};

/// One kind of misdeed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Misdeed {
    code: u32,
    reason: &'static str,
    text: &'static str,
}

/// More entries are pending for a flow than it can have.
pub(crate) const FLOODED: Misdeed = Misdeed { code: 0x200, reason: "flooded", text: "a flow is flooded" };
/// Something for a flow that was never opened on this link.
pub(crate) const NEVER_OPENED: Misdeed =
    Misdeed { code: 0x203, reason: "never_opened", text: "it speaks of a flow that was never opened on this link" };
/// Events beyond what was granted.
pub(crate) const CREDIT: Misdeed =
    Misdeed { code: 0x204, reason: "credit", text: "more was sent on a flow than its credit allows" };
/// What only the other end may say.
pub(crate) const WRONG_WAY: Misdeed =
    Misdeed { code: 0x205, reason: "wrong_way", text: "it says what only the other end of a link may say" };
/// Too many links of one router.
pub(crate) const TOO_MANY_LINKS: Misdeed =
    Misdeed { code: 0x206, reason: "too_many_links", text: "this router holds too many links here already" };

/// An acknowledgement of what was never sent.
pub(crate) const FALSE_ACK: Misdeed =
    Misdeed { code: 0x207, reason: "false_ack", text: "it acknowledges what was never sent" };

const ALL: [Misdeed; 6] = [FLOODED, NEVER_OPENED, CREDIT, WRONG_WAY, TOO_MANY_LINKS, FALSE_ACK];

impl From<Misdeed> for Violation {
    fn from(Misdeed { code, text, .. }: Misdeed) -> Self {
        Self { code, text: text.to_owned() }
    }
}

impl From<Misdeed> for LinkError {
    fn from(misdeed: Misdeed) -> Self {
        Violation::from(misdeed).into()
    }
}

/// The reason that is counted for a link that was refused or cut.
#[must_use]
pub(crate) fn reason(error: &LinkError) -> &'static str {
    match error.cause() {
        LinkError::Protocol { code: close::NOT_READING, .. } => "not_reading",
        LinkError::Protocol { code: close::PARCELS, .. } => "parcels",
        LinkError::Protocol { code, .. } => {
            ALL.iter().find(|misdeed| misdeed.code == *code).map_or("protocol", |misdeed| misdeed.reason)
        }
        other => other.label(),
    }
}
