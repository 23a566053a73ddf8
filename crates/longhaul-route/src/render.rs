//! Topic templates filled from events.

use std::borrow::Cow;

use longhaul_event::{Event, Header, HeaderTag, header_text};
use longhaul_topic::TOPIC_BYTES_MAX;
use longhaul_topology::{Part, Template};

/// Appends the topic that the template makes of an event which was read at that region and broker. A part that the event lacks
/// becomes nothing; a decision has refused such an event before.
pub fn render(template: &Template, event: &Event, region: &str, broker: &str, topic: &mut String) {
    each_piece(template, event, region, broker, |piece| topic.push_str(piece.unwrap_or_default()));
}

/// Whether every part of the template finds what it asks for, and the topic that comes out is not too long.
pub(crate) fn can_render(template: &Template, event: &Event, region: &str, broker: &str) -> bool {
    let mut length = Some(0_usize);
    each_piece(template, event, region, broker, |piece| {
        length = piece.and_then(|piece| Some(length? + piece.len()));
    });
    length.is_some_and(|length| length <= TOPIC_BYTES_MAX)
}

fn each_piece(template: &Template, event: &Event, region: &str, broker: &str, mut piece: impl FnMut(Option<&str>)) {
    let topic = event.topic.as_str();
    for part in template.parts() {
        match part {
            Part::Literal(text) => piece(Some(text)),
            Part::Topic => piece(Some(topic)),
            Part::Token(at) => piece(event.topic.tokens().nth(*at)),
            Part::TokensFrom(at) => piece(tokens_from(topic, *at)),
            Part::Region => piece(Some(region)),
            Part::Broker => piece(Some(broker)),
            Part::Key => piece(event.key.as_ref().and_then(|key| std::str::from_utf8(key).ok())),
            Part::Header(name) => {
                let header = event.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                piece(header.and_then(text).as_deref());
            }
        }
    }
}

/// The tokens from there on as they stand in the topic: at least one.
fn tokens_from(topic: &str, at: usize) -> Option<&str> {
    if topic.is_empty() {
        return None;
    }
    (0..at).try_fold(topic, |rest, _| rest.split_once('.').map(|(_, rest)| rest))
}

/// Plain bytes that are no text have no place in a topic, not even as hex.
fn text(header: Header<'_>) -> Option<Cow<'_, str>> {
    match header.tag {
        HeaderTag::NULL => None,
        HeaderTag::BYTES => std::str::from_utf8(header.value).ok().map(Cow::Borrowed),
        _ => Some(header_text(&header)),
    }
}
