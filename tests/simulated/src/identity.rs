//! Certificates that are the same in every run: keys from fixed seeds, Ed25519 (whose signatures always have the same length), fixed dates.

use std::{path::Path, sync::Arc};

use longhaul_link::{
    Identity, LinkConfig,
    certs::{self, Pem},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;

/// What stands before the 32 bytes of an Ed25519 key in PKCS #8.
const PKCS8_ED25519: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Name of the mesh.
const MESH: &str = "earth";

fn key(number: u8) -> KeyPair {
    let der: Vec<u8> = PKCS8_ED25519.into_iter().chain([number; 32]).collect();
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_ED25519).unwrap()
}

fn params(usage: KeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.key_usages = vec![usage];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
    params
}

/// The configuration of the only router of a region, with the key of that number.
pub(crate) fn config(folder: &Path, region: &str, key_number: u8, instance: u64) -> LinkConfig {
    let mut authority = params(KeyUsagePurpose::KeyCertSign);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = authority.self_signed(&key(200)).unwrap().pem();
    let issuer = Issuer::from_ca_cert_pem(&ca_cert, key(200)).unwrap();
    let mut router = params(KeyUsagePurpose::DigitalSignature);
    let uri = format!("longhaul://{MESH}/{region}/{region}-1");
    router.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    let own = key(key_number);
    let pem = Pem { cert: router.signed_by(&own, &issuer).unwrap().pem(), key: own.serialize_pem() };
    let files = certs::write(folder, &format!("{region}-{key_number}"), &ca_cert, &pem).unwrap();
    LinkConfig::new(Arc::new(Identity::load(files).unwrap()), instance)
}
