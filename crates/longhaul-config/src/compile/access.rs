//! How to reach a broker: one function per kind. No message quotes a value that may be a secret.

use std::collections::BTreeMap;
use std::path::Path;

use longhaul_topology::{BrokerKind, suggest_name};

use crate::compile::mesh::{amount, one_kind};
use crate::compile::router::{path, socket};
use crate::compile::{Context, units};
use crate::field::{Amount, Entries, Field, List, items};
use crate::raw::router::{
    RawAccess, RawCreateTopics, RawEmbedded, RawKafka, RawNats, RawQueueType, RawRabbitMq, RawSasl, RawTls,
};
use crate::report::{Report, Span};
use crate::router::{BrokerAccess, CreateTopics, Embedded, Kafka, Nats, QueueType, RabbitMq, Sasl, Secret, Tls};

const PREFETCH: u16 = 1000;
const EMBEDDED_LISTEN: &str = "127.0.0.1:9700";
const MECHANISMS: [&str; 4] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"];
const PARTITIONS_MAX: u32 = 10_000;
const REPLICATION_MAX: u32 = 100;

/// Options of librdkafka that have a key here, or that the promise of a route rests on.
const TAKEN_OPTIONS: [(&str, &str); 13] = [
    ("bootstrap.servers", "use `bootstrap`"),
    ("metadata.broker.list", "use `bootstrap`"),
    ("security.protocol", "it follows from `tls` and `sasl`"),
    ("ssl.ca.location", "use `tls: {ca}`"),
    ("ssl.certificate.location", "use `tls: {cert}`"),
    ("ssl.key.location", "use `tls: {key}`"),
    ("sasl.mechanism", "use `sasl: {mechanism}`"),
    ("sasl.mechanisms", "use `sasl: {mechanism}`"),
    ("sasl.username", "use `sasl: {username}`"),
    ("sasl.password", "use `sasl: {password}`"),
    ("enable.idempotence", "order and no loss rest on it"),
    ("acks", "no loss rests on it"),
    ("request.required.acks", "no loss rests on it"),
];

pub(crate) fn access(field: &Field<RawAccess>, folder: &Path, cx: Context<'_>) -> Option<BrokerAccess> {
    let (raw, span) = field.get()?;
    let kinds = [
        raw.kafka.as_ref().map(|_| BrokerKind::Kafka),
        raw.rabbitmq.as_ref().map(|_| BrokerKind::RabbitMq),
        raw.nats.as_ref().map(|_| BrokerKind::Nats),
        raw.embedded.as_ref().map(|_| BrokerKind::Embedded),
    ];
    one_kind(&kinds.into_iter().flatten().collect::<Vec<_>>(), (span, field.maimed), cx)?;
    let kafka = raw.kafka.as_ref().and_then(Field::get).and_then(|(raw, _)| kafka(raw, folder, cx));
    let rabbitmq = raw.rabbitmq.as_ref().and_then(Field::get).and_then(|(raw, _)| rabbitmq(raw, folder, cx));
    let nats = raw.nats.as_ref().and_then(Field::get).and_then(|(raw, _)| nats(raw, folder, cx));
    let embedded = raw.embedded.as_ref().and_then(Field::get).and_then(|(raw, _)| embedded(raw, folder, cx));
    kafka
        .map(BrokerAccess::Kafka)
        .or(rabbitmq.map(BrokerAccess::RabbitMq))
        .or(nats.map(BrokerAccess::Nats))
        .or(embedded.map(BrokerAccess::Embedded))
}

fn kafka(raw: &RawKafka, folder: &Path, cx: Context<'_>) -> Option<Kafka> {
    let bootstrap = addresses(&raw.bootstrap, |text, span| cx.address(text, span), cx);
    let tls = optional(raw.tls.as_ref(), |raw, span| tls(raw, span, folder, cx));
    let sasl = optional(raw.sasl.as_ref(), |raw, _| sasl(raw, cx));
    let create_topics = optional(raw.create_topics.as_ref(), |raw, _| create_topics(raw, cx));
    let options = options(raw.options.as_ref(), cx);
    Some(Kafka { bootstrap: bootstrap?, tls: tls?, sasl: sasl?, create_topics: create_topics?, options: options? })
}

/// `Some(None)` when it is left out, `None` when it was wrong.
#[expect(clippy::option_option, reason = "left out and wrong are two things, and the second is reported already")]
pub(crate) fn optional<R, T>(
    field: Option<&Field<R>>,
    compile: impl FnOnce(&R, Span) -> Option<T>,
) -> Option<Option<T>> {
    match field {
        None => Some(None),
        Some(field) => field.get().and_then(|(raw, span)| compile(raw, span)).map(Some),
    }
}

/// At least one, all of them good.
fn addresses(list: &List<String>, good: impl Fn(&str, Span) -> Option<String>, cx: Context<'_>) -> Option<Vec<String>> {
    let (all, span) = list.get()?;
    if all.is_empty() {
        return cx.refuse(span, "empty", "at least one address is needed");
    }
    let found: Vec<String> = items(Some(list)).filter_map(|(text, span)| good(text, span)).collect();
    (found.len() == all.len()).then_some(found)
}

pub(crate) fn tls(raw: &RawTls, span: Span, folder: &Path, cx: Context<'_>) -> Option<Tls> {
    let file = |field: &Field<String>| path(field, folder, cx);
    let ca = optional(raw.ca.as_ref(), |_, _| file(raw.ca.as_ref()?));
    let cert = optional(raw.cert.as_ref(), |_, _| file(raw.cert.as_ref()?));
    let key = optional(raw.key.as_ref(), |_, _| file(raw.key.as_ref()?));
    if raw.cert.is_some() != raw.key.is_some() {
        return cx.refuse(span, "one without the other", "`cert` and `key` belong together");
    }
    Some(Tls { ca: ca?, cert: cert?, key: key? })
}

fn sasl(raw: &RawSasl, cx: Context<'_>) -> Option<Sasl> {
    let mechanism = raw.mechanism.get().and_then(|(text, span)| {
        if MECHANISMS.contains(&text.as_str()) {
            return Some(text.clone());
        }
        let report = Report::new(span, "not known", format!("`{}` is no SASL mechanism", cx.written(span)));
        cx.report(report.help(suggest_name(text, MECHANISMS, "expected is one of")));
        None
    });
    let (username, password) = (cx.filled(&raw.username), cx.filled(&raw.password));
    Some(Sasl { mechanism: mechanism?, username: username?, password: Secret::new(password?) })
}

fn create_topics(raw: &RawCreateTopics, cx: Context<'_>) -> Option<CreateTopics> {
    let count = |field: &Field<u32>, max: u32| {
        field.get().and_then(|(number, span)| match *number {
            0 => cx.refuse(span, "expected 1 or more", "a topic has at least one"),
            number if number > max => cx.refuse(span, "too many", format!("at most {max}")),
            number => Some(number),
        })
    };
    let (partitions, replication) = (count(&raw.partitions, PARTITIONS_MAX), count(&raw.replication, REPLICATION_MAX));
    Some(CreateTopics { partitions: partitions?, replication: replication? })
}

fn options(raw: Option<&Field<Entries<Amount>>>, cx: Context<'_>) -> Option<BTreeMap<String, String>> {
    let Some(raw) = raw else { return Some(BTreeMap::new()) };
    let mut all = Some(BTreeMap::new());
    for (name, value) in &raw.value.as_ref()?.0 {
        let Some((key, span)) = name.get() else { continue };
        if let Some((_, instead)) = TAKEN_OPTIONS.iter().find(|(taken, _)| taken == key) {
            let message = format!("the option `{key}` cannot be set here: {instead}");
            cx.report(Report::new(span, "not here", message));
            all = None;
        }
        all = all.zip(value.value.as_ref()).map(|(mut all, Amount(value))| {
            all.insert(key.clone(), value.clone());
            all
        });
    }
    all
}

fn rabbitmq(raw: &RawRabbitMq, folder: &Path, cx: Context<'_>) -> Option<RabbitMq> {
    let uri = raw.uri.get().and_then(|(uri, span)| amqp_uri(uri, span, cx));
    let tls = optional(raw.tls.as_ref(), |raw, span| tls(raw, span, folder, cx));
    if let (Some(field), Some(uri)) = (&raw.tls, &uri)
        && !uri.starts_with("amqps://")
    {
        let report = Report::new(field.span, "has no effect", "`tls` has no effect with an `amqp://` address");
        cx.report(report.with(raw.uri.span, "not encrypted").help("use `amqps://`"));
        return None;
    }
    let prefetch = optional(raw.prefetch.as_ref(), |prefetch, span| match prefetch {
        0 => cx.refuse(span, "no bound", "`prefetch` is at least 1: 0 would mean no bound at all"),
        prefetch => Some(*prefetch),
    });
    let queue_type = optional(raw.queue_type.as_ref(), |kind, _| Some(*kind));
    Some(RabbitMq {
        uri: Secret::new(uri?),
        tls: tls?,
        prefetch: prefetch?.unwrap_or(PREFETCH),
        queue_type: match queue_type?.unwrap_or(RawQueueType::Quorum) {
            RawQueueType::Quorum => QueueType::Quorum,
            RawQueueType::Classic => QueueType::Classic,
        },
    })
}

fn amqp_uri(uri: &str, span: Span, cx: Context<'_>) -> Option<String> {
    let rest = uri.strip_prefix("amqp://").or_else(|| uri.strip_prefix("amqps://"));
    let host = rest
        .map(|rest| rest.split('/').next().unwrap_or_default())
        .map(|host| host.rsplit('@').next().unwrap_or_default());
    match host {
        Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => Some(uri.to_owned()),
        _ => {
            let report = Report::new(span, "expected an AMQP address", "this is no address of a RabbitMQ server");
            cx.report(
                report
                    .help("expected `amqp://USER:PASSWORD@HOST:5672/VHOST`, or `amqps://` for TLS; no vhost means `/`"),
            );
            None
        }
    }
}

fn nats(raw: &RawNats, folder: &Path, cx: Context<'_>) -> Option<Nats> {
    let servers = addresses(&raw.servers, |text, span| nats_server(text, span, cx), cx);
    let tls = optional(raw.tls.as_ref(), |raw, span| tls(raw, span, folder, cx));
    let credentials = optional(raw.credentials.as_ref(), |_, _| path(raw.credentials.as_ref()?, folder, cx));
    let user = optional(raw.user.as_ref(), |_, _| cx.filled(raw.user.as_ref()?));
    let password = optional(raw.password.as_ref(), |_, _| cx.filled(raw.password.as_ref()?));
    let domain = optional(raw.domain.as_ref(), |_, _| cx.filled(raw.domain.as_ref()?));
    let create_streams = optional(raw.create_streams.as_ref(), |yes, _| Some(*yes));
    let user = match (&raw.user, &raw.password) {
        (Some(_), Some(_)) => user?.zip(password?).map(|(user, password)| (user, Secret::new(password))),
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => {
            return cx.refuse(one.span, "one without the other", "`user` and `password` belong together");
        }
    };
    if let (Some(credentials), Some(user)) = (&raw.credentials, &raw.user) {
        let report =
            Report::new(user.span, "second way", "a NATS server is reached by `credentials` or by `user`, not by both");
        cx.report(report.with(credentials.span, "first way"));
        return None;
    }
    Some(Nats {
        servers: servers?,
        tls: tls?,
        credentials: credentials?,
        user,
        domain: domain?,
        create_streams: create_streams?.unwrap_or(false),
    })
}

fn nats_server(url: &str, span: Span, cx: Context<'_>) -> Option<String> {
    let Some(rest) = url.strip_prefix("nats://").or_else(|| url.strip_prefix("tls://")) else {
        return cx.refuse(span, "expected a NATS address", "a NATS server is `nats://HOST:PORT` or `tls://HOST:PORT`");
    };
    if rest.contains('@') {
        let report = Report::new(span, "with credentials", "an address of a NATS server holds no credentials");
        cx.report(report.help("use `user` and `password`, or `credentials`: those are never printed"));
        return None;
    }
    cx.address(rest.trim_end_matches('/'), span)?;
    Some(url.to_owned())
}

fn embedded(raw: &RawEmbedded, folder: &Path, cx: Context<'_>) -> Option<Embedded> {
    let data = path(&raw.data, folder, cx);
    let listen = socket(raw.listen.as_ref(), EMBEDDED_LISTEN, cx);
    let retain = raw.retain.as_ref().and_then(|field| field.value.as_ref());
    let age = optional(retain.and_then(|retain| retain.age.as_ref()), |_, _| {
        amount(retain?.age.as_ref(), units::duration, cx)
    });
    let bytes = optional(retain.and_then(|retain| retain.bytes.as_ref()), |_, _| {
        amount(retain?.bytes.as_ref(), units::size, cx)
    });
    Some(Embedded { data: data?, listen: listen?, retain_age: age?, retain_bytes: bytes? })
}
