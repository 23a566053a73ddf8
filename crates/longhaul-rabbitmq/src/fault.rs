//! What went wrong at the broker, by what the caller must do about it; every text is free of addresses with passwords.

use lapin::ErrorKind;
use longhaul_broker::{SinkError, SourceError};

const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// Why something did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It may work next time.
    Transient(String),
    /// Somebody must change the configuration or the broker first.
    Config(String),
}

impl Fault {
    /// Judges an error of the client; `doing` says in words what was tried.
    pub(crate) fn of(error: &lapin::Error, doing: &str) -> Self {
        let ErrorKind::ProtocolError(refusal) = error.kind() else {
            return Self::Transient(format!("{doing}: {error}"));
        };
        let reason = refusal.get_message().as_str();
        let text = format!("{doing}: RabbitMQ says {reason}");
        match refusal.get_id() {
            // A queue whose node is away is told as "not found".
            NOT_FOUND if reason.contains("down or inaccessible") => Self::Transient(text),
            ACCESS_REFUSED if is_in_use(error) => Self::Transient(text),
            PRECONDITION_FAILED if is_passing(reason) => Self::Transient(text),
            ACCESS_REFUSED | NOT_FOUND | PRECONDITION_FAILED | NOT_ALLOWED => Self::Config(text),
            _ => Self::Transient(text),
        }
    }

    /// The reason in words.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Transient(text) | Self::Config(text) => text,
        }
    }
}

/// Failed preconditions that another channel does not meet again, or not for long: a node that has just started has its streams a moment later.
fn is_passing(reason: &str) -> bool {
    let passing =
        ["delivery tag", "acknowledgement", "message size", "timed out", "does not have a replica on the local node"];
    passing.iter().any(|part| reason.contains(part))
}

/// Whether the broker refused with that reply code.
pub(crate) fn is_refusal(error: &lapin::Error, code: u16) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(refusal) if refusal.get_id() == code)
}

/// Whether the broker said that there is no such thing.
pub(crate) fn is_not_found(error: &lapin::Error) -> bool {
    is_refusal(error, NOT_FOUND) && matches!(Fault::of(error, ""), Fault::Config(_))
}

/// Whether somebody else consumes the queue and lets nobody in.
pub(crate) fn is_in_use(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(refusal)
        if refusal.get_id() == ACCESS_REFUSED && refusal.get_message().as_str().contains("exclusive use"))
}

/// The limit that the broker names when a message exceeds it: "message size 20 is larger than configured max size 10".
pub(crate) fn message_bytes_max(error: &lapin::Error) -> Option<usize> {
    let ErrorKind::ProtocolError(refusal) = error.kind() else { return None };
    let reason = refusal.get_message().as_str();
    let (_, limit) = reason.contains("message size").then(|| reason.rsplit_once("max size "))??;
    limit.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

impl From<Fault> for SourceError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Transient(text) => Self::Transient(text),
            Fault::Config(text) => Self::Config(text),
        }
    }
}

impl From<Fault> for SinkError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Transient(text) => Self::Transient(text),
            Fault::Config(text) => Self::Config(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

    use super::*;

    fn error(kind: impl Into<AMQPErrorKind>, text: &str) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(kind.into(), text.into())).into()
    }

    #[test]
    fn a_stream_that_is_not_there_yet_passes_and_other_preconditions_last() {
        let of = |text: &str| Fault::of(&error(AMQPSoftError::PRECONDITIONFAILED, text), "reading");
        let starting = "PRECONDITION_FAILED - queue 'queue 's' in vhost '/'' does not have a replica on the local node";
        assert!(matches!(of(starting), Fault::Transient(_)));
        assert!(matches!(of("PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x'"), Fault::Config(_)));
    }

    #[test]
    fn refusals_are_judged_by_who_must_act() {
        let missing = error(AMQPSoftError::NOTFOUND, "NOT_FOUND - no queue 'q' in vhost '/'");
        assert!(matches!(Fault::of(&missing, "reading"), Fault::Config(text) if text.starts_with("reading: ")));
        assert!(is_not_found(&missing));
        let away =
            error(AMQPSoftError::NOTFOUND, "NOT_FOUND - home node 'a' of durable queue 'q' is down or inaccessible");
        assert!(matches!(Fault::of(&away, ""), Fault::Transient(_)) && !is_not_found(&away));
        let taken = error(AMQPSoftError::ACCESSREFUSED, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use");
        assert!(matches!(Fault::of(&taken, ""), Fault::Transient(_)));
        let login = error(AMQPSoftError::ACCESSREFUSED, "ACCESS_REFUSED - Login was refused");
        assert!(matches!(Fault::of(&login, ""), Fault::Config(_)));
        let vhost = error(AMQPHardError::NOTALLOWED, "NOT_ALLOWED - vhost x not found");
        assert!(matches!(Fault::of(&vhost, ""), Fault::Config(_)));
        let locked = error(AMQPSoftError::RESOURCELOCKED, "RESOURCE_LOCKED - cannot obtain exclusive access");
        assert!(matches!(Fault::of(&locked, ""), Fault::Transient(_)));
    }

    #[test]
    fn a_limit_that_the_broker_names_is_learnt() {
        let of = |text: &str| message_bytes_max(&error(AMQPSoftError::PRECONDITIONFAILED, text));
        assert_eq!(of("PRECONDITION_FAILED - message size 2000 is larger than configured max size 1000"), Some(1_000));
        assert_eq!(of("PRECONDITION_FAILED - message size 2000 is larger than max size 1000, sorry"), Some(1_000));
        assert_eq!(of("PRECONDITION_FAILED - unknown delivery tag 5"), None);
    }
}
