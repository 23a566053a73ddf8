//! `longhaul generate`: the JSON Schemas of both documents, from the code that reads them.

use longhaul_config::Kind;

use crate::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to generate.
    #[arg(value_enum)]
    what: What,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// JSON Schema of the mesh document.
    MeshSchema,
    /// JSON Schema of the router document.
    RouterSchema,
}

#[expect(clippy::unnecessary_wraps, reason = "every command ends in the same type")]
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let schema = match arguments.what {
        What::MeshSchema => longhaul_config::schema(Kind::Mesh),
        What::RouterSchema => longhaul_config::schema(Kind::Router),
    };
    println!("{schema}");
    Ok(())
}
