//! The applying end of a link: holds what comes against what was sent, and acknowledges.

use std::sync::Arc;

use longhaul_event::{Event, Position};
use longhaul_link::{BatchHandler, InLink, InSender, LinkError, Violation};
use longhaul_wire::{BatchHeader, Frame};
use tokio::sync::Notify;

use crate::{
    books::Books,
    flow::{FLOWS, payload},
    owner::TICK,
};

struct Inbox {
    books: Arc<Books>,
    link: usize,
    arrived: Notify,
    durable: std::sync::Mutex<Vec<Option<(u32, u64)>>>,
}

impl BatchHandler for Inbox {
    fn handle_batch(&self, header: BatchHeader, events: Vec<Event>, _bytes: usize) -> Result<(), Violation> {
        let (link, handle, number) = (self.link, header.handle, header.last);
        let expected = payload(self.books.plan(), link, handle, number);
        let is_whole = handle < FLOWS && events.len() == 1 && header.prev == number - 1;
        if !is_whole || events[0].offset != number || events[0].payload.as_ref() != Some(&expected) {
            self.books.blame(format!("link {link}: a batch is not as it was sent: {header:?}"));
        }
        if let Some(durable) = self.books.arrived(link, handle, header.path_epoch, number) {
            self.durable.lock().unwrap()[handle as usize] = Some((header.path_epoch, durable));
            self.arrived.notify_one();
        }
        Ok(())
    }
}

/// What is said and heard on the control stream, each frame with a number one higher than that of the one before.
struct Talk<'a> {
    books: &'a Books,
    link: usize,
    sender: InSender,
    said: u64,
    ticks: u32,
}

impl Talk<'_> {
    fn hear(&mut self, frame: &Frame) {
        match frame {
            Frame::Open(open) => {
                if let Some(came) = self.books.opened(self.link, open.handle, open.path_epoch) {
                    let resume = Some(Position { incarnation: 1, offset: came });
                    let (handle, path_epoch) = (open.handle, open.path_epoch);
                    self.say(|number| Frame::Accept {
                        handle,
                        path_epoch,
                        resume,
                        events_limit: number,
                        bytes_limit: 0,
                    });
                }
            }
            Frame::Close { handle: TICK, path_epoch } if *path_epoch == self.ticks + 1 => self.ticks += 1,
            other => self.books.blame(format!("link {}: after tick {} came {other:?}", self.link, self.ticks)),
        }
    }

    /// Says it if there is room; a frame that was not taken has no number.
    fn say(&mut self, frame: impl FnOnce(u64) -> Frame) {
        if let Ok(true) = self.sender.try_send(&frame(self.said + 1)) {
            self.said += 1;
        }
    }
}

/// Serves a link that was accepted until it ends.
pub(crate) async fn serve(books: Arc<Books>, link: usize, incoming: InLink) {
    let (sender, mut receiver) = incoming.split();
    let generation = books.came_up(link, false);
    let durable = std::sync::Mutex::new(vec![None; FLOWS as usize]);
    let inbox = Arc::new(Inbox { books: books.clone(), link, arrived: Notify::new(), durable });
    receiver.run_parcels(inbox.clone());
    let mut talk = Talk { books: &books, link, sender, said: 0, ticks: 0 };
    let error: LinkError = loop {
        tokio::select! {
            biased;
            frame = receiver.recv() => match frame {
                Ok(frame) => talk.hear(&frame),
                Err(error) => break error,
            },
            () = inbox.arrived.notified() => {
                let durable: Vec<_> = inbox.durable.lock().unwrap().iter_mut().map(Option::take).collect();
                for (handle, (path_epoch, durable)) in (0..).zip(durable).filter_map(|(handle, at)| Some((handle, at?))) {
                    talk.say(|number| Frame::Ack { handle, path_epoch, durable, events_limit: number, bytes_limit: 0 });
                }
            }
        }
    };
    books.went_down(link, generation, error.label());
}
