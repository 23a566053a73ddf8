//! One confirmed publish.

use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};

use crate::fault::Fault;

/// Every publish: one that reaches no queue comes back instead of vanishing.
pub(crate) const MANDATORY: BasicPublishOptions = BasicPublishOptions { mandatory: true, immediate: false };

/// Publishes to a queue of ours and waits for the confirmation; for the few messages that come one at a time.
pub(crate) async fn to_queue(
    channel: &Channel,
    queue: &ShortString,
    properties: BasicProperties,
    body: &[u8],
) -> Result<(), Fault> {
    let doing = format!("writing to {queue}");
    let failed = |error| Fault::of(&error, &doing);
    let confirm = channel.basic_publish("".into(), queue.clone(), MANDATORY, body, properties).await.map_err(failed)?;
    match confirm.await.map_err(failed)? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
            Err(Fault::Transient(format!("{doing}: the queue is gone")))
        }
        Confirmation::Nack(None) => Err(Fault::Transient(format!("{doing}: RabbitMQ could not store it"))),
        Confirmation::NotRequested => Err(Fault::Transient(format!("{doing}: the channel does not confirm"))),
    }
}
