//! The access to RabbitMQ, checked once.

use std::fs;
use std::path::Path;

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use longhaul_config::{QueueType, RabbitMq, Tls};

/// Seconds between heartbeats when the address does not say. The broker ends a connection that says nothing, and with it a zombie's
/// locks, after two to three of them: so another router takes over from one that hangs within ten seconds.
const HEARTBEAT_S: u16 = 3;

/// What the connector knows about its broker. `uri` holds the password and is never printed.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) uri: AMQPUri,
    tls: Option<Tls>,
    pub(crate) prefetch: u16,
    pub(crate) queue_type: QueueType,
}

impl Access {
    /// Checks the configuration.
    ///
    /// # Errors
    /// A sentence without the address, which may hold a password in any of its parts.
    pub(crate) fn new(cfg: &RabbitMq) -> Result<Self, String> {
        let text = cfg.uri.reveal();
        let mut uri: AMQPUri = text
            .parse()
            .map_err(|_| "the uri of the RabbitMQ broker is not of the form amqp://user:password@host:port/vhost")?;
        if let Some(address) = literal_v6(text) {
            uri.authority.host = address;
        }
        if uri.vhost.is_empty() {
            // A slash at the end is meant as the usual virtual host, not as the one without a name.
            uri.vhost = "/".to_owned();
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        if cfg.prefetch == 0 {
            return Err("prefetch of a RabbitMQ broker must be 1 or more: 0 means no bound at all".to_owned());
        }
        if cfg.tls.is_some() && uri.scheme == AMQPScheme::AMQP {
            return Err("a RabbitMQ broker with tls needs a uri that begins with amqps://".to_owned());
        }
        Ok(Self { uri, tls: cfg.tls.clone(), prefetch: cfg.prefetch, queue_type: cfg.queue_type })
    }

    /// `host:port`, for telling people which broker is meant.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
    }

    /// Reads the certificates, which may have been renewed since the last time.
    ///
    /// # Errors
    /// A sentence with the file that cannot be read.
    pub(crate) fn tls(&self) -> Result<OwnedTLSConfig, String> {
        let Some(tls) = &self.tls else { return Ok(OwnedTLSConfig::default()) };
        let cert_chain = tls.ca.as_deref().map(read).transpose()?;
        let cert_chain = cert_chain
            .map(|pem| String::from_utf8(pem).map_err(|_| "the ca of the RabbitMQ broker is no PEM file".to_owned()))
            .transpose()?;
        let identity = match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => Some(OwnedIdentity::PKCS8 { pem: read(cert)?, key: read(key)? }),
            (None, None) => None,
            _ => return Err("tls of a RabbitMQ broker needs both cert and key, or none of them".to_owned()),
        };
        Ok(OwnedTLSConfig { identity, cert_chain })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// The address of `amqp://user@[::1]:5672`, which lapin would take for localhost.
fn literal_v6(text: &str) -> Option<String> {
    let authority = text.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (address, _) = host.strip_prefix('[')?.split_once(']')?;
    Some(address.to_owned())
}

#[cfg(test)]
mod tests {
    use longhaul_config::Secret;

    use super::*;

    fn access(uri: &str, prefetch: u16, tls: Option<Tls>) -> Result<Access, String> {
        let uri = Secret::new(uri.to_owned());
        Access::new(&RabbitMq { uri, tls, prefetch, queue_type: QueueType::Quorum })
    }

    #[test]
    fn addresses_are_understood() {
        let host = |uri: &str| access(uri, 1, None).expect("a good address").address();
        assert_eq!(host("amqp://u:p@mq.example.net"), "mq.example.net:5672");
        assert_eq!(host("amqps://u:p@mq.example.net/v"), "mq.example.net:5671");
        assert_eq!(host("amqp://u:p@[::1]:5673/%2f"), "::1:5673");
        let plain = access("amqp://u:p@h/", 1, None).expect("a good address");
        assert_eq!((plain.uri.vhost.as_str(), plain.uri.query.heartbeat), ("/", Some(HEARTBEAT_S)));
        let own = access("amqp://u:p@h/orders?heartbeat=30", 1, None).expect("a good address");
        assert_eq!((own.uri.vhost.as_str(), own.uri.query.heartbeat), ("orders", Some(30)));
    }

    #[test]
    fn refusals_say_what_is_wrong_and_no_secret() {
        for uri in ["s3cret", "http://u:s3cret@h", "amqp://u:s3cret@h:port", "amqp:s3cret"] {
            let text = access(uri, 1, None).err().expect("a broken address");
            assert!(!text.contains("s3cret"), "{text}");
        }
        assert!(access("amqp://h", 0, None).err().expect("no bound").contains("prefetch"));
        assert!(access("amqp://h", 1, Some(Tls::default())).err().expect("tls without s").contains("amqps"));
    }
}
