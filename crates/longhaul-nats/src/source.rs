//! Sources: which shards there are, and readers on them.
//!
//! A stream is one shard. It can be read again from any position, by any number of readers, when its retention is `limits`; streams of
//! other retention are refused with a sentence, for reading them is consuming them. What is captured is such a stream, made by
//! Longhaul. Several routers of a region share the streams out ([`ownership`](crate::ownership)). Core NATS has one shard per subject and
//! router, which cannot be read again: the routers are one queue group, so that each message goes to one of them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use longhaul_broker::{Context, Reader, Shard, Source, SourceError};
use longhaul_event::{Start, hash64};
use longhaul_topic::{Filter, Topic};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::warn;

use crate::api::ApiError;
use crate::client::Link;
use crate::core::CoreReader;
use crate::cursor::IN_STREAM;
use crate::ownership::{Ownership, Serving};
use crate::reader::StreamReader;
use crate::subject;

/// How often the streams behind a subject are looked up again, and how often until there is one.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_FIRST_EVERY: Duration = Duration::from_millis(500);
/// How long a captured message is kept for destinations that are away.
const CAPTURE_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Which events a reader gives.
#[derive(Debug)]
pub(crate) struct Selection {
    filters: Vec<Filter>,
    /// Subjects that take at least what the filters take; empty for everything.
    pub(crate) subjects: Vec<String>,
    exact: bool,
    reserved: bool,
    /// Hash of the cluster.
    pub(crate) cluster: u64,
    /// Largest event.
    pub(crate) event_bytes_max: usize,
}

impl Selection {
    /// # Errors
    /// [`SourceError::Config`] for a filter that no subject can match.
    pub(crate) fn new(mut filters: Vec<Filter>, named: bool, ctx: &Context) -> Result<Self, SourceError> {
        // The order in a document means nothing, and the names of shards must not depend on it.
        filters.sort();
        filters.dedup();
        let subjects = subject::of_filters(&filters).map_err(SourceError::Config)?;
        let exact = filters.iter().all(|filter| subjects.iter().any(|subject| subject == filter.as_str()));
        let exact = exact && filters.len() == subjects.len();
        let reserved = named || filters.iter().any(|filter| subject::is_reserved(filter.as_str()));
        Ok(Self { filters, subjects, exact, reserved, cluster: ctx.cluster, event_bytes_max: ctx.event_bytes_max })
    }

    /// Whether the route asked for that topic.
    pub(crate) fn takes(&self, topic: &Topic) -> bool {
        let free = self.reserved || !subject::is_reserved(topic.as_str());
        // Our own cursors among the events are nobody's events.
        let free = free && !topic.as_str().starts_with(IN_STREAM);
        free && (self.exact || self.filters.is_empty() || self.filters.iter().any(|filter| filter.matches(topic)))
    }

    fn shard(&self, stream: &str) -> Shard {
        let filters: Vec<&str> = self.filters.iter().map(Filter::as_str).collect();
        let name = if filters.is_empty() { stream.to_owned() } else { format!("{stream}?{}", filters.join(",")) };
        Shard { name, topic: None, partition: None, replayable: true }
    }
}

/// Streams: one by name, those that hold the subjects, or one that Longhaul makes.
pub(crate) struct StreamSource {
    link: Arc<Link>,
    selection: Arc<Selection>,
    shards: watch::Receiver<Arc<Vec<Shard>>>,
    capture: Option<Value>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl StreamSource {
    /// The stream of that name; it need not be there yet.
    pub(crate) fn named(link: Arc<Link>, ownership: &Ownership, stream: &str, selection: Selection) -> Self {
        let shard = selection.shard(stream);
        Self::fixed(link, ownership, shard, selection, None)
    }

    /// Whatever streams hold the subjects, now and later.
    pub(crate) fn found(link: Arc<Link>, ownership: &Ownership, selection: Selection) -> Self {
        let serving = ownership.serve(hash64(selection.shard("").name.as_bytes()));
        let (tx, found) = watch::channel(Arc::default());
        let selection = Arc::new(selection);
        let finder = tokio::spawn(find(link.clone(), selection.clone(), tx));
        let (owner, shards) = share(serving, found);
        Self { link, selection, shards, capture: None, tasks: vec![finder, owner] }
    }

    /// A stream that Longhaul makes on the subjects.
    pub(crate) fn captured(link: Arc<Link>, ownership: &Ownership, selection: Selection, ctx: &Context) -> Self {
        let what = format!("{}\n{}\n{}\n{}", ctx.mesh, ctx.region, ctx.broker, selection.subjects.join("\n"));
        let name = format!("longhaul_capture_{:016x}", hash64(what.as_bytes()));
        let config = json!({
            "name": name,
            "description": format!("captured by Longhaul for mesh {}, region {}", ctx.mesh, ctx.region),
            "subjects": selection.subjects,
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_age": u64::try_from(CAPTURE_AGE.as_nanos()).unwrap_or(u64::MAX),
            // Publishers did not ask for answers from a stream; their requests must go to whom they are meant for.
            "no_ack": true,
        });
        let shard = Shard { name, ..selection.shard("") };
        Self::fixed(link, ownership, shard, selection, Some(config))
    }

    fn fixed(
        link: Arc<Link>,
        ownership: &Ownership,
        shard: Shard,
        selection: Selection,
        capture: Option<Value>,
    ) -> Self {
        let serving = ownership.serve(hash64(shard.name.as_bytes()));
        let (tx, only) = watch::channel(Arc::new(vec![shard]));
        // Nobody sends: the channel stays open as long as the source.
        let holder = tokio::spawn(async move { tx.closed().await });
        let (owner, shards) = share(serving, only);
        Self { link, selection: Arc::new(selection), shards, capture, tasks: vec![holder, owner] }
    }

    async fn make_capture(&self, config: &Value) -> Result<(), SourceError> {
        let session = self.link.session().await?;
        let name = config["name"].as_str().unwrap_or_default();
        match session.stream(name).await {
            Ok(_) => return Ok(()),
            Err(error) if !error.is_missing() => return Err(error.into()),
            Err(_) => {}
        }
        match session.create_stream(config.clone()).await {
            Ok(_) => Ok(()),
            Err(ApiError::Refused { text, .. }) => Err(SourceError::Config(format!(
                "no stream can capture {}: {text}; if a stream holds these subjects already, leave out `capture`",
                self.selection.subjects.join(", ")
            ))),
            Err(error) => Err(error.into()),
        }
    }
}

impl Source for StreamSource {
    fn shards(&self) -> watch::Receiver<Arc<Vec<Shard>>> {
        self.shards.clone()
    }

    fn open<'a>(&'a self, shard: &'a Shard, start: Start) -> BoxFuture<'a, Result<Box<dyn Reader>, SourceError>> {
        Box::pin(async move {
            if let Some(config) = &self.capture {
                self.make_capture(config).await?;
            }
            let stream = shard.name.split_once('?').map_or(shard.name.as_str(), |(stream, _)| stream);
            let reader = StreamReader::open(self.link.clone(), self.selection.clone(), stream, start).await?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }
}

impl Drop for StreamSource {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Those of the candidates that this router owns.
fn share(
    serving: Serving,
    candidates: watch::Receiver<Arc<Vec<Shard>>>,
) -> (tokio::task::JoinHandle<()>, watch::Receiver<Arc<Vec<Shard>>>) {
    let (tx, shards) = watch::channel(Arc::default());
    (tokio::spawn(serving.filter(candidates, tx)), shards)
}

/// Looks up streams by subject, for ever; tells when the answer changes.
async fn find(link: Arc<Link>, selection: Arc<Selection>, tx: watch::Sender<Arc<Vec<Shard>>>) {
    let mut told = false;
    loop {
        match names(&link, &selection).await {
            Ok(names) => {
                if names.is_empty() && !told {
                    warn!(subjects = selection.subjects.join(", "), "no stream holds these subjects; looking again");
                }
                told = names.is_empty();
                let shards: Vec<Shard> = names.iter().map(|name| selection.shard(name)).collect();
                tx.send_if_modified(|now| {
                    let changed = **now != shards;
                    if changed {
                        *now = Arc::new(shards);
                    }
                    changed
                });
            }
            Err(error) => warn!(%error, "streams cannot be looked up"),
        }
        let pause = if tx.borrow().is_empty() { LOOK_FIRST_EVERY } else { LOOK_EVERY };
        tokio::time::sleep(pause).await;
    }
}

async fn names(link: &Link, selection: &Selection) -> Result<Vec<String>, SourceError> {
    let session = link.session().await?;
    let mut names = Vec::new();
    for subject in &selection.subjects {
        names.extend(session.stream_names(subject).await?);
    }
    // Buckets are streams too; a wildcard is not meant to read them, our own cursors least of all.
    names.retain(|name| selection.reserved || !(name.starts_with("KV_") || name.starts_with("OBJ_")));
    names.sort();
    names.dedup();
    Ok(names)
}

/// Core NATS subjects, at most once.
pub(crate) struct CoreSource {
    link: Arc<Link>,
    selection: Arc<Selection>,
    /// Behind the subject in the name of a shard: two routers that share a subject have a flow each.
    suffix: String,
    group: String,
    shards: watch::Receiver<Arc<Vec<Shard>>>,
}

impl CoreSource {
    /// What is published on the subjects while somebody reads. Each subject is a shard: the server orders what one subscription gets,
    /// and nothing says how what two get was ordered.
    pub(crate) fn new(link: Arc<Link>, selection: Selection, ctx: &Context) -> Self {
        let suffix = format!("@{}", ctx.router);
        let shard = |subject: &String| Shard {
            name: format!("core?{subject}{suffix}"),
            topic: None,
            partition: None,
            replayable: false,
        };
        let shards = watch::Sender::new(Arc::new(selection.subjects.iter().map(shard).collect::<Vec<_>>())).subscribe();
        // Whoever reads something else must not be in the group: each would miss what the other gets.
        let what = format!("{}\n{}", ctx.broker, selection.shard("").name);
        let group = format!("longhaul.{}.{}.{:016x}", ctx.mesh, ctx.region, hash64(what.as_bytes()));
        Self { link, selection: Arc::new(selection), suffix, group, shards }
    }
}

impl Source for CoreSource {
    fn shards(&self) -> watch::Receiver<Arc<Vec<Shard>>> {
        self.shards.clone()
    }

    fn open<'a>(&'a self, shard: &'a Shard, _: Start) -> BoxFuture<'a, Result<Box<dyn Reader>, SourceError>> {
        Box::pin(async move {
            let subject = shard.name.strip_prefix("core?").unwrap_or(&shard.name);
            let subject = subject.strip_suffix(&self.suffix).unwrap_or(subject);
            // The server would give a message to one of two subjects in the same group, too.
            let group = format!("{}.{:016x}", self.group, hash64(subject.as_bytes()));
            let reader = CoreReader::open(&self.link, self.selection.clone(), subject, group).await?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }
}
