//! Names of what Longhaul declares, and the binding patterns of its filters.

use lapin::types::{AMQPValue, FieldTable, ShortString};
use longhaul_broker::Context;
use longhaul_config::QueueType;
use longhaul_event::{FlowId, hash64};
use longhaul_topic::Filter;

/// Never reached. RabbitMQ 4 drops a message from a quorum queue after 20 redeliveries unless a limit is set, and 3.x knows no "never".
const DELIVERY_LIMIT: i32 = 2_000_000_000;

/// The lock of a flow's writer.
pub(crate) fn flow_lock(flow: FlowId) -> ShortString {
    short(format!("longhaul.lock.{flow}"))
}

/// The cursor of a flow.
pub(crate) fn cursor(flow: FlowId) -> ShortString {
    short(format!("longhaul.cursor.{flow}"))
}

/// The lock of a queue's reader.
pub(crate) fn queue_lock(queue: &str) -> ShortString {
    short(format!("longhaul.lock.queue.{:016x}", hash64(queue.as_bytes())))
}

/// The lock of the router that should read a queue.
pub(crate) fn queue_owner(queue: &str) -> ShortString {
    short(format!("longhaul.owner.queue.{:016x}", hash64(queue.as_bytes())))
}

/// The lock of the router that should read a stream: every region of every mesh may have one.
pub(crate) fn stream_owner(context: &Context, stream: &str) -> ShortString {
    let place = format!("{}\n{}\n{}\n{stream}", context.mesh, context.region, context.broker);
    short(format!("longhaul.owner.stream.{:016x}", hash64(place.as_bytes())))
}

/// The exchange that is bound to a stream as long as it has that life.
pub(crate) fn life(stream: &str, incarnation: u64) -> ShortString {
    short(format!("longhaul.life.{:016x}.{incarnation:016x}", hash64(stream.as_bytes())))
}

/// The note of which life a stream has.
pub(crate) fn life_note(stream: &str) -> ShortString {
    short(format!("longhaul.life.{:016x}", hash64(stream.as_bytes())))
}

/// The lock of whoever looks whether a stream has another life.
pub(crate) fn life_lock(stream: &str) -> ShortString {
    short(format!("longhaul.lock.life.{:016x}", hash64(stream.as_bytes())))
}

/// The note of what a spool queue is bound to.
pub(crate) fn bindings(queue: &str) -> ShortString {
    short(format!("longhaul.bindings.{:016x}", hash64(queue.as_bytes())))
}

fn short(name: String) -> ShortString {
    ShortString::try_new(name).expect("a prefix and 32 hex digits are below 255 bytes")
}

/// The binding pattern of a filter. `*` and `#` mean the same in both; `>`, one token or more, is `*.#`.
pub(crate) fn pattern(filter: &Filter) -> String {
    let tokens: Vec<&str> = filter.as_str().split('.').map(|token| if token == ">" { "*.#" } else { token }).collect();
    tokens.join(".")
}

/// Whether a binding pattern has a wildcard, which only a topic exchange understands.
pub(crate) fn is_wild(pattern: &str) -> bool {
    pattern.split('.').any(|token| token == "*" || token == "#")
}

/// Arguments of a queue that Longhaul declares.
pub(crate) fn queue_arguments(kind: QueueType) -> FieldTable {
    let mut arguments = FieldTable::default();
    let kind = match kind {
        QueueType::Quorum => {
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
            "quorum"
        }
        QueueType::Classic => "classic",
    };
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_binding_patterns() {
        for (filter, expected, wild) in [
            ("orders.new", "orders.new", false),
            ("orders.>", "orders.*.#", true),
            (">", "*.#", true),
            ("#", "#", true),
            ("orders.*.eu", "orders.*.eu", true),
            ("a#.b", "a#.b", false),
        ] {
            let pattern = pattern(&Filter::parse(filter).expect("a filter"));
            assert_eq!(pattern, expected);
            assert_eq!(is_wild(&pattern), wild, "{pattern}");
        }
    }
}
