//! The planted faults still fit the code that they are made for.

use std::path::Path;
use std::process::Command;

#[test]
fn every_planted_fault_still_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let patches: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "patch")).collect();
    assert!(patches.len() >= 30, "{} planted faults", patches.len());
    for patch in patches {
        let checked = Command::new("git").current_dir(&root).args(["apply", "--check"]).arg(&patch).output().unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{}: {said}; make it anew", patch.display());
    }
}
