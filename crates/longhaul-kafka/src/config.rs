//! Options for librdkafka. Refuses the ones that would break a promise; everything else in `options` wins over ours.

use std::path::Path;

use longhaul_broker::Context;
use longhaul_config::{CreateTopics, Kafka, Sasl, Tls};
use longhaul_event::hash64;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::life::LOGGED;

/// Bytes that a consumer fetches ahead of the readers, for a source and for a reader of its own.
const FETCH_AHEAD_KIB: usize = 8192;
const FETCH_AHEAD_ONE_KIB: usize = 2048;
/// Largest batch that a producer makes; Kafka's default limit for a batch is 1,048,588 bytes.
pub(crate) const BATCH_BYTES_MAX: usize = 1_000_000;
/// Payload bytes that may wait in one producer.
const PRODUCER_BYTES_MAX: usize = 128 << 20;
const PRODUCER_EVENTS_MAX: usize = 200_000;
/// How long a transaction may take before the cluster aborts it. A router that dies without a successor keeps readers of the topics that
/// it was writing waiting for that long; it is longer than most brokers need to start again.
pub(crate) const TRANSACTION_MS: &str = "30000";
/// For requests of a transactional producer: so that one of them is asked again within the transaction.
const TRANSACTION_SOCKET_MS: &str = "10000";
/// After how long without a sign the coordinator gives a router's partitions to others: the least that brokers allow by default.
const SESSION_MS: &str = "6000";
const HEARTBEAT_MS: &str = "1500";
/// How often the member looks for new partitions of its topics.
const MEMBER_METADATA_MS: &str = "5000";
/// Longest name in the group that is taken as it is.
const INSTANCE_CHARS: usize = 200;
/// What librdkafka accepts as largest message.
const MESSAGE_BYTES: std::ops::RangeInclusive<usize> = 1_000..=1_000_000_000;

/// What `options` must not touch, because a promise rests on it.
const OURS: [&str; 26] = [
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "fetch.message.max.bytes",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "log.queue",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "queuing.strategy",
    "request.required.acks",
    "statistics.interval.ms",
    "transactional.id",
    "transaction.timeout.ms",
];

/// Everything that clients of one cluster are made from.
pub(crate) struct Settings {
    base: ClientConfig,
    options: Vec<(String, String)>,
    /// Group by which the routers of the region share partitions; its offsets show how far they are.
    pub(crate) group: String,
    /// Our name in the group.
    pub(crate) instance: String,
    /// Largest event that may be read.
    pub(crate) event_bytes_max: usize,
    /// Whether and how missing destination topics are made.
    pub(crate) create_topics: Option<CreateTopics>,
}

impl Settings {
    /// Takes the documents' words.
    ///
    /// # Errors
    /// One sentence about what cannot work.
    pub(crate) fn new(cfg: &Kafka, ctx: &Context) -> Result<Self, String> {
        if cfg.bootstrap.is_empty() {
            return Err("bootstrap names no broker".to_owned());
        }
        let mut base = ClientConfig::new();
        base.set("bootstrap.servers", cfg.bootstrap.join(","))
            .set("client.id", format!("longhaul-{}", ctx.router))
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", "30000")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000")
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        security(&mut base, cfg)?;
        for key in cfg.options.keys() {
            if OURS.contains(&key.as_str()) {
                return Err(format!("options: `{key}` is set by Longhaul itself, because its guarantees rest on it"));
            }
        }
        let settings = Self {
            base,
            options: cfg.options.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            group: format!("longhaul.{}.{}.{}", ctx.mesh, ctx.region, ctx.broker),
            instance: instance(&ctx.router),
            event_bytes_max: ctx.event_bytes_max,
            create_topics: cfg.create_topics,
        };
        for config in [
            settings.consumer(true),
            settings.member(),
            settings.producer(None, false),
            settings.transactional("x", None, false),
        ] {
            config.create_native_config().map_err(|error| format!("options: {error}"))?;
        }
        Ok(settings)
    }

    /// For questions: metadata, offsets.
    pub(crate) fn questions(&self) -> ClientConfig {
        let mut config = self.base.clone();
        config.set("isolation.level", "read_committed").set("enable.auto.commit", "false");
        self.with_options(telling(config))
    }

    /// For administration.
    pub(crate) fn admin(&self) -> ClientConfig {
        self.with_options(self.base.clone())
    }

    /// For reading: many partitions at once, or one reader of its own.
    pub(crate) fn consumer(&self, many: bool) -> ClientConfig {
        let ahead_kib = if many { FETCH_AHEAD_KIB } else { FETCH_AHEAD_ONE_KIB };
        let event = self.event_bytes_max + (64 << 10);
        let mut config = self.base.clone();
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "false")
            .set("queued.max.messages.kbytes", ahead_kib.to_string())
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "100")
            .set("fetch.message.max.bytes", event.clamp(1 << 20, *MESSAGE_BYTES.end()).to_string())
            .set("receive.message.max.bytes", (event + (64 << 20)).clamp(100_000_000, i32::MAX as usize).to_string());
        if many {
            config.set("statistics.interval.ms", "5000");
        }
        self.with_options(telling(config))
    }

    /// For the member of the group, which owns partitions and fetches nothing.
    pub(crate) fn member(&self) -> ClientConfig {
        let mut config = self.base.clone();
        config
            .set("group.id", &self.group)
            .set("group.instance.id", &self.instance)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", SESSION_MS)
            .set("heartbeat.interval.ms", HEARTBEAT_MS)
            .set("topic.metadata.refresh.interval.ms", MEMBER_METADATA_MS)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Where it would begin if it read: a place that is always there.
            .set("auto.offset.reset", "latest");
        self.with_options(config)
    }

    /// What is said when another process has our name in the group.
    pub(crate) fn name_taken(&self) -> String {
        let Self { group, instance, .. } = self;
        format!(
            "another router named {instance} is a member of the group {group}; router names must be unique in a region. This one \
             reads nothing of this cluster until the other has ended"
        )
    }

    /// For reading the topic of cursors to its end.
    pub(crate) fn cursor_reader(&self) -> ClientConfig {
        let mut config = self.consumer(false);
        config.set("enable.partition.eof", "true").set("fetch.wait.max.ms", "10");
        config
    }

    /// For writing to topics that take batches of at most `batch_limit` bytes, if that is known; every event in a batch of its own
    /// when `alone` is asked for.
    pub(crate) fn producer(&self, batch_limit: Option<usize>, alone: bool) -> ClientConfig {
        let largest = batch_limit.unwrap_or(self.event_bytes_max.max(BATCH_BYTES_MAX) + (1 << 20));
        let queue_kib = PRODUCER_BYTES_MAX.max(2 * largest) >> 10;
        let mut config = self.base.clone();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            .set("linger.ms", "1")
            // librdkafka spins while a partition has events that are due and a request under way. It rests as soon as one request of the
            // connection waits to be sent, and a broker works on one at a time anyway: two hide the round trip.
            .set("max.in.flight.requests.per.connection", "2")
            .set("partitioner", "murmur2_random")
            // How long a topic that has vanished may come back before its events fail.
            .set("topic.metadata.propagation.max.ms", "10000")
            .set("retry.backoff.ms", "100")
            .set("retry.backoff.max.ms", "1000")
            .set("message.max.bytes", largest.clamp(*MESSAGE_BYTES.start(), *MESSAGE_BYTES.end()).to_string())
            .set("batch.size", largest.clamp(1, BATCH_BYTES_MAX).to_string())
            .set("queue.buffering.max.kbytes", queue_kib.to_string())
            .set("queue.buffering.max.messages", PRODUCER_EVENTS_MAX.to_string());
        let mut config = self.with_options(config);
        if alone {
            config.set("batch.num.messages", "1").set("linger.ms", "0");
        }
        config
    }

    /// For writing in transactions under that name, to topics that take batches of at most `batch_limit` bytes.
    pub(crate) fn transactional(&self, id: &str, batch_limit: Option<usize>, alone: bool) -> ClientConfig {
        let mut config = self.producer(None, alone);
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", TRANSACTION_MS)
            .set("message.timeout.ms", TRANSACTION_MS)
            .set("socket.timeout.ms", TRANSACTION_SOCKET_MS);
        if let Some(limit) = batch_limit.filter(|limit| *limit < BATCH_BYTES_MAX) {
            config.set("batch.size", limit.max(1).to_string());
        }
        config
    }

    /// For asking where a partition ends, open transactions included.
    pub(crate) fn uncommitted(&self) -> ClientConfig {
        let mut config = self.questions();
        config.set("isolation.level", "read_uncommitted");
        config
    }

    fn with_options(&self, mut config: ClientConfig) -> ClientConfig {
        for (key, value) in &self.options {
            match config.get(key) {
                Some(ours) if key == "debug" => config.set(key, format!("{ours},{value}")),
                _ => config.set(key, value),
            };
        }
        config
    }
}

/// Has the client tell what `life` must hear.
fn telling(mut config: ClientConfig) -> ClientConfig {
    config.set("debug", LOGGED).set_log_level(RDKafkaLogLevel::Debug);
    config
}

/// The router's name as Kafka takes it. Names that differ stay different.
fn instance(router: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_fine = router.chars().all(fits) && router.len() <= INSTANCE_CHARS;
    if is_fine && !matches!(router, "" | "." | "..") {
        return router.to_owned();
    }
    let plain: String = router.chars().take(INSTANCE_CHARS).map(|c| if fits(c) { c } else { '_' }).collect();
    format!("{plain}.{:016x}", hash64(router.as_bytes()))
}

fn security(base: &mut ClientConfig, cfg: &Kafka) -> Result<(), String> {
    let protocol = match (&cfg.tls, &cfg.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    base.set("security.protocol", protocol);
    if let Some(tls) = &cfg.tls {
        set_tls(base, tls)?;
    }
    if let Some(sasl) = &cfg.sasl {
        set_sasl(base, sasl)?;
    }
    Ok(())
}

fn set_tls(base: &mut ClientConfig, tls: &Tls) -> Result<(), String> {
    match &tls.ca {
        Some(ca) => base.set("ssl.ca.location", text(ca)?),
        None => base.set("ssl.ca.location", "probe"),
    };
    if let Some(cert) = &tls.cert {
        base.set("ssl.certificate.location", text(cert)?);
    }
    if let Some(key) = &tls.key {
        base.set("ssl.key.location", text(key)?);
    }
    Ok(())
}

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{}: a path given to Kafka's client must be UTF-8", path.display()))
}

fn set_sasl(base: &mut ClientConfig, sasl: &Sasl) -> Result<(), String> {
    match sasl.mechanism.as_str() {
        "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => {}
        other => return Err(format!("sasl.mechanism: `{other}` is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512")),
    }
    base.set("sasl.mechanisms", &sasl.mechanism)
        .set("sasl.username", &sasl.username)
        .set("sasl.password", sasl.password.reveal());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use longhaul_config::Secret;

    use super::*;

    fn kafka() -> Kafka {
        Kafka {
            bootstrap: vec!["a:1".to_owned(), "b:2".to_owned()],
            tls: None,
            sasl: None,
            create_topics: None,
            options: BTreeMap::new(),
        }
    }

    fn context() -> Context {
        Context {
            mesh: "mesh".to_owned(),
            region: "eu".to_owned(),
            broker: "orders".to_owned(),
            router: "r1".to_owned(),
            cluster: 1,
            event_bytes_max: 64 << 20,
        }
    }

    fn refused(cfg: &Kafka) -> String {
        Settings::new(cfg, &context()).err().expect("it is refused")
    }

    #[test]
    fn promises_are_set_and_options_win_elsewhere() {
        let mut cfg = kafka();
        cfg.options.insert("linger.ms".to_owned(), "7".to_owned());
        cfg.options.insert("debug".to_owned(), "broker".to_owned());
        let settings = Settings::new(&cfg, &context()).expect("it is fine");
        let producer = settings.producer(Some(5_000), false);
        for (key, value) in [
            ("bootstrap.servers", "a:1,b:2"),
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("message.max.bytes", "5000"),
            ("batch.size", "5000"),
            ("linger.ms", "7"),
        ] {
            assert_eq!(producer.get(key), Some(value), "{key}");
        }
        assert_eq!(settings.consumer(true).get("group.id"), Some("longhaul.mesh.eu.orders"));
        assert_eq!(settings.consumer(true).get("auto.offset.reset"), Some("error"));
        assert_eq!(settings.consumer(true).get("group.instance.id"), None, "readers are no members");
        assert_eq!(settings.consumer(true).get("debug"), Some("topic,broker"), "what we must hear comes first");
        assert_eq!(settings.member().get("group.instance.id"), Some("r1"));
    }

    #[test]
    fn a_name_in_the_group_is_one_that_kafka_takes_and_nobody_elses() {
        assert_eq!(instance("eu-1.router_a"), "eu-1.router_a");
        let strange = ["eu 1", "eu/1", "é", "", ".", "..", &"x".repeat(300), &"x".repeat(301)].map(instance);
        for (at, name) in strange.iter().enumerate() {
            assert!(name.len() < 249 && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)), "{name}");
            assert!(!strange[..at].contains(name), "{name}");
        }
    }

    #[test]
    fn what_breaks_a_promise_is_refused_with_its_name() {
        for key in OURS {
            let mut cfg = kafka();
            cfg.options.insert(key.to_owned(), "1".to_owned());
            assert!(refused(&cfg).contains(&format!("`{key}`")), "{key}");
        }
        let mut cfg = kafka();
        cfg.options.insert("lingr.ms".to_owned(), "1".to_owned());
        assert!(refused(&cfg).contains("lingr.ms"), "{}", refused(&cfg));
        let mut cfg = kafka();
        cfg.bootstrap.clear();
        assert!(refused(&cfg).contains("bootstrap"));
    }

    #[test]
    fn a_mechanism_we_do_not_speak_is_refused_without_the_password() {
        let mut cfg = kafka();
        let password = Secret::new("hush".to_owned());
        cfg.sasl = Some(Sasl { mechanism: "GSSAPI".to_owned(), username: "u".to_owned(), password });
        let error = refused(&cfg);
        assert!(error.contains("GSSAPI") && !error.contains("hush"), "{error}");
        cfg.sasl.as_mut().expect("just set").mechanism = "SCRAM-SHA-512".to_owned();
        let settings = Settings::new(&cfg, &context()).expect("SCRAM is spoken");
        assert_eq!(settings.admin().get("security.protocol"), Some("sasl_plaintext"));
    }
}
