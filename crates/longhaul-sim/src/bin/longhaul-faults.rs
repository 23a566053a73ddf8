//! Proof that the simulator bites: plants each fault of `faults/` into a copy of the pure crates, builds it, runs seeds until one is
//! caught, and prints a table. Ends with 1 when too few are caught. Names as arguments plant only those that contain one of them.

#![expect(clippy::print_stdout, reason = "a command prints what was asked for")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Seeds that a planted fault may survive.
const SEEDS: &str = "10000";
/// A fault that makes the simulator hang is caught as well.
const SECONDS_MAX: &str = "300";
/// How many may stay uncaught, explained in their files.
const UNCAUGHT_MAX: usize = 2;
const CRATES: [&str; 7] = [
    "longhaul-topic",
    "longhaul-event",
    "longhaul-topology",
    "longhaul-route",
    "longhaul-wire",
    "longhaul-flow",
    "longhaul-sim",
];

fn main() -> ExitCode {
    let only: Vec<String> = std::env::args().skip(1).collect();
    match plant_all(&only) {
        Ok(uncaught) if uncaught <= UNCAUGHT_MAX => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("longhaul-faults: {text}");
            ExitCode::FAILURE
        }
    }
}

fn plant_all(only: &[String]) -> Result<usize, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let copy = target.join("planted");
    copy_workspace(&root, &copy)?;
    let wanted = |path: &Path| only.is_empty() || only.iter().any(|only| name(path).contains(only));
    let mut patches: Vec<PathBuf> = fs::read_dir(root.join("crates/longhaul-sim/faults"))
        .map_err(|error| format!("the folder of faults: {error}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch") && wanted(path))
        .collect();
    patches.sort();
    let as_it_is = run(&copy, &target)?;
    if let Some(violation) = as_it_is {
        return Err(format!("without any fault: {violation}"));
    }
    let mut uncaught = 0;
    println!("| fault | caught after | by |\n| --- | --- | --- |");
    for patch in &patches {
        apply(&copy, patch, &[])?;
        let outcome = run(&copy, &target);
        apply(&copy, patch, &["-R"])?;
        match outcome? {
            Some(violation) => println!("| {} | {violation} |", name(patch)),
            None => {
                uncaught += 1;
                println!("| {} | **not**, in {SEEDS} seeds | {} |", name(patch), explanation(patch)?);
            }
        }
    }
    println!("\n{} of {} caught", patches.len() - uncaught, patches.len());
    Ok(uncaught)
}

fn name(patch: &Path) -> String {
    patch.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What stands before the patch itself.
fn explanation(patch: &Path) -> Result<String, String> {
    let text = fs::read_to_string(patch).map_err(|error| format!("{}: {error}", patch.display()))?;
    Ok(text.lines().take_while(|line| !line.starts_with("diff ")).collect::<Vec<_>>().join(" "))
}

/// The pure crates and the simulator as a workspace of their own.
fn copy_workspace(root: &Path, copy: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("copying the workspace: {error}");
    let crates = copy.join("crates");
    if crates.exists() {
        fs::remove_dir_all(&crates).map_err(failed)?;
    }
    for name in CRATES {
        copy_folder(&root.join("crates").join(name), &crates.join(name)).map_err(failed)?;
    }
    fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock")).map_err(failed)?;
    let manifest = fs::read_to_string(root.join("Cargo.toml")).map_err(failed)?;
    let members = |line: &str| {
        if line.starts_with("members = ") { "members = [\"crates/*\"]".to_owned() } else { line.to_owned() }
    };
    let manifest: Vec<String> = manifest.lines().map(members).collect();
    fs::write(copy.join("Cargo.toml"), manifest.join("\n")).map_err(failed)
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn apply(copy: &Path, patch: &Path, how: &[&str]) -> Result<(), String> {
    let mut git = Command::new("git");
    // The copy lies inside of a repository, which is none of its business.
    let ceiling = copy.parent().unwrap_or(copy);
    let done = git.current_dir(copy).env("GIT_CEILING_DIRECTORIES", ceiling).arg("apply").args(how).arg(patch).status();
    match done {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} does not apply: {status}", patch.display())),
        Err(error) => Err(format!("git: {error}")),
    }
}

/// Builds and runs the copy; says what was caught, after how many seeds.
fn run(copy: &Path, target: &Path) -> Result<Option<String>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = target.join("planted/target");
    let build = Command::new(cargo)
        .current_dir(copy)
        .args([
            "build",
            "--quiet",
            "--offline",
            "--profile",
            "sim",
            "--package",
            "longhaul-sim",
            "--bin",
            "longhaul-sim",
        ])
        .arg("--target-dir")
        .arg(&built)
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if !build.success() {
        return Err("a planted fault does not build".to_owned());
    }
    let output = Command::new("timeout")
        .arg(SECONDS_MAX)
        .arg(built.join("sim/longhaul-sim"))
        .args(["--quiet", "--seeds", SEEDS])
        .output()
        .map_err(|error| format!("timeout: {error}"))?;
    if output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().find_map(|line| line.split_once("after ")).map(|(_, said)| said.replacen(": ", " | ", 1));
    Ok(Some(said.unwrap_or_else(|| "? | it hangs or dies".to_owned())))
}
