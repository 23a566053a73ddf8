//! The health of a connector with more than one connection: up when all are, down with the first reason.

use std::sync::{Arc, Mutex};

use longhaul_broker::Health;
use tokio::sync::watch;

/// Gathers what each connection says.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    tx: watch::Sender<Health>,
    parts: Arc<Mutex<Vec<Health>>>,
}

/// Where one connection says how it is.
#[derive(Debug)]
pub(crate) struct Report {
    board: Board,
    part: usize,
}

impl Board {
    /// A board that nobody reports to yet.
    pub(crate) fn new() -> Self {
        Self { tx: watch::Sender::new(Health::Connecting), parts: Arc::default() }
    }

    /// The whole, and its changes.
    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.tx.subscribe()
    }

    /// A place for one more connection.
    pub(crate) fn report(&self) -> Report {
        let mut parts = self.parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        parts.push(Health::Connecting);
        Report { board: self.clone(), part: parts.len() - 1 }
    }
}

impl Report {
    /// The connection stands.
    pub(crate) fn up(&self) {
        self.set(Health::Up);
    }

    /// The connection is gone or cannot be made.
    pub(crate) fn down(&self, reason: &str) {
        self.set(Health::Down(reason.to_owned()));
    }

    fn set(&self, health: Health) {
        let whole = {
            let mut parts = self.board.parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            parts[self.part] = health;
            let down = parts.iter().find(|part| matches!(part, Health::Down(_)));
            // A second connection that is still being made for the first time does not undo what the first one shows.
            down.or_else(|| parts.iter().find(|part| **part == Health::Up)).cloned().unwrap_or(Health::Connecting)
        };
        self.board.tx.send_if_modified(|now| {
            let changed = *now != whole;
            *now = whole;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_down_makes_the_whole_down() {
        let board = Board::new();
        let (a, health) = (board.report(), board.health());
        assert_eq!(*health.borrow(), Health::Connecting);
        a.up();
        let b = board.report();
        assert_eq!(*health.borrow(), Health::Up);
        b.down("why");
        assert_eq!(*health.borrow(), Health::Down("why".to_owned()));
        b.up();
        assert_eq!(*health.borrow(), Health::Up);
    }
}
