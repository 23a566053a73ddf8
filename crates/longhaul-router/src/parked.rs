//! What was set aside: events that their destination refused for good, kept whole beside it with the reason, as `on_poison: park` says.
//!
//! They live in the destination broker, in the place that its connector offers ([`Parking`]): a router has nothing of its own to lose. An
//! event is parked before its cursor moves over it, under a name that is made of the flow and of the event itself, so that a crash in
//! between parks the same thing again, once. Nothing here decides when to park; that is the applying flow's business.

mod envelope;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longhaul_broker::{Connector, Parking, Poison, SinkError, SinkSpec};
use longhaul_event::{Event, Position, correlation};
use longhaul_telemetry::Metrics;
use longhaul_topology::{FlowKey, Guarantee, OnPoison};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub use envelope::{ParkedEvent, ParkedView};

use crate::appliers::place;
use crate::live::Live;

/// Most parked events that are listed or counted at each broker.
const LISTED_MAX: usize = 10_000;
/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often parked events are counted.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// Why a parked event was not shown, redriven or discarded.
#[derive(Debug, thiserror::Error)]
pub enum ParkedError {
    /// No broker here has it.
    #[error("no event is parked here as {0}")]
    Unknown(String),
    /// It is there, and cannot be written to its destination now.
    #[error("{0}")]
    Refused(String),
    /// A broker does not answer, or what it answers is not to be read.
    #[error("the broker {broker}: {reason}")]
    Broker {
        /// Its name.
        broker: String,
        /// What it says.
        reason: String,
    },
}

/// An event and why its destination refuses it.
#[derive(Clone)]
pub(crate) struct Refused {
    /// Where it stands.
    pub at: Position,
    /// The kind of refusal.
    pub kind: Poison,
    /// The reason in words.
    pub reason: String,
}

/// Parks events of a flow, one after the other.
///
/// # Errors
/// What the destination broker says; then nothing is known of those that were not parked yet.
pub(crate) async fn park(
    place: Arc<dyn Parking>,
    flow: FlowKey,
    partition: Option<u32>,
    events: Vec<(Event, Refused)>,
) -> Result<(), SinkError> {
    for (event, refused) in events {
        let (name, pieces) = envelope::seal(&flow, partition, &event, &refused).map_err(|error| {
            SinkError::Config(format!("the event at offset {} cannot be parked: {error}", event.offset))
        })?;
        // The head goes last: what has no head is not there.
        for (number, piece) in pieces.into_iter().enumerate().rev() {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            place.put(name.clone(), number, piece).await?;
        }
        tracing::warn!(
            route = flow.route,
            id = name,
            offset = event.offset,
            event = %event.id,
            correlation_id = correlation(&event.headers).as_deref(),
            reason = refused.reason,
            "parked an event that its destination refuses"
        );
    }
    Ok(())
}

/// The parked events of the brokers of this region.
pub(crate) struct ParkedEvents {
    live: Arc<Live>,
    brokers: Arc<BTreeMap<String, Arc<dyn Connector>>>,
    metrics: Arc<Metrics>,
    /// One change at a time, so that nothing is redriven twice by two hands.
    changing: Mutex<()>,
}

impl ParkedEvents {
    pub(crate) fn new(
        live: Arc<Live>,
        brokers: Arc<BTreeMap<String, Arc<dyn Connector>>>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self { live, brokers, metrics, changing: Mutex::default() })
    }

    /// Everything that is parked here, oldest first.
    ///
    /// # Errors
    /// When a broker does not tell.
    pub(crate) async fn list(&self) -> Result<Vec<ParkedView>, ParkedError> {
        let mut all = Vec::new();
        for (broker, place) in self.places() {
            let heads = in_time(&broker, place.heads(LISTED_MAX)).await?;
            for (_, head) in heads {
                all.push(
                    envelope::read_head(&head)
                        .map_err(|reason| ParkedError::Broker { broker: broker.clone(), reason })?,
                );
            }
        }
        all.sort_by(|a, b| (a.parked_ms, &a.id).cmp(&(b.parked_ms, &b.id)));
        Ok(all)
    }

    /// One of them, whole.
    ///
    /// # Errors
    /// When it is not there, or its broker does not tell.
    pub(crate) async fn show(&self, id: &str) -> Result<ParkedEvent, ParkedError> {
        let (_, _, about, event) = self.find(id).await?;
        Ok(ParkedEvent::new(about, &event))
    }

    /// Writes it to its destination, then removes it. A crash in between leaves it parked, and it may be redriven again: its identity is
    /// the same.
    ///
    /// # Errors
    /// When it is not there, or is refused again; then it stays parked.
    pub(crate) async fn redrive(&self, id: &str) -> Result<ParkedView, ParkedError> {
        let _alone = self.changing.lock().await;
        let (broker, place, about, event) = self.find(id).await?;
        in_time(&broker, self.write_again(&broker, &about, event)).await?;
        in_time(&broker, place.remove(about.id.clone(), about.pieces)).await?;
        tracing::info!(route = about.route, id, "redrove a parked event");
        Ok(about)
    }

    /// Removes it for good.
    ///
    /// # Errors
    /// When it is not there, or its broker does not answer.
    pub(crate) async fn discard(&self, id: &str) -> Result<ParkedView, ParkedError> {
        let _alone = self.changing.lock().await;
        let (broker, place, about, _) = self.find(id).await?;
        in_time(&broker, place.remove(about.id.clone(), about.pieces)).await?;
        tracing::info!(route = about.route, id, "discarded a parked event");
        Ok(about)
    }

    /// Counts what is parked, again and again, while a route parks here.
    pub(crate) async fn count_for_ever(self: Arc<Self>, stop: CancellationToken) {
        let mut counted = BTreeMap::new();
        loop {
            if (self.is_parking() || !counted.is_empty())
                && let Ok(all) = self.list().await
            {
                counted.values_mut().for_each(|count| *count = 0);
                for one in all {
                    let from = place(&one.from.0, &one.from.1);
                    *counted.entry((one.route, from, place(&one.to.0, &one.to.1))).or_insert(0) += 1;
                }
                counted.iter().for_each(|((route, from, to), &count)| self.metrics.parked(route, from, to, count));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(COUNT_EVERY) => {}
            }
        }
    }

    /// Whether a route parks at a broker of this region.
    fn is_parking(&self) -> bool {
        let (world, region) = (self.live.load(), self.live.region());
        let here = |to: &longhaul_topology::To| to.region == region;
        world.mesh.routes.iter().any(|route| route.on_poison == OnPoison::Park && route.to.iter().any(here))
    }

    fn places(&self) -> impl Iterator<Item = (String, Arc<dyn Parking>)> {
        self.brokers.iter().filter_map(|(name, connector)| Some((name.clone(), connector.parking()?)))
    }

    async fn find(&self, id: &str) -> Result<(String, Arc<dyn Parking>, ParkedView, Event), ParkedError> {
        if !envelope::is_name(id) {
            return Err(ParkedError::Unknown(id.to_owned()));
        }
        for (broker, place) in self.places() {
            let Some(head) = in_time(&broker, place.get(id.to_owned(), 0)).await? else { continue };
            let unread = |reason| ParkedError::Broker { broker: broker.clone(), reason };
            let about = envelope::read_head(&head).map_err(unread)?;
            let mut pieces: Vec<Bytes> = Vec::new();
            for number in 1..about.pieces {
                let piece = in_time(&broker, place.get(id.to_owned(), number)).await?;
                pieces.push(piece.ok_or_else(|| unread(format!("piece {number} of {id} is missing")))?);
            }
            let event = envelope::open(&pieces).map_err(unread)?;
            return Ok((broker, place, about, event));
        }
        Err(ParkedError::Unknown(id.to_owned()))
    }

    /// Writes by the route as it stands now, as a flow of its own that has no cursor: the one that parked goes on undisturbed.
    async fn write_again(&self, broker: &str, about: &ParkedView, mut event: Event) -> Result<(), SinkError> {
        let (route, to) = {
            let world = self.live.load();
            let gone = || SinkError::Config(format!("the route {} does not lead here any more", about.route));
            let route = Arc::clone(world.table.route(&about.route).ok_or_else(gone)?);
            let to = route.route().to.iter().position(|to| (&to.region, &to.broker) == (&about.to.0, &about.to.1));
            (route, to.ok_or_else(gone)?)
        };
        if let Ok(headers) = route.rebind(to, &event.headers) {
            event.headers = headers;
        }
        let spec = SinkSpec { sink: route.route().to[to].sink.clone(), guarantee: Guarantee::AtLeastOnce };
        let connector = self.brokers.get(broker).ok_or_else(|| SinkError::Config("the broker is gone".to_owned()))?;
        let sink = connector.sink(spec)?;
        let (region, source, shard) = about.from.clone();
        let flow = FlowKey {
            mesh: about.mesh.clone(),
            route: about.route.clone(),
            from: (region, source, format!("{shard}#redriven")),
            to: about.to.clone(),
        };
        let mut opened = sink.open(&flow, about.partition).await?;
        opened.writer.write(vec![event]).await
    }
}

async fn in_time<T>(broker: &str, asked: impl Future<Output = Result<T, SinkError>>) -> Result<T, ParkedError> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error @ (SinkError::Poison { .. } | SinkError::Config(_)))) => {
            Err(ParkedError::Refused(error.to_string()))
        }
        Ok(Err(error)) => Err(ParkedError::Broker { broker: broker.to_owned(), reason: error.to_string() }),
        Err(_) => {
            let reason = format!("it has not answered for {} s", PATIENCE.as_secs());
            Err(ParkedError::Broker { broker: broker.to_owned(), reason })
        }
    }
}
