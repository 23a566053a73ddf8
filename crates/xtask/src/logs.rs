//! The log test: every field of a log line has its row in `docs/logs.md`, so that whoever searches logs can rely on the names.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const TABLE: &str = "docs/logs.md";
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Compares the fields of all log lines of the product with the table; returns a line for each that is missing on either side.
///
/// # Errors
/// When git cannot be asked or a file cannot be read.
pub(crate) fn check() -> Result<Vec<String>, String> {
    let table = std::fs::read_to_string(TABLE).map_err(|error| format!("{TABLE}: {error}"))?;
    let known: BTreeSet<&str> = table.lines().filter_map(row).collect();
    let sources = ["ls-files", "--cached", "--others", "--exclude-standard", "crates/*/src/*.rs"];
    let output = Command::new("git").args(sources).output().map_err(|error| format!("git: {error}"))?;
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for file in String::from_utf8_lossy(&output.stdout).lines().filter(|file| Path::new(file).exists()) {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        // Tests say what they like.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        if !file.starts_with("crates/xtask/") && !file.contains("/tests") {
            used.extend(fields(text).into_iter().map(|field| (field, file.to_owned())));
        }
    }
    let missing = used.iter().filter(|(field, _)| !known.contains(field.as_str()));
    wrong.extend(missing.map(|(field, file)| format!("{file}: the log field `{field}` has no row in {TABLE}")));
    let is_used = |name: &&str| used.iter().any(|(field, _)| field == name);
    let unused = known.iter().filter(|name| !is_used(name));
    wrong.extend(unused.map(|name| format!("{TABLE}: no log line has the field `{name}`")));
    Ok(wrong)
}

/// The field that a row of the table is about: what it opens with, between backticks. The rows of every line stand in a table of their
/// own, marked by a name in bold.
fn row(line: &str) -> Option<&str> {
    line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name)
}

/// The names of the fields of every log line in a source text.
fn fields(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("tracing::") {
        let rest = &text[at + "tracing::".len()..];
        let Some(body) = LEVELS.iter().find_map(|level| rest.strip_prefix(level)?.strip_prefix("!(")) else { continue };
        found.extend(parts(body).iter().filter_map(|part| field(part)));
    }
    found
}

/// The arguments of a macro, split at commas, up to its closing parenthesis.
fn parts(body: &str) -> Vec<String> {
    let (mut parts, mut depth, mut in_text, mut escaped) = (vec![String::new()], 0, false, false);
    for c in body.chars() {
        match c {
            '"' if !escaped => in_text = !in_text,
            '(' | '[' | '{' if !in_text => depth += 1,
            ')' | ']' | '}' if !in_text && depth == 0 => break,
            ')' | ']' | '}' if !in_text => depth -= 1,
            ',' if !in_text && depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

/// The name of the field that an argument is: `name = value`, `%name`, `?name`, `a.name` or `name`; the message is none.
fn field(part: &str) -> Option<String> {
    let part = part.trim().trim_start_matches(['%', '?']);
    if part.is_empty() || part.starts_with('"') {
        return None;
    }
    let name = part.split_once('=').map_or(part, |(name, _)| name).trim();
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_naming_a_field_is_read() {
        let text = [
            "tracing",
            "::warn!(a, %b, ?c, d = f(x, \"y, z\"), e.f = 1, \"a line, with = and (\"); tracing",
            "::info!(\"none\")",
        ]
        .concat();
        assert_eq!(fields(&text).into_iter().collect::<Vec<_>>(), ["a", "b", "c", "d", "e.f"]);
        assert!(fields("tracing::Level::INFO, x = 1").is_empty());
    }

    #[test]
    fn rows_are_told_from_text() {
        assert_eq!(row("| `route` | its name |"), Some("route"));
        assert_eq!(row("| **`level`** | how bad |"), None);
        assert_eq!(row("`route` is"), None);
    }
}
