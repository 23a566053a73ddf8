//! The owning end of a link: dials for ever as a router does, opens its flows under a new path epoch whenever the link is new, and goes on
//! where the applying end says.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use longhaul_link::{Dialer, LinkError, OutLink, OutSender, WindowHint};
use longhaul_wire::Frame;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    books::Books,
    dice::Dice,
    flow::{self, FLOWS},
};

/// Stands in a `Close` for no flow: a frame whose path epoch counts the frames of its kind.
pub(crate) const TICK: u32 = u32::MAX;
const TICK_EVERY: Duration = Duration::from_millis(200);
const BACK_OFF_LEAST: u64 = 100;
const BACK_OFF_MOST: u64 = 10_000;

/// The back-off of a router's dialling loop: doubling from 100 ms to 10 s, between half of the step and all of it.
#[derive(Debug)]
pub struct BackOff {
    step: u64,
    dice: Dice,
}

impl BackOff {
    /// Starts at the least delay.
    #[must_use]
    pub fn new(dice: Dice) -> Self {
        Self { step: BACK_OFF_LEAST, dice }
    }

    fn next(&mut self) -> Duration {
        let delay = self.dice.range(self.step / 2, self.step);
        self.step = (self.step * 2).min(BACK_OFF_MOST);
        Duration::from_millis(delay)
    }

    fn reset(&mut self) {
        self.step = BACK_OFF_LEAST;
    }
}

/// What an owning end needs.
pub(crate) struct Owner {
    pub(crate) books: Arc<Books>,
    pub(crate) link: usize,
    pub(crate) addr: SocketAddr,
    pub(crate) region: String,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) began: Instant,
}

impl Owner {
    pub(crate) async fn run(self, mut back_off: BackOff) {
        let hint = WindowHint { congestion: self.books.plan().congestion, ..WindowHint::default() };
        loop {
            match self.dialer.dial(self.addr, &self.region, hint).await {
                Ok(out) => {
                    let generation = self.books.came_up(self.link, true);
                    let error = self.serve(out).await;
                    self.books.went_down(self.link, generation, error.label());
                    back_off.reset();
                }
                Err(error) => self.books.refused(self.link, error.label()),
            }
            tokio::time::sleep(back_off.next()).await;
        }
    }

    async fn serve(&self, out: OutLink) -> LinkError {
        let path_epoch = self.books.next_epoch(self.link);
        let (sender, mut frames) = out.split();
        let mut feeders = FuturesUnordered::new();
        let mut acked = Vec::new();
        for handle in 0..FLOWS {
            if let Err(error) = sender.send(Frame::Open(flow::open(handle, path_epoch))).await {
                return error;
            }
            let (at, told) = watch::channel(None);
            acked.push(at);
            feeders.push(self.feed(&sender, handle, path_epoch, told));
        }
        let mut tick = tokio::time::interval(TICK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut heard, mut ticks) = (0, 0);
        loop {
            tokio::select! {
                biased;
                frame = frames.recv() => match frame {
                    Ok(frame) => self.hear(&frame, path_epoch, &mut heard, &acked),
                    Err(error) => return error,
                },
                Some(()) = feeders.next(), if !feeders.is_empty() => {}
                _ = tick.tick() => {
                    let frame = Frame::Close { handle: TICK, path_epoch: ticks + 1 };
                    if let Ok(true) = sender.try_send(&frame) {
                        ticks += 1;
                    }
                    let stats = sender.stats();
                    self.books.measured(self.link, stats.queued, stats.in_flight);
                }
            }
        }
    }

    fn hear(&self, frame: &Frame, expected: u32, heard: &mut u64, acked: &[watch::Sender<Option<u64>>]) {
        let (handle, path_epoch, at, number) = match *frame {
            Frame::Accept { handle, path_epoch, resume: Some(at), events_limit, .. } => {
                (handle, path_epoch, at.offset, events_limit)
            }
            Frame::Ack { handle, path_epoch, durable, events_limit, .. } => (handle, path_epoch, durable, events_limit),
            ref other => return self.books.blame(format!("link {}: {other:?} came", self.link)),
        };
        let before = acked.get(handle as usize).map(|acked| *acked.borrow());
        if number != *heard + 1 || path_epoch != expected || before.is_none_or(|before| before > Some(at)) {
            self.books.blame(format!("link {}: after frame {heard} and {before:?} came {frame:?}", self.link));
        }
        *heard = number;
        if let Some(acked) = acked.get(handle as usize) {
            acked.send_replace(Some(at));
        }
    }

    /// Hands the batches of a flow to the link, each when it is due and within the window.
    async fn feed(&self, sender: &OutSender, handle: u32, path_epoch: u32, mut acked: watch::Receiver<Option<u64>>) {
        let plan = *self.books.plan();
        let Ok(first) = acked.wait_for(Option::is_some).await.map(|at| at.expect("it was waited for") + 1) else {
            return;
        };
        for number in first..=plan.batches {
            tokio::time::sleep_until(self.began + Duration::from_micros(number * plan.every)).await;
            if acked.wait_for(|at| at.is_some_and(|at| at + plan.window >= number)).await.is_err() {
                return;
            }
            let batch = flow::batch(&plan, self.link, handle, path_epoch, number);
            self.books.submitted(self.link, handle, path_epoch, number);
            // Why the link ended is heard by who reads its frames.
            if sender.submit(handle, flow::class(handle), batch).await.is_err() {
                return;
            }
        }
    }
}
