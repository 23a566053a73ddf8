//! Who this router is: its certificate, its key, the CA of its mesh, and the TLS configurations made of them.
//!
//! TLS 1.3 only, mutual, ALPN `longhaul/1`: it stands for the form of the Hello, in which versions are told. Resumption and 0-RTT are off on
//! both sides: with resumption a revoked peer would be let in again without the verifier being asked. What is read anew holds from the next
//! handshake on, and every link that stands judges its peer once more by it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::sync::watch;
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use crate::{
    error::{CertificateFault, IdentityError},
    verify::{Expected, PeerVerifier},
};

pub(crate) const ALPN: &[u8] = b"longhaul/1";
const SCHEME: &str = "longhaul://";

/// Where the PEM files of a router are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, with intermediates behind it where there are any.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CA certificates of the mesh; several while one is replaced by another.
    pub ca: PathBuf,
    /// What those CAs have revoked, one list after the other; its dates are not looked at, since an old list is better than none.
    pub crl: Option<PathBuf>,
}

/// Which router a certificate names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouterName {
    /// The mesh.
    pub mesh: String,
    /// The region.
    pub region: String,
    /// The router.
    pub router: String,
}

/// The identity of this router, shared by all its endpoints.
pub struct Identity {
    current: watch::Sender<Arc<Loaded>>,
}

/// A reading of the files that is good, and not in force yet.
pub struct Fresh(Arc<Loaded>);

/// Tells of another identity coming into force.
pub struct IdentityWatch(watch::Receiver<Arc<Loaded>>);

/// One reading of the files.
pub(crate) struct Loaded {
    pub(crate) name: RouterName,
    pub(crate) expiry: SystemTime,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
    /// Judges servers by a DNS name too, which is not looked at.
    pub(crate) servers: Arc<WebPkiServerVerifier>,
    files: TlsFiles,
    certified: Arc<CertifiedKey>,
    key_der: Vec<u8>,
    /// Of the content of all files.
    digest: [u8; 32],
}

impl Identity {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// [`IdentityError`], a sentence that names the file.
    pub fn load(files: TlsFiles) -> Result<Self, IdentityError> {
        Ok(Self { current: watch::Sender::new(Arc::new(Loaded::read(files)?)) })
    }

    /// Reads the same files again and puts what they say in force.
    ///
    /// # Errors
    /// [`IdentityError`]; the identity stays what it was.
    pub fn reload(&self) -> Result<(), IdentityError> {
        self.install(Fresh::read(self.files())?);
        Ok(())
    }

    /// Puts a reading in force: the next handshake uses it, and links that stand judge their peers by it. Returns whether it is another
    /// one than before; if not, nobody hears of it.
    pub fn install(&self, fresh: Fresh) -> bool {
        self.current.send_if_modified(|current| {
            let differs = current.digest != fresh.0.digest;
            *current = fresh.0;
            differs
        })
    }

    /// Tells of every change from now on.
    #[must_use]
    pub fn watch(&self) -> IdentityWatch {
        IdentityWatch(self.current.subscribe())
    }

    /// Which router the certificate names.
    #[must_use]
    pub fn name(&self) -> RouterName {
        self.current().name.clone()
    }

    /// When the certificate ends.
    #[must_use]
    pub fn expiry(&self) -> SystemTime {
        self.current().expiry
    }

    /// The files that it was read from.
    #[must_use]
    pub fn files(&self) -> TlsFiles {
        self.current().files.clone()
    }

    pub(crate) fn current(&self) -> Arc<Loaded> {
        self.current.borrow().clone()
    }
}

impl Fresh {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// [`IdentityError`], a sentence that names the file.
    pub fn read(files: TlsFiles) -> Result<Self, IdentityError> {
        Ok(Self(Arc::new(Loaded::read(files)?)))
    }

    /// Which router the certificate names.
    #[must_use]
    pub fn name(&self) -> &RouterName {
        &self.0.name
    }
}

impl IdentityWatch {
    /// Waits for another identity to come into force; for ever when there will be none. Cancel safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn current(&mut self) -> Arc<Loaded> {
        self.0.borrow_and_update().clone()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("name", &self.name()).field("files", &self.files()).finish_non_exhaustive()
    }
}

impl Loaded {
    fn read(files: TlsFiles) -> Result<Self, IdentityError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let texts = Texts::read(&files)?;
        let chain = certificates("certificate", &files.cert, &texts.cert)?;
        let (name, expiry) = inspect(&chain[0])
            .map_err(|fault| IdentityError::Name { path: files.cert.display().to_string(), fault })?;
        let key =
            PrivateKeyDer::from_pem_slice(&texts.key).map_err(|error| content("key", &files.key, error.to_string()))?;
        let unusable = |text: String| IdentityError::Unusable { path: files.cert.display().to_string(), text };
        let certified =
            CertifiedKey::from_der(chain, key.clone_key(), &provider).map_err(|error| unusable(error.to_string()))?;
        certified.keys_match().map_err(|error| unusable(error.to_string()))?;
        let roots = Arc::new(roots(&files.ca, &texts.ca)?);
        let crls = files.crl.as_ref().map_or(Ok(Vec::new()), |path| revocations(path, &texts.crl))?;
        // A list that cannot be used was read as one: what is wrong with it shows here.
        let (what, path) = files.crl.as_ref().map_or(("CA", &files.ca), |crl| ("revocation list", crl));
        let refused = |error: &dyn std::fmt::Display| content(what, path, error.to_string());
        // A list says something of its own CA only: certificates of the others stay good.
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .with_crls(crls.clone())
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| refused(&error))?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .with_crls(crls)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| refused(&error))?;
        let (key_der, digest) = (key.secret_der().to_vec(), texts.digest());
        Ok(Self { name, expiry, provider, clients, servers, files, certified: Arc::new(certified), key_der, digest })
    }

    /// Secrets that stay the same as long as the key does: an HMAC of a label under the key.
    pub(crate) fn derive(&self, label: &str) -> aws_lc_rs::hmac::Tag {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &self.key_der);
        aws_lc_rs::hmac::sign(&key, label.as_bytes())
    }

    /// TLS for dialling a router of a region. What the verifier finds is left in the returned slot.
    pub(crate) fn client(&self, region: &str) -> Result<(QuicClientConfig, Arc<PeerVerifier>), String> {
        let expected = Expected { mesh: self.name.mesh.clone(), region: Some(region.to_owned()) };
        let verifier = Arc::new(PeerVerifier::new(self, expected));
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        Ok((QuicClientConfig::try_from(config).map_err(|error| error.to_string())?, verifier))
    }

    /// TLS for one incoming connection. What the verifier finds is left in the returned slot.
    pub(crate) fn server(&self) -> Result<(QuicServerConfig, Arc<PeerVerifier>), String> {
        let expected = Expected { mesh: self.name.mesh.clone(), region: None };
        let verifier = Arc::new(PeerVerifier::new(self, expected));
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok((QuicServerConfig::try_from(config).map_err(|error| error.to_string())?, verifier))
    }
}

/// The name and the end of a certificate.
pub(crate) fn inspect(der: &[u8]) -> Result<(RouterName, SystemTime), CertificateFault> {
    let other = |text: String| CertificateFault::Other(text);
    let (_, certificate) =
        x509_parser::certificate::X509Certificate::from_der(der).map_err(|error| other(error.to_string()))?;
    let names = certificate.subject_alternative_name().map_err(|error| other(error.to_string()))?;
    let mut ours = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => uri.starts_with(SCHEME).then_some(*uri),
        _ => None,
    });
    let uri = ours.next().ok_or(CertificateFault::NoName)?;
    if ours.next().is_some() {
        return Err(CertificateFault::ManyNames);
    }
    let name = parse_name(uri).ok_or_else(|| CertificateFault::BadName(uri.to_owned()))?;
    // Valid through the whole of its last second, as webpki sees it too.
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).map_or(0, |last| last.saturating_add(1));
    let expiry = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
    Ok((name, expiry))
}

/// The URI name of a router's certificate.
pub(crate) fn uri(name: &RouterName) -> String {
    format!("{SCHEME}{}/{}/{}", name.mesh, name.region, name.router)
}

fn parse_name(uri: &str) -> Option<RouterName> {
    let mut parts = uri.strip_prefix(SCHEME)?.split('/');
    let mut part = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
    let name = RouterName { mesh: part()?, region: part()?, router: part()? };
    parts.next().is_none().then_some(name)
}

/// What the files hold.
struct Texts {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
    crl: Vec<u8>,
}

impl Texts {
    fn read(files: &TlsFiles) -> Result<Self, IdentityError> {
        let cert = read("certificate", &files.cert)?;
        let (key, ca) = (read("key", &files.key)?, read("CA", &files.ca)?);
        let crl = files.crl.as_ref().map_or(Ok(Vec::new()), |path| read("revocation list", path))?;
        Ok(Self { cert, key, ca, crl })
    }

    fn digest(&self) -> [u8; 32] {
        let mut all = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for text in [&self.cert, &self.key, &self.ca, &self.crl] {
            all.update(&text.len().to_le_bytes());
            all.update(text);
        }
        all.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

fn certificates(what: &'static str, path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let chain = chain.map_err(|error| content(what, path, error.to_string()))?;
    if chain.is_empty() { Err(content(what, path, "no PEM section CERTIFICATE".into())) } else { Ok(chain) }
}

fn roots(path: &Path, text: &[u8]) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA", path, text)? {
        roots.add(certificate).map_err(|error| content("CA", path, error.to_string()))?;
    }
    Ok(roots)
}

/// The lists of a file. None at all is refused: a file that was cut short must not let everybody in again.
fn revocations(path: &Path, text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, IdentityError> {
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text).collect();
    let lists = lists.map_err(|error| content("revocation list", path, error.to_string()))?;
    if lists.is_empty() { Err(content("revocation list", path, "no PEM section X509 CRL".into())) } else { Ok(lists) }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|error| IdentityError::Read {
        what,
        path: path.display().to_string(),
        text: error.to_string(),
    })
}

fn content(what: &'static str, path: &Path, text: String) -> IdentityError {
    IdentityError::Content { what, path: path.display().to_string(), text }
}
