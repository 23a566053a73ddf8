//! Topic names, as far as they are known before the first event: what a template makes of the literal parts of the filters,
//! against the rules of the broker that would get them; and filters that no topic of their broker can match.
//!
//! Kafka: letters, digits, `.`, `_` and `-`, at most 249. NATS: no white space, no empty token, no token `*` or `>`, nothing
//! under `$JS` or `$SYS`. RabbitMQ: at most 255 bytes. Embedded: at most 1024 bytes.

use longhaul_topic::TOPIC_BYTES_MAX;

use super::carriers::source_patterns;
use super::{Place, Problem, ProblemKind};
use crate::image::image;
use crate::pattern::{Pattern, Token};
use crate::{BrokerKind, Mesh, Route, SourceKind, To};

const KAFKA_NAME_MAX: usize = 249;
const ROUTING_KEY_BYTES_MAX: usize = 255;

pub(super) fn check(mesh: &Mesh, problems: &mut Vec<Problem>) {
    for (at, route) in mesh.routes.iter().enumerate() {
        sources(at, route, problems);
        for (i, to) in route.to.iter().enumerate() {
            if !to.sink.is_one_queue() {
                destination(at, i, route, to, problems);
            }
        }
    }
}

fn sources(at: usize, route: &Route, problems: &mut Vec<Problem>) {
    let kind = route.from.source.broker_kind();
    // A binding pattern of RabbitMQ may hold anything: an exchange of another type reads it in its own way.
    if matches!(route.from.source, SourceKind::RabbitExchange { .. }) {
        return;
    }
    for (i, filter) in route.from.source.topics().iter().enumerate() {
        if let Some(why) = refused(kind, &Pattern::of(filter)) {
            let message = format!("no topic can match the filter `{filter}`: {why}");
            problems.push(Problem::new(ProblemKind::TopicName, Place::FromTopic(at, i), "matches nothing", message));
        }
    }
}

fn destination(at: usize, i: usize, route: &Route, to: &To, problems: &mut Vec<Problem>) {
    for (filter, pattern) in source_patterns(&route.from.source) {
        let place = Place::ToTopic(at, i);
        let made = image(&pattern, &to.topic, &route.from.region, &route.from.broker);
        if made.is_empty() {
            let filter = filter.map_or_else(String::new, |i| format!(" `{}`", route.from.source.topics()[i]));
            let message = format!("no topic of the filter{filter} has the token that `{}` asks for", to.topic);
            let problem = Problem::new(ProblemKind::Template, place, "no such token", message);
            problems.push(related(problem, at, filter_place(&pattern, route)).help("tokens are counted from 0"));
        } else if let Some(why) = made.iter().find_map(|pattern| refused(to.sink.broker_kind(), pattern)) {
            let message = format!("broker `{}` refuses what `{}` makes: {why}", to.broker, to.topic);
            let problem = Problem::new(ProblemKind::TopicName, place, "makes a name that is refused", message);
            problems.push(related(problem, at, filter));
            return;
        }
    }
}

fn filter_place(pattern: &Pattern, route: &Route) -> Option<usize> {
    route.from.source.topics().iter().position(|filter| Pattern::of(filter) == *pattern)
}

fn related(problem: Problem, at: usize, filter: Option<usize>) -> Problem {
    match filter {
        Some(i) => problem.with(Place::FromTopic(at, i), "of these topics"),
        None => problem,
    }
}

/// Why every topic of the pattern is refused by that kind of broker; `None` when one may be accepted.
fn refused(kind: BrokerKind, pattern: &Pattern) -> Option<String> {
    match kind {
        BrokerKind::Kafka => kafka(pattern),
        BrokerKind::Nats => nats(pattern),
        BrokerKind::RabbitMq => too_long(pattern, "a routing key", ROUTING_KEY_BYTES_MAX),
        BrokerKind::Embedded => too_long(pattern, "a topic", TOPIC_BYTES_MAX),
    }
}

fn kafka(pattern: &Pattern) -> Option<String> {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some(bad) = texts(pattern).flat_map(str::chars).find(|c| !allowed(c)) {
        return Some(format!("a Kafka topic has letters, digits, `.`, `_` and `-`, but no `{}`", bad.escape_debug()));
    }
    let empty = Token::Literal(String::new());
    if pattern.0.iter().all(|token| *token == empty) && pattern.0.len() <= 3 {
        return Some("a Kafka topic is not empty, `.` or `..`".to_owned());
    }
    too_long(pattern, "a Kafka topic", KAFKA_NAME_MAX)
}

fn nats(pattern: &Pattern) -> Option<String> {
    if let Some(bad) = texts(pattern).flat_map(str::chars).find(|c| c.is_whitespace() || *c == '\0') {
        return Some(format!("a NATS subject has no white space, but this has `{}`", bad.escape_debug()));
    }
    if pattern.0.contains(&Token::Literal(String::new())) {
        return Some("a NATS subject has no empty token: no dot at its ends, no two dots in a row".to_owned());
    }
    if let Some(Token::Literal(token)) =
        pattern.0.iter().find(|token| matches!(token, Token::Literal(text) if text == "*" || text == ">"))
    {
        return Some(format!("a NATS subject has no token `{token}`: it is a wildcard there"));
    }
    match pattern.0.first() {
        Some(Token::Literal(first)) if first == "$JS" || first == "$SYS" => {
            Some(format!("NATS keeps subjects under `{first}` to itself"))
        }
        _ => too_long(pattern, "a topic", TOPIC_BYTES_MAX),
    }
}

fn too_long(pattern: &Pattern, what: &str, bytes_max: usize) -> Option<String> {
    let certain = pattern.0.iter().filter(|token| **token != Token::Rest).count().saturating_sub(1);
    let bytes = texts(pattern).map(str::len).sum::<usize>() + certain;
    (bytes > bytes_max).then(|| format!("{what} has at most {bytes_max} bytes, this has at least {bytes}"))
}

/// The parts of the names that are known.
fn texts(pattern: &Pattern) -> impl Iterator<Item = &str> {
    pattern.0.iter().flat_map(|token| match token {
        Token::Literal(text) => [text.as_str(), ""],
        Token::Glob(prefix, suffix) => [prefix.as_str(), suffix.as_str()],
        Token::Rest => ["", ""],
    })
}
