//! What the router document says about a NATS broker, checked once, as options of the client.
//!
//! It refuses an address that is none and a credentials file that cannot be read. Nothing here is ever printed with a secret in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};
use longhaul_config::Nats;

/// Time limit for one attempt to connect, and for one request.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Messages that a subscription may hold before the client drops: more than a reader ever asks for and more than a writer has in
/// flight, so that only core NATS can lose anything here.
pub(crate) const SUBSCRIPTION_MESSAGES_MAX: usize = 8192;
/// What stands for never: the client gets no second connection, we make a new client instead.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How to reach one NATS cluster.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    nats: Nats,
    servers: Vec<ServerAddr>,
    name: String,
}

impl Access {
    /// Checks the addresses. `name` is what the server's own tools show for us.
    ///
    /// # Errors
    /// A sentence naming the address that is none.
    pub(crate) fn new(nats: Nats, name: String) -> Result<Self, String> {
        let parse = |text: &String| text.parse::<ServerAddr>().map_err(|e| format!("nats server address: {e}"));
        let servers = nats.servers.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err("a nats broker needs at least one address in `servers`".to_owned());
        }
        Ok(Self { nats, servers, name })
    }

    /// The server to try in that turn, and its name for people, without user or password.
    pub(crate) fn server(&self, turn: usize) -> (ServerAddr, String) {
        let server = &self.servers[turn % self.servers.len()];
        (server.clone(), format!("{}:{}", server.host(), server.port()))
    }

    /// The subject prefix of the JetStream API.
    pub(crate) fn api_prefix(&self) -> String {
        self.nats.domain.as_ref().map_or_else(|| "$JS.API".to_owned(), |domain| format!("$JS.{domain}.API"))
    }

    /// Whether to make a stream for a subject that has none.
    pub(crate) fn create_streams(&self) -> bool {
        self.nats.create_streams
    }

    /// Options for one client that connects once.
    ///
    /// # Errors
    /// A sentence naming the credentials file that cannot be read.
    pub(crate) async fn options(&self) -> Result<ConnectOptions, String> {
        let connected = Arc::new(AtomicBool::new(false));
        let mut options = ConnectOptions::new()
            .name(&self.name)
            .connection_timeout(PATIENCE)
            .request_timeout(Some(PATIENCE))
            .ping_interval(Duration::from_secs(10))
            .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
            .ignore_discovered_servers()
            .max_reconnects(1)
            .reconnect_delay_callback(
                move |_| if connected.swap(true, Ordering::Relaxed) { NEVER } else { Duration::ZERO },
            );
        if let Some((user, password)) = &self.nats.user {
            options = options.user_and_password(user.clone(), password.reveal().to_owned());
        }
        if let Some(path) = &self.nats.credentials {
            options = options.credentials_file(path).await.map_err(|e| format!("{}: {e}", path.display()))?;
        }
        if let Some(tls) = &self.nats.tls {
            options = options.require_tls(true);
            if let Some(ca) = &tls.ca {
                options = options.add_root_certificates(ca.clone());
            }
            if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
                options = options.add_client_certificate(cert.clone(), key.clone());
            }
        }
        Ok(options)
    }
}
