//! `longhaul generate`: files made from what the code knows. One file per product; each writes to stdout.

mod schema;

use crate::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// JSON Schema of the mesh document.
    MeshSchema,
    /// JSON Schema of the router document.
    RouterSchema,
}

#[expect(clippy::unnecessary_wraps, reason = "every command ends in the same type")]
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.what {
        What::MeshSchema => schema::mesh(),
        What::RouterSchema => schema::router(),
    }
    Ok(())
}
