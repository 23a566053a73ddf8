//! Ownership: which router of the region should read a thing that one router at a time reads.
//!
//! Whoever consumes the lock queue of the thing is its owner; the broker deletes that queue when its connection ends, however it ends.
//! A standby knocks: it sends a message to the lock queue, which comes back when nobody has it. Asking in that way leaves no error in
//! the broker's log, as declaring a locked queue every second would.
//!
//! Ownership says who should try and no more. That two never consume one queue is the business of the reader's own lock. A router that
//! lost its connection stays the owner in its own eyes until it hears of another one: it reads nothing meanwhile, and one router alone
//! does not restart its flows with every restart of the broker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use longhaul_broker::Shard;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::client::{Client, Role, jittered};
use crate::fault::Fault;
use crate::lock::Lock;
use crate::publish;
use crate::task::Task;

/// How often a standby knocks, at the most.
const KNOCK_EVERY: Duration = Duration::from_secs(1);
/// How long the broker may take to answer a knock; publishers may be blocked.
const KNOCK_MAX: Duration = Duration::from_secs(2);
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// How often what needs somebody's hand is tried again.
const REFUSED_EVERY: Duration = Duration::from_secs(10);

/// The place of this router in the line for one thing; it leaves the line when the last holder drops this.
pub(crate) struct Ownership {
    ours: watch::Receiver<bool>,
    _task: Task,
}

impl Ownership {
    /// Lists these shards while this router should read them, for as long as somebody looks at the list.
    pub(crate) async fn list(&self, shards: Vec<Shard>, listed: watch::Sender<Arc<Vec<Shard>>>) {
        let (mine, none) = (Arc::new(shards), Arc::new(Vec::new()));
        let mut ours = self.ours.clone();
        loop {
            let now = if *ours.borrow_and_update() { &mine } else { &none };
            listed.send_if_modified(|before| {
                let changed = before != now;
                before.clone_from(now);
                changed
            });
            tokio::select! {
                () = listed.closed() => return,
                changed = ours.changed() => if changed.is_err() { return listed.closed().await },
            }
        }
    }
}

/// All of one connector, by lock. Sources of the same thing share one, or they would wait for each other.
#[derive(Default)]
pub(crate) struct Owners(Mutex<HashMap<String, Weak<Ownership>>>);

impl Owners {
    /// Gets in line for the thing behind that lock, or joins whoever stands there for this router; `what` names it in words.
    pub(crate) fn join(&self, client: &Arc<Client>, lock: &ShortString, what: String) -> Arc<Ownership> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, owner| owner.strong_count() > 0);
        if let Some(owner) = all.get(lock.as_str()).and_then(Weak::upgrade) {
            return owner;
        }
        let (tell, ours) = watch::channel(false);
        let task = Task::spawn(&client.runtime, keep(Arc::clone(client), lock.clone(), what, tell));
        let owner = Arc::new(Ownership { ours, _task: task });
        all.insert(lock.as_str().to_owned(), Arc::downgrade(&owner));
        owner
    }
}

/// Stands in line for ever.
async fn keep(client: Arc<Client>, lock: ShortString, what: String, ours: watch::Sender<bool>) {
    let mut stands_by = false;
    while let Some(connection) = client.connection_at_last(Role::Read).await {
        let pause = match claim(&client, &connection, &lock).await {
            Ok(Some((channel, lock))) => {
                if std::mem::take(&mut stands_by) {
                    tracing::info!(
                        what,
                        router = client.context.router,
                        "no other router reads this any more: taking over"
                    );
                }
                tell(&ours, true);
                held(channel, lock).await;
                Duration::ZERO
            }
            Ok(None) => {
                if !std::mem::replace(&mut stands_by, true) {
                    tracing::info!(what, router = client.context.router, "another router reads this: standing by");
                }
                tell(&ours, false);
                jittered(KNOCK_EVERY)
            }
            // Whoever opens the thing is told the reason.
            Err(Fault::Config(_)) => {
                tell(&ours, true);
                REFUSED_EVERY
            }
            Err(Fault::Transient(reason)) => {
                tracing::debug!(what, reason, "cannot ask who reads this");
                RETRY_EVERY
            }
        };
        sleep(pause).await;
    }
}

fn tell(ours: &watch::Sender<bool>, now: bool) {
    ours.send_if_modified(|before| std::mem::replace(before, now) != now);
}

/// Waits until the lock is gone, whatever took it.
async fn held(_channel: Channel, mut lock: Lock) {
    lock.lost().await;
}

/// The lock, unless another router has it.
async fn claim(client: &Client, connection: &Connection, lock: &ShortString) -> Result<Option<(Channel, Lock)>, Fault> {
    // Over the other connection: a broker that blocks publishers must not hold back what this one acknowledges.
    let knocking = async { knock(&*client.connection(Role::Write).await?, lock).await };
    match timeout(KNOCK_MAX, knocking).await {
        Ok(Ok(true)) => Ok(None),
        // Free, or not to be found out in this way.
        _ => Lock::try_take(connection, lock).await,
    }
}

/// Whether somebody has the lock.
async fn knock(connection: &Connection, lock: &ShortString) -> Result<bool, Fault> {
    let failed = |error| Fault::of(&error, &format!("asking for {lock}"));
    let channel = connection.create_channel().await.map_err(failed)?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
    let properties = BasicProperties::default();
    let knock = channel.basic_publish("".into(), lock.clone(), publish::MANDATORY, b"", properties).await;
    let answer = knock.map_err(failed)?.await.map_err(failed)?;
    Ok(matches!(answer, Confirmation::Ack(None)))
}
