//! The tidy test: rules that reviewers would say twice.

use std::path::Path;
use std::process::Command;

/// Longest source file in lines.
const LINES_MAX: usize = 600;

/// What must stand in no source file, and why. Each is put together here so that this file passes itself.
const BANNED: &[(&[&str], &str)] = &[
    (&["unbounded", "_channel"], "every queue has a bound"),
    (&["to", "do!("], "no stub is called done"),
    (&["unimpl", "emented!("], "no stub is called done"),
    (&["FIX", "ME"], "mend it, or say it in the documentation"),
    (&["assert!(", "true)"], "a test that cannot fail is none"),
    (&["/", "root/"], "no path of some machine"),
    (&["/", "home/"], "no path of some machine"),
];

/// Checks every Rust source that git knows; returns a line for each violation.
///
/// # Errors
/// When git cannot be asked or a file cannot be read.
pub(crate) fn check() -> Result<Vec<String>, String> {
    let output = Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]).output();
    let output = output.map_err(|error| format!("git: {error}"))?;
    let files = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut wrong = Vec::new();
    for file in files.lines().filter(|file| Path::new(file).exists()) {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        wrong.extend(check_file(&text).into_iter().map(|what| format!("{file}: {what}")));
    }
    Ok(wrong)
}

fn check_file(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !text.starts_with("//!") {
        wrong.push("opens without saying what it does (`//!`)".to_owned());
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        wrong.push(format!("has {lines} lines, more than {LINES_MAX}"));
    }
    for (parts, why) in BANNED {
        let needle = parts.concat();
        if let Some(line) = text.lines().position(|line| line.contains(&needle)) {
            wrong.push(format!("line {}: {needle}: {why}", line + 1));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tidy_file_passes_and_an_untidy_one_does_not() {
        assert!(check_file("//! Says what it does.\n").is_empty());
        assert_eq!(check_file("fn main() {}\n").len(), 1);
        let long = "//! Long.\n".to_owned() + &"\n".repeat(LINES_MAX - 1);
        assert!(check_file(&long).is_empty(), "just inside");
        assert_eq!(check_file(&(long + "\n")).len(), 1, "just outside");
        assert_eq!(check_file(&format!("//! x\n{}\n", ["to", "do!(\"\")"].concat())).len(), 1);
    }
}
