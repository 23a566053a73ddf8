//! What the image is made of, as CycloneDX 1.5: the crates that the binary is linked with, as Cargo.lock has them, and the Debian packages
//! of the libraries beside it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{output, write as write_text};

/// Writes the list for a root folder. Returns how many components it has.
pub(super) fn write(root: &Path, version: &str, path: &Path) -> Result<usize, String> {
    let components: Vec<Value> = crates()?.into_iter().chain(packages(root)?).collect();
    let count = components.len();
    let sbom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "longhaul", "version": version}},
        "components": components,
    });
    write_text(path, &format!("{sbom:#}\n"))?;
    Ok(count)
}

/// Every crate that the command is linked with, once.
fn crates() -> Result<Vec<Value>, String> {
    let mut command = Command::new("cargo");
    command.args(["tree", "--locked", "--package", "longhaul", "--edges", "normal", "--prefix", "none"]);
    let said = output(command.args(["--format", "{p}|{l}"]))?;
    let lines: BTreeSet<&str> = said.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    Ok(lines.into_iter().filter_map(crate_component).collect())
}

/// Of a line `NAME vVERSION (PATH OR REMARK)|LICENCE`.
fn crate_component(line: &str) -> Option<Value> {
    let (package, licence) = line.split_once('|')?;
    let mut words = package.split_whitespace();
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some(json!({
        "type": "library",
        "name": name,
        "version": version,
        "purl": format!("pkg:cargo/{name}@{version}"),
        "licenses": [{"expression": licence}],
    }))
}

/// The Debian package of every library in the root folder, and of the list of authorities.
fn packages(root: &Path) -> Result<Vec<Value>, String> {
    let found = output(Command::new("find").arg(root).args(["-name", "*.so*", "-type", "f", "-printf", "%f\n"]))?;
    let mut names = BTreeSet::from(["ca-certificates".to_owned()]);
    for library in found.lines() {
        let said = output(Command::new("dpkg").arg("--search").arg(format!("*/{library}")))?;
        let owner = said.lines().next().and_then(|line| line.split(':').next());
        names.insert(owner.ok_or_else(|| format!("{library} belongs to no package"))?.to_owned());
    }
    names.iter().map(|name| package_component(name)).collect()
}

fn package_component(name: &str) -> Result<Value, String> {
    let said = output(Command::new("dpkg-query").args(["--show", "--showformat=${Version} ${Architecture}\n", name]))?;
    let mut words = said.split_whitespace();
    let (version, architecture) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let purl = format!("pkg:deb/debian/{name}@{version}?arch={architecture}");
    Ok(json!({"type": "library", "name": name, "version": version, "purl": purl}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_tree_is_a_component() {
        let component = crate_component("quinn v0.11.12|MIT OR Apache-2.0").expect("a component");
        assert_eq!(component["purl"], "pkg:cargo/quinn@0.11.12");
        assert_eq!(component["licenses"][0]["expression"], "MIT OR Apache-2.0");
        let ours = crate_component("longhaul v0.1.0 (/somewhere/longhaul)|Apache-2.0").expect("a component");
        assert_eq!((&ours["name"], &ours["version"]), (&json!("longhaul"), &json!("0.1.0")));
        assert_eq!(crate_component("nothing of the kind"), None);
    }
}
