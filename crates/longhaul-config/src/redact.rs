//! Secrets out of sight: in URLs, and in the text of a document before any of it is shown.
//!
//! A masked text is as long as it was, byte for byte and line for line, so that places in it stay right. Masking errs on the
//! side of too much: of a document that cannot be parsed, everything after a key that may hold a secret is hidden, down to the
//! next line that is not further in.

use crate::report::Span;
use crate::yaml::{Node, Value};

/// Keys whose values are secret wherever they stand.
const SECRET_KEYS: [&str; 8] = ["password", "token", "uri", "secret", "passphrase", "private_key", "credential", "jwt"];

/// Whether a key holds a secret: `sasl.password` among librdkafka's options does, too.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key != "credentials" && (SECRET_KEYS.iter().any(|secret| key.contains(secret)) || key == "ssl.key.pem")
}

/// A URL without its password: `amqp://user:***@host`. Text that is no URL stays as it is.
#[must_use]
pub fn mask_url(url: &str) -> String {
    let mut masked = url.to_owned();
    for Span { start, end } in passwords(url).into_iter().rev() {
        masked.replace_range(start..end, "***");
    }
    masked
}

/// A text with the passwords of all URLs in it masked, as it may go into a log.
#[must_use]
pub fn mask_text(text: &str) -> String {
    mask_url(text)
}

/// The passwords in the URLs of a text: what stands between `://user:` and the last `@` before the URL ends.
fn passwords(text: &str) -> Vec<Span> {
    let mut found = Vec::new();
    for (scheme, _) in text.match_indices("://") {
        let start = scheme + 3;
        let rest = &text[start..];
        let end =
            rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '<' | '>')).unwrap_or(rest.len());
        let Some(at) = rest[..end].rfind('@') else { continue };
        if let Some(colon) = rest[..at].find(':') {
            found.push(Span { start: start + colon + 1, end: start + at });
        }
    }
    found
}

/// The text of a document as it may be shown. `root` is its tree, when it could be parsed.
pub(crate) fn mask_document(text: &str, root: Option<&Node>) -> String {
    let mut spans = passwords(text);
    match root {
        Some(root) => secrets_of_tree(root, false, &mut spans),
        None => secrets_of_lines(text, &mut spans),
    }
    let mut masked = text.as_bytes().to_vec();
    for span in spans {
        let end = span.end.min(masked.len());
        if span.start < end {
            masked[span.start..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b'*');
        }
    }
    for Span { start, end } in placeholders(text) {
        masked[start..end].copy_from_slice(&text.as_bytes()[start..end]);
    }
    // Spans begin and end between characters; should one not, nothing is shown rather than something wrong.
    String::from_utf8(masked).unwrap_or_else(|_| String::new())
}

/// `${env:NAME}` and `${file:PATH}`: these stand for a secret and are none.
fn placeholders(text: &str) -> Vec<Span> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let mut found = Vec::new();
    for (start, _) in text.match_indices("${").filter(|(at, _)| !text[..*at].ends_with('$')) {
        let inside = &text[start + 2..];
        let Some(name) = inside.strip_prefix("env:").or_else(|| inside.strip_prefix("file:")) else { continue };
        let after = name.trim_start_matches(plain);
        if after.starts_with('}') {
            found.push(Span { start, end: text.len() - after.len() + 1 });
        }
    }
    found
}

fn secrets_of_tree(node: &Node, secret: bool, spans: &mut Vec<Span>) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| secrets_of_tree(item, secret, spans)),
        Value::Map(entries) => {
            entries.iter().for_each(|(key, value)| secrets_of_tree(value, secret || is_secret(&key.name), spans));
        }
        Value::Null | Value::Wrong | Value::Bool(_) => {}
        Value::Text(_) | Value::Number(_) if secret => spans.push(node.span),
        Value::Text(_) | Value::Number(_) => {}
    }
}

fn secrets_of_lines(text: &str, spans: &mut Vec<Span>) {
    let mut start = 0;
    // Indentation of the line with the secret key whose value may go on.
    let mut inside: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        let blank = line.trim().is_empty();
        if inside.is_some_and(|outer| blank || indent > outer) {
            spans.push(Span { start, end: start + line.len() });
        } else {
            inside = None;
            if let Some(colon) = secret_colon(line) {
                spans.push(Span { start: start + colon + 1, end: start + line.len() });
                inside = Some(indent);
            }
        }
        start += line.len();
    }
}

/// Where the value of the first secret key of a line begins.
fn secret_colon(line: &str) -> Option<usize> {
    line.match_indices(':').map(|(at, _)| at).find(|colon| {
        let key = line[..*colon].rsplit([' ', '{', ',', '[', '\t']).next().unwrap_or_default();
        is_secret(key.trim_matches(['"', '\'']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_their_password() {
        assert_eq!(mask_url("amqp://guest:hunter2@host:5672/v"), "amqp://guest:***@host:5672/v");
        assert_eq!(mask_url("amqp://guest:a@b:c@host/v"), "amqp://guest:***@host/v");
        assert_eq!(mask_url("nats://host:4222"), "nats://host:4222");
        assert_eq!(mask_url("plain text"), "plain text");
        assert_eq!(mask_text("failed: nats://u:p@a, nats://u:q@b"), "failed: nats://u:***@a, nats://u:***@b");
    }

    fn shown(text: &str) -> String {
        let root = crate::yaml::parse(text).ok();
        let masked = mask_document(text, root.as_ref());
        assert_eq!(masked.len(), text.len());
        assert_eq!(masked.matches('\n').count(), text.matches('\n').count());
        masked
    }

    #[test]
    fn no_form_of_yaml_shows_a_secret() {
        for text in [
            "a: {password: \"hunter2\", b: 1}",
            "password: hunter2",
            "password: 'hunter2'",
            "password: |\n  hunter2\n",
            "password: >-\n  hunter2\n  hunter2\nother: 1",
            "password:\n  hunter2",
            "\"password\": hunter2",
            "x: &secret hunter2\npassword: *secret",
            "options: {sasl.password: hunter2}",
            "token: [hunter2]",
            "uri: amqp://u:hunter2@h",
            "servers: [\"nats://u:hunter2@h\"]",
            // Not valid YAML from here on.
            "a: {password: \"hunter2\", b: 1",
            "password: hunter2\n a: : b",
            "password: |\n  hunter2\n\n  hunter2\n : : :\n\t",
            "'password' : hunter2, }",
        ] {
            let masked = shown(text);
            assert!(!masked.contains("hunter2"), "{masked}");
        }
    }

    #[test]
    fn the_rest_stays_in_sight() {
        assert_eq!(shown("user: me\npassword: x\nhost: h"), "user: me\npassword: *\nhost: h");
        assert_eq!(shown("password: \"a${env:X}b\""), "password: **${env:X}**");
        assert_eq!(shown("password: $${env:X}"), "password: *********");
        assert_eq!(shown("credentials: /etc/nats.creds"), "credentials: /etc/nats.creds");
    }
}
