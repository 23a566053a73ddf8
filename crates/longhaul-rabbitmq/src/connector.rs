//! The connector: what a router holds of one RabbitMQ broker.

use std::sync::Arc;

use longhaul_broker::{
    Connector, Context, Health, Parking, Sink, SinkError, SinkSpec, Source, SourceError, SourceSpec,
};
use longhaul_config::RabbitMq;
use longhaul_topology::{Guarantee, SinkKind, SourceKind};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::client::Client;
use crate::config::Access;
use crate::owner::Owners;
use crate::parked::StreamParking;
use crate::sink::RabbitSink;
use crate::source::RabbitSource;
use crate::stream::StreamSource;

/// One RabbitMQ broker. Two connections at most, one for reading and one for writing, each with one thread of lapin's own.
pub struct RabbitMqConnector {
    client: Arc<Client>,
    owners: Owners,
    parking: Arc<StreamParking>,
}

impl RabbitMqConnector {
    /// Checks the configuration and starts connecting, on the runtime that it is called on.
    ///
    /// # Errors
    /// A sentence without the address, which may hold a password; also when there is no runtime.
    #[expect(clippy::needless_pass_by_value, reason = "all connectors are made of values that they own")]
    pub fn new(cfg: RabbitMq, ctx: Context) -> Result<Arc<Self>, String> {
        let access = Access::new(&cfg)?;
        let runtime = Handle::try_current().map_err(|e| e.to_string())?;
        let client = Client::start(access, ctx, runtime);
        let parking = Arc::new(StreamParking::new(Arc::clone(&client)));
        Ok(Arc::new(Self { client, owners: Owners::default(), parking }))
    }
}

impl Connector for RabbitMqConnector {
    fn health(&self) -> watch::Receiver<Health> {
        self.client.health()
    }

    fn source(&self, spec: SourceSpec) -> Result<Arc<dyn Source>, SourceError> {
        match &spec.source {
            SourceKind::RabbitExchange { .. } | SourceKind::RabbitQueue { .. } => {
                Ok(Arc::new(RabbitSource::start(Arc::clone(&self.client), &self.owners, spec)?))
            }
            SourceKind::RabbitStream { stream } => {
                Ok(Arc::new(StreamSource::start(Arc::clone(&self.client), &self.owners, stream)?))
            }
            other => Err(SourceError::Config(format!("a RabbitMQ broker cannot be read as {other:?}"))),
        }
    }

    fn sink(&self, spec: SinkSpec) -> Result<Arc<dyn Sink>, SinkError> {
        if spec.guarantee == Guarantee::EffectivelyOnce {
            let text = "RabbitMQ does not take events and their cursor as one, so nothing is written effectively once";
            return Err(SinkError::Config(text.to_owned()));
        }
        match &spec.sink {
            SinkKind::RabbitExchange { .. } | SinkKind::RabbitQueue { .. } | SinkKind::RabbitStream { .. } => {
                Ok(Arc::new(RabbitSink::new(Arc::clone(&self.client), &spec.sink)?))
            }
            other => Err(SinkError::Config(format!("a RabbitMQ broker cannot be written as {other:?}"))),
        }
    }

    fn parking(&self) -> Option<Arc<dyn Parking>> {
        Some(Arc::clone(&self.parking) as Arc<dyn Parking>)
    }
}
