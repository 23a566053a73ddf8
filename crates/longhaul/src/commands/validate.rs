//! `longhaul validate FILE...`: checks documents and says everything that is wrong with them.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use longhaul_config::{Diagnostics, Kind};

use crate::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Mesh or router documents, in any order.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut wrong = 0;
    for file in &arguments.files {
        match check(file) {
            Ok(kind) => println!("{}: a {kind} document, well", file.display()),
            Err(text) => {
                wrong += 1;
                eprint!("{text}");
            }
        }
    }
    if wrong == 0 {
        Ok(())
    } else {
        Err(Failure::Wrong(format!("{wrong} of {} documents are wrong", arguments.files.len())))
    }
}

/// Checks one document; a router document together with the mesh document that it names.
fn check(file: &Path) -> Result<&'static str, String> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}\n", path.display()));
    let text = read(file)?;
    let wrong = |diagnostics: Diagnostics| render(&diagnostics);
    match longhaul_config::document_kind(&text) {
        Some(Kind::Mesh) => longhaul_config::load_mesh(file, &text).map(|_| "Mesh").map_err(wrong),
        Some(Kind::Router) => {
            let env = |name: &str| std::env::var(name).ok();
            let file_text = |path: &Path| std::fs::read_to_string(path);
            let router = longhaul_config::load_router(file, &text, &env, &file_text).map_err(wrong)?;
            let mesh = longhaul_config::load_mesh(&router.mesh, &read(&router.mesh)?).map_err(wrong)?;
            longhaul_config::check_pair_in(file, &text, &router, &mesh).map(|()| "Router").map_err(wrong)
        }
        None => Err(format!("{}: neither a Mesh nor a Router: the key `kind` must say which\n", file.display())),
    }
}

/// Diagnostics for people: with colour on a terminal unless NO_COLOR is set.
pub(crate) fn render(diagnostics: &Diagnostics) -> String {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    diagnostics.render(colour)
}
