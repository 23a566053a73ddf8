//! How an event becomes a record for the producer, the same for both guarantees.
//!
//! Refuses what the topic will not take, as far as that is known beforehand.

use std::sync::Arc;

use longhaul_broker::{Poison, SinkError};
use longhaul_event::{Event, HeaderTag, Identity};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use crate::batch::Batch;
use crate::map::{ID, IDENTITY, OF_CONTENT, PROVENANCE, batch_bytes, header_value, payload};
use crate::producer::Outgoing;
use crate::topics::TopicInfo;

/// What the records of one flow have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// The partition to write, for `partition: same`.
    pub(crate) partition: Option<u32>,
    pub(crate) tombstone_on_empty: bool,
}

impl Shape {
    /// Whether the topic takes the event, as far as we know.
    ///
    /// # Errors
    /// [`SinkError::Poison`] when it is too large, [`SinkError::Config`] when its partition does not exist.
    pub(crate) fn check(self, event: &Event, info: &TopicInfo) -> Result<(), SinkError> {
        if let Some(limit) = info.batch_limit {
            let bytes = batch_bytes(event);
            if bytes > limit {
                let topic = &event.topic;
                let reason =
                    format!("it takes {bytes} bytes, and Kafka topic {topic} {limit} at most (max.message.bytes)");
                return Err(SinkError::Poison { offset: event.offset, kind: Poison::TooLarge, reason });
            }
        }
        if let Some(partition) = self.partition.filter(|partition| *partition >= info.partitions) {
            let (topic, partitions) = (&event.topic, info.partitions);
            return Err(SinkError::Config(format!(
                "partition: same: Kafka topic {topic} has {partitions} partitions, none with number {partition}"
            )));
        }
        Ok(())
    }

    /// The record of an event.
    ///
    /// # Errors
    /// [`SinkError::Poison`] when a header cannot be said in Kafka.
    pub(crate) fn record<'a>(self, event: &'a Event, batch: &Arc<Batch>) -> Result<Outgoing<'a>, SinkError> {
        let Some(headers) = headers(event) else {
            let reason = "the value of a typed header is malformed".to_owned();
            return Err(SinkError::Poison { offset: event.offset, kind: Poison::Refused, reason });
        };
        let mut record = BaseRecord::with_opaque_to(event.topic.as_str(), Arc::clone(batch)).headers(headers);
        record.key = event.key.as_deref();
        record.payload = payload(event, self.tombstone_on_empty);
        record.partition = self.partition.and_then(|partition| i32::try_from(partition).ok());
        // Without a time, Kafka's client takes the present one.
        record.timestamp = Some(event.time_ms).filter(|ms| *ms > 0);
        Ok(record)
    }
}

/// The refusal of an event that the client itself has no room for, ever.
pub(crate) fn too_large_for_client(offset: u64) -> SinkError {
    let reason = "larger than the client's `message.max.bytes`".to_owned();
    SinkError::Poison { offset, kind: Poison::TooLarge, reason }
}

/// The headers of a record: the application's, then Longhaul's. `None` when a value cannot be said.
fn headers(event: &Event) -> Option<OwnedHeaders> {
    let mut headers = OwnedHeaders::new_with_capacity(4);
    for header in event.headers.iter() {
        // Nearly all values are plain bytes.
        if header.tag == HeaderTag::BYTES {
            headers = headers.insert(Header { key: header.name, value: Some(header.value) });
            continue;
        }
        let value = header_value(&header)?;
        headers = headers.insert(Header { key: header.name, value: value.as_deref() });
    }
    headers = headers.insert(Header { key: ID, value: Some(&hex(event.id.0)[..]) });
    if event.identity == Identity::Content {
        headers = headers.insert(Header { key: IDENTITY, value: Some(OF_CONTENT) });
    }
    if !event.provenance.is_empty() {
        headers = headers.insert(Header { key: PROVENANCE, value: Some(&event.provenance[..]) });
    }
    Some(headers)
}

/// 32 lower-case hex digits, without an allocation.
fn hex(value: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (at, digit) in digits.iter_mut().enumerate() {
        let nibble = (value >> (124 - 4 * at)) & 0xf;
        *digit = b"0123456789abcdef"[usize::try_from(nibble).expect("four bits fit")];
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_written_as_it_is_read() {
        for value in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0011_2233_4455_6677] {
            assert_eq!(hex(value), format!("{value:032x}").as_bytes());
        }
    }
}
