//! The connector: one Kafka cluster of this region.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use longhaul_broker::{
    Connector, Context, Health, Parking, Sink, SinkError, SinkSpec, Source, SourceError, SourceSpec,
};
use longhaul_config::Kafka;
use longhaul_topology::{Guarantee, SinkKind, SourceKind};
use tokio::sync::watch;

use crate::atomic::AtomicSink;
use crate::cluster::Cluster;
use crate::config::Settings;
use crate::cursor::Cursors;
use crate::parked::TopicParking;
use crate::sink::{Destination, KafkaSink};
use crate::source::KafkaSource;
use crate::topics::Topics;

/// One Kafka cluster.
///
/// It looks for the cluster from the moment it is made, and goes on for ever. Sources and sinks outlive it; the last of them closes
/// the connections.
pub struct KafkaConnector {
    cluster: Arc<Cluster>,
    /// Hash that names this broker in identities.
    place: u64,
    destination: Arc<Destination>,
    parking: Arc<TopicParking>,
    sources: Mutex<HashMap<SourceSpec, Weak<KafkaSource>>>,
}

impl KafkaConnector {
    /// A connector; nothing is awaited.
    ///
    /// # Errors
    /// One sentence when the configuration can never work: an option that librdkafka does not know or that would break a promise, a
    /// login mechanism that is not spoken, a certificate that cannot be read.
    #[expect(clippy::needless_pass_by_value, reason = "every connector takes its part of the documents as its own")]
    pub fn new(cfg: Kafka, ctx: Context) -> Result<Arc<Self>, String> {
        let cluster = Cluster::start(Settings::new(&cfg, &ctx)?)?;
        let topics = Arc::new(Topics::new(Arc::clone(&cluster)));
        let cursors = Arc::new(Cursors::new(Arc::clone(&cluster), Arc::clone(&topics)));
        let parking = Arc::new(TopicParking::new(Arc::clone(&cluster), Arc::clone(&topics)));
        let destination = Arc::new(Destination::new(topics, cursors));
        Ok(Arc::new(Self { cluster, place: ctx.cluster, destination, parking, sources: Mutex::default() }))
    }
}

impl Connector for KafkaConnector {
    fn health(&self) -> watch::Receiver<Health> {
        self.cluster.health()
    }

    fn source(&self, spec: SourceSpec) -> Result<Arc<dyn Source>, SourceError> {
        let SourceKind::Kafka { topics } = &spec.source else {
            return Err(SourceError::Config("a Kafka broker serves Kafka topics only".to_owned()));
        };
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|_, source| source.strong_count() > 0);
        if let Some(source) = sources.get(&spec).and_then(Weak::upgrade) {
            return Ok(source);
        }
        let source = KafkaSource::new(Arc::clone(&self.cluster), self.place, topics.clone());
        sources.insert(spec, Arc::downgrade(&source));
        Ok(source)
    }

    fn sink(&self, spec: SinkSpec) -> Result<Arc<dyn Sink>, SinkError> {
        let SinkKind::Kafka { partition, tombstone_on_empty } = spec.sink else {
            return Err(SinkError::Config("a Kafka broker takes Kafka topics only".to_owned()));
        };
        let destination = Arc::clone(&self.destination);
        Ok(match spec.guarantee {
            Guarantee::EffectivelyOnce => {
                let buckets = destination.buckets(&self.cluster);
                Arc::new(AtomicSink { destination, buckets, partition, tombstone_on_empty })
            }
            _ => Arc::new(KafkaSink { destination, partition, tombstone_on_empty }),
        })
    }

    fn parking(&self) -> Option<Arc<dyn Parking>> {
        Some(Arc::clone(&self.parking) as Arc<dyn Parking>)
    }

    /// Gives up every partition, so that other routers have them at once.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let ownership = &self.cluster.ownership;
        ownership.end();
        let mut ended = ownership.ended();
        Box::pin(async move {
            let _ = ended.wait_for(|ended| *ended).await;
        })
    }
}
