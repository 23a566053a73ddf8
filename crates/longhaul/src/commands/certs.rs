//! `longhaul certs`: a certificate authority and router certificates, for development.

use std::path::PathBuf;

use longhaul_link::certs;

use crate::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name of the mesh.
    #[arg(long)]
    mesh: String,
    /// Region and router, as `region/router`; once for each router.
    #[arg(long = "router", required = true)]
    routers: Vec<String>,
    /// Folder to write into. An authority that is there already is used again.
    #[arg(long, default_value = "certs")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    std::fs::create_dir_all(&arguments.out)
        .map_err(|error| Failure::wrong(format!("{}: {error}", arguments.out.display())))?;
    let ca = authority(&arguments.out, &arguments.mesh)?;
    for router in &arguments.routers {
        let (region, name) =
            router.split_once('/').ok_or_else(|| Failure::Usage(format!("--router {router}: write region/router")))?;
        let pem = certs::make_router(&ca, &arguments.mesh, region, name, &[]).map_err(Failure::wrong)?;
        let files =
            certs::write(&arguments.out, &format!("{region}-{name}"), &ca.cert, &pem).map_err(Failure::wrong)?;
        println!("{}", files.cert.display());
        println!("{}", files.key.display());
    }
    eprintln!("These certificates are for development: the authority's key lies beside them.");
    eprintln!(
        "In production, have your own authority sign a URI name longhaul://<mesh>/<region>/<router> for each router."
    );
    Ok(())
}

/// The authority of a folder, made when there is none.
pub(crate) fn authority(folder: &std::path::Path, mesh: &str) -> Result<certs::Pem, Failure> {
    let (cert, key) = (folder.join("ca.crt"), folder.join("ca.key"));
    if cert.exists() && key.exists() {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| Failure::wrong(format!("{}: {error}", path.display())))
        };
        return Ok(certs::Pem { cert: read(&cert)?, key: read(&key)? });
    }
    let ca = certs::make_ca(mesh).map_err(Failure::wrong)?;
    certs::write_file(&cert, &ca.cert, 0o644).map_err(Failure::wrong)?;
    certs::write_file(&key, &ca.key, 0o600).map_err(Failure::wrong)?;
    Ok(ca)
}
