//! `longhaul top`: what the router's page shows, in a terminal. Takes a snapshot a second from the admin API, draws it, and changes nothing.
//!
//! It needs a terminal; `longhaul status` prints the same once, for everything else.

mod draw;
mod tables;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longhaul_admin::Snapshot;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::Failure;
use crate::http::{Call, Records, send};
use draw::{Palette, View};

/// Before a router that went away is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// Keys that wait to be looked at; more are lost, as they would be on a machine that hangs.
const KEYS_MAX: usize = 16;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the router's admin listener.
    #[arg(long, env = "LONGHAUL_ADMIN", default_value = "http://127.0.0.1:9600")]
    admin: String,
}

/// The last snapshot, and why there is no newer one.
#[derive(Default, Clone)]
struct Feed {
    snapshot: Option<Arc<Snapshot>>,
    lost: Option<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("top draws on a terminal; `longhaul status` prints the same once".to_owned()));
    }
    let url = format!("{}/v1/stream", arguments.admin.trim_end_matches('/'));
    // A wrong address is said before the screen is taken.
    let records = open(&url).await?;
    let (sender, feed) = watch::channel(Feed::default());
    let follower = tokio::spawn(async move { follow(&url, records, &sender).await });
    let terminal = ratatui::try_init().map_err(|error| Failure::wrong(format!("cannot take the terminal: {error}")))?;
    let ended = show(terminal, feed).await;
    ratatui::restore();
    follower.abort();
    ended.map_err(|error| Failure::wrong(format!("the terminal: {error}")))
}

async fn open(url: &str) -> Result<Records, Failure> {
    Records::of(url, send(Call { method: "GET", url, headers: Vec::new(), body: Bytes::new() }).await?).await
}

/// Takes snapshots for ever; comes back when the router does.
async fn follow(url: &str, records: Records, feed: &watch::Sender<Feed>) {
    let mut open_now = Ok(records);
    loop {
        let lost = match open_now {
            Ok(records) => read(records, feed).await,
            Err(Failure::Wrong(why) | Failure::Usage(why)) => why,
        };
        feed.send_modify(|feed| feed.lost = Some(lost));
        tokio::time::sleep(AGAIN).await;
        open_now = open(url).await;
    }
}

/// Takes snapshots until the connection ends; returns why it did.
async fn read(mut records: Records, feed: &watch::Sender<Feed>) -> String {
    while let Some(record) = records.next().await {
        let Some(data) = record.data() else { continue };
        match serde_json::from_str(data) {
            Ok(snapshot) => drop(feed.send_replace(Feed { snapshot: Some(Arc::new(snapshot)), lost: None })),
            Err(error) => return format!("not the answer of a router of this version: {error}"),
        }
    }
    "the router has closed the connection".to_owned()
}

/// Draws whenever something is new, until somebody has seen enough.
async fn show(mut terminal: DefaultTerminal, mut feed: watch::Receiver<Feed>) -> std::io::Result<()> {
    let mut view = View::new(Palette::of(std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())));
    let (mut terminate, mut keys) = (signal(SignalKind::terminate())?, keys());
    loop {
        let now = feed.borrow_and_update().clone();
        terminal.draw(|frame| draw::draw(frame, &mut view, now.snapshot.as_deref(), now.lost.as_deref()))?;
        tokio::select! {
            changed = feed.changed() => if changed.is_err() { return Ok(()) },
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => if is_end(key) { return Ok(()) } else { act(key, &mut view) },
                // Another size, or nothing that matters: drawn again.
                Some(_) => {}
                None => return Ok(()),
            },
            _ = terminate.recv() => return Ok(()),
        }
    }
}

/// What happens at the terminal. Reading it blocks, so it has a thread, which ends with the process.
fn keys() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

fn is_end(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || (control && key.code == KeyCode::Char('c'))
}

fn act(key: KeyEvent, view: &mut View) {
    match key.code {
        KeyCode::Tab | KeyCode::Right => view.turn(1),
        KeyCode::BackTab | KeyCode::Left => view.turn(-1),
        KeyCode::Down => view.scroll(1),
        KeyCode::Up => view.scroll(-1),
        KeyCode::PageDown => view.scroll(10),
        KeyCode::PageUp => view.scroll(-10),
        KeyCode::Home => view.scroll(isize::MIN),
        KeyCode::End => view.scroll(isize::MAX),
        _ => {}
    }
}
