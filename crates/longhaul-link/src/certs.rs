//! A development CA and certificates of routers, for trying things out and for tests. Production brings its own PKI.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::FromDer;

use crate::tls::{RouterName, TlsFiles, uri};

/// How long a CA made here is valid.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a router's certificate made here is valid, if nothing else is asked for.
const ROUTER_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clocks of two machines may differ.
const BACKDATED: Duration = Duration::from_secs(300);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A name that cannot stand in a certificate, or a CA that cannot sign.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A name with a character that the URI name has no room for.
    #[error(
        "{0:?} cannot be the name of a mesh, region or router in a certificate: only letters, digits, '-', '_' and '.'"
    )]
    Name(String),
    /// A file.
    #[error("cannot write {path}: {error}")]
    Write {
        /// Which.
        path: String,
        /// What the system says.
        error: io::Error,
    },
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Pem {
    /// The certificate.
    pub cert: String,
    /// The key.
    pub key: String,
}

/// What a router's certificate shall say.
#[derive(Debug, Clone)]
pub struct RouterCert {
    /// Its URI names; one for a proper certificate.
    pub uris: Vec<String>,
    /// DNS names and IP addresses; the link does not look at them.
    pub names: Vec<String>,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

impl RouterCert {
    /// A certificate for a router, valid for a year from now.
    ///
    /// # Errors
    /// [`CertsError::Name`].
    pub fn new(mesh: &str, region: &str, router: &str, names: &[String]) -> Result<Self, CertsError> {
        for name in [mesh, region, router] {
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
                return Err(CertsError::Name(name.to_owned()));
            }
        }
        let name = RouterName { mesh: mesh.to_owned(), region: region.to_owned(), router: router.to_owned() };
        let now = SystemTime::now();
        let (not_before, not_after) = (now - BACKDATED, now + ROUTER_LIFE);
        Ok(Self { uris: vec![uri(&name)], names: names.to_vec(), not_before, not_after })
    }
}

/// Makes a CA for a mesh.
///
/// # Errors
/// [`CertsError::Make`].
pub fn make_ca(mesh: &str) -> Result<Pem, CertsError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, format!("Longhaul development CA of {mesh}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (SystemTime::now() - BACKDATED).into();
    params.not_after = (SystemTime::now() + CA_LIFE).into();
    Ok(Pem { cert: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// Makes the certificate of a router, signed by a CA.
///
/// # Errors
/// [`CertsError`].
pub fn make_router(ca: &Pem, mesh: &str, region: &str, router: &str, names: &[String]) -> Result<Pem, CertsError> {
    make(ca, &RouterCert::new(mesh, region, router, names)?)
}

/// Makes a certificate that says exactly what is asked for, also what no link accepts.
///
/// # Errors
/// [`CertsError`].
pub fn make(ca: &Pem, wanted: &RouterCert) -> Result<Pem, CertsError> {
    let issuer = Issuer::from_ca_cert_pem(&ca.cert, KeyPair::from_pem(&ca.key)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(wanted.names.clone())?;
    for uri in &wanted.uris {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
    }
    params.distinguished_name.push(DnType::CommonName, "Longhaul router");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = wanted.not_before.into();
    params.not_after = wanted.not_after.into();
    Ok(Pem { cert: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

/// Makes a list of what a CA has revoked: certificates that it made, as PEM. `number` rises with every list.
///
/// # Errors
/// [`CertsError`].
pub fn make_crl(ca: &Pem, number: u64, revoked: &[&str]) -> Result<String, CertsError> {
    let issuer = Issuer::from_ca_cert_pem(&ca.cert, KeyPair::from_pem(&ca.key)?)?;
    let now = SystemTime::now();
    let revoked_certs = revoked.iter().map(|pem| {
        Ok(RevokedCertParams {
            serial_number: serial(pem)?,
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        })
    });
    let params = CertificateRevocationListParams {
        this_update: (now - BACKDATED).into(),
        next_update: (now + ROUTER_LIFE).into(),
        crl_number: number.into(),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect::<Result<_, CertsError>>()?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(&issuer)?.pem()?)
}

fn serial(pem: &str) -> Result<SerialNumber, CertsError> {
    let unreadable = || CertsError::Make(rcgen::Error::CouldNotParseCertificate);
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| unreadable())?;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&der).map_err(|_| unreadable())?;
    Ok(SerialNumber::from_slice(certificate.raw_serial()))
}

/// Writes `ca.crt` (the certificate of the CA), `<stem>.crt` and `<stem>.key` into a folder; keys are for their owner's eyes only.
///
/// # Errors
/// [`CertsError::Write`].
pub fn write(folder: &Path, stem: &str, ca_cert: &str, router: &Pem) -> Result<TlsFiles, CertsError> {
    let files = TlsFiles {
        cert: folder.join(format!("{stem}.crt")),
        key: folder.join(format!("{stem}.key")),
        ca: folder.join("ca.crt"),
        crl: None,
    };
    write_file(&files.cert, &router.cert, 0o644)?;
    write_file(&files.key, &router.key, 0o600)?;
    write_file(&files.ca, ca_cert, 0o644)?;
    Ok(files)
}

/// Writes one PEM file with that mode, a key with 0o600. The file is replaced whole.
///
/// # Errors
/// [`CertsError::Write`].
pub fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    let failed = |error| CertsError::Write { path: path.display().to_string(), error };
    let fresh = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options.open(&fresh).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)?;
    std::fs::rename(&fresh, path).map_err(failed)
}
