//! Certificates that were good and are not any more: revoked, or of a CA that was replaced. Who holds one is let in no more, and a link that
//! stands with one is cut at the next reading of the files.

use std::{sync::Arc, time::Duration};

use longhaul_link::{CertificateFault, Identity, LinkConfig, LinkError, TlsFiles, certs};

use crate::support::{Mesh, listen, meet, within};

/// How soon a listener cuts a link that stands.
const SOON: Duration = Duration::from_secs(2);
/// A dialler has ten seconds to make another link first.
const RENEWED: Duration = Duration::from_secs(12);

/// The files of a router that has revoked those certificates.
fn revoking(mesh: &Mesh, region: &str, router: &str, number: u64, revoked: &[&TlsFiles]) -> TlsFiles {
    let files = mesh.write(router, &mesh.cert(region, router), &mesh.ca);
    let crl = files.cert.with_extension("crl");
    write_list(mesh, &crl, number, revoked);
    TlsFiles { crl: Some(crl), ..files }
}

fn write_list(mesh: &Mesh, path: &std::path::Path, number: u64, revoked: &[&TlsFiles]) {
    let pems: Vec<_> = revoked.iter().map(|files| std::fs::read_to_string(&files.cert).unwrap()).collect();
    let pems: Vec<_> = pems.iter().map(String::as_str).collect();
    std::fs::write(path, certs::make_crl(&mesh.ca, number, &pems).unwrap()).unwrap();
}

fn config(files: TlsFiles) -> LinkConfig {
    LinkConfig::new(Arc::new(Identity::load(files).unwrap()), 1)
}

fn fault(error: &LinkError) -> &CertificateFault {
    let LinkError::Certificate(fault) = error.cause() else { panic!("{error:?}") };
    fault
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_certificates_are_refused_at_both_ends_and_others_are_not() {
    let mesh = Mesh::new("earth");
    let (eu, us) = (mesh.config("eu", "eu-1"), mesh.config("us", "us-1"));
    // The listener has revoked the dialler.
    let (mut listener, _) = listen(&config(revoking(&mesh, "us", "us-2", 1, &[&eu.identity.files()])));
    let (out, incoming) = meet(&eu, "us", &mut listener).await;
    assert_eq!(fault(&incoming.err().unwrap()), &CertificateFault::Revoked);
    assert!(out.is_err());
    let (out, incoming) = meet(&mesh.config("eu", "eu-9"), "us", &mut listener).await;
    assert!(out.is_ok() && incoming.is_ok(), "whoever is not on the list comes in");
    // The dialler has revoked the listener.
    let (mut listener, _) = listen(&us);
    let dialling = config(revoking(&mesh, "eu", "eu-2", 1, &[&us.identity.files()]));
    let (out, _) = meet(&dialling, "us", &mut listener).await;
    assert_eq!(fault(&out.err().unwrap()), &CertificateFault::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_stands_is_cut_when_either_end_revokes_the_other() {
    let mesh = Mesh::new("earth");
    for dialler_revokes in [false, true] {
        let eu = config(revoking(&mesh, "eu", "eu-1", 1, &[]));
        let us = config(revoking(&mesh, "us", "us-1", 1, &[]));
        let (mut listener, _) = listen(&us);
        let (out, incoming) = meet(&eu, "us", &mut listener).await;
        let (out, (sender, mut receiver)) = (out.unwrap(), incoming.unwrap().split());
        let (who, whom) = if dialler_revokes { (&eu, &us) } else { (&us, &eu) };
        // A list without it leaves the link alone.
        write_list(&mesh, who.identity.files().crl.as_ref().unwrap(), 2, &[]);
        who.identity.reload().unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!out.is_closed() && !sender.is_closed());
        write_list(&mesh, who.identity.files().crl.as_ref().unwrap(), 3, &[&whom.identity.files()]);
        who.identity.reload().unwrap();
        let ended = if dialler_revokes { out.closed() } else { sender.closed() };
        let patience = if dialler_revokes { RENEWED } else { SOON };
        assert_eq!(fault(&tokio::time::timeout(patience, ended).await.unwrap()), &CertificateFault::Revoked);
        let told =
            if dialler_revokes { within(receiver.recv()).await.unwrap_err() } else { within(out.closed()).await };
        assert!(matches!(&told, LinkError::ClosedByPeer { code: 0x15, text } if text.contains("revoked")), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_ca_cuts_whom_it_did_not_make_and_both_together_nobody() {
    let mesh = Mesh::new("earth");
    let (eu, us) = (mesh.config("eu", "eu-1"), mesh.config("us", "us-1"));
    let (mut listener, _) = listen(&us);
    let (out, _incoming) = meet(&eu, "us", &mut listener).await;
    let out = out.unwrap();
    let next = certs::make_ca("earth").unwrap();
    let both = format!("{}{}", mesh.ca.cert, next.cert);
    std::fs::write(us.identity.files().ca, both).unwrap();
    us.identity.reload().unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!out.is_closed(), "the old CA is still good");
    std::fs::write(us.identity.files().ca, &next.cert).unwrap();
    us.identity.reload().unwrap();
    let told = tokio::time::timeout(SOON, out.closed()).await.unwrap();
    assert!(
        matches!(&told, LinkError::ClosedByPeer { code: 0x15, text } if text.contains("CA of this mesh")),
        "{told}"
    );
}

#[test]
fn a_list_that_is_none_is_refused_and_what_was_stays() {
    let mesh = Mesh::new("earth");
    let us = config(revoking(&mesh, "us", "us-1", 1, &[]));
    let crl = us.identity.files().crl.unwrap();
    for content in ["", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "nothing"] {
        std::fs::write(&crl, content).unwrap();
        let error = us.identity.reload().unwrap_err().to_string();
        assert!(error.contains("revocation list") && error.contains("us-1.crl"), "{content:?}: {error}");
    }
    std::fs::remove_file(&crl).unwrap();
    assert!(us.identity.reload().unwrap_err().to_string().contains("cannot read revocation list"));
}

#[test]
fn only_another_content_is_a_change() {
    let mesh = Mesh::new("earth");
    let us = config(revoking(&mesh, "us", "us-1", 1, &[]));
    let read = || longhaul_link::Fresh::read(us.identity.files()).unwrap();
    assert!(!us.identity.install(read()), "the same files");
    write_list(&mesh, &us.identity.files().crl.unwrap(), 2, &[]);
    assert!(us.identity.install(read()));
    assert!(!us.identity.install(read()));
}
