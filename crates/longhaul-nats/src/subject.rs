//! Topics and filters as NATS subjects. Pure.
//!
//! A topic goes to NATS as it is or not at all: reversible escaping would make subjects that no NATS client expects. A filter becomes
//! one or more subjects that take at least what the filter takes; whoever reads checks each event with the filter again.

use longhaul_topic::{Filter, Topic};

/// Why a topic is no subject that may be published to; `None` when it is one.
#[must_use]
pub(crate) fn refusal(topic: &Topic) -> Option<String> {
    let text = topic.as_str();
    let bad_token = |token: &str| token.is_empty() || token == "*" || token == ">" || token.chars().any(is_space);
    if text.is_empty() || text.split('.').any(bad_token) {
        return Some(format!("{text:?} is no NATS subject: tokens must not be empty, hold spaces or be a wildcard"));
    }
    // A topic is data from elsewhere; publishing it below these would be a command to the server or to somebody's request.
    is_reserved(text).then(|| format!("{text:?} lies in the part of the subject space that NATS keeps for itself"))
}

/// Whether a subject belongs to the server or to requests and replies rather than to applications.
#[must_use]
pub(crate) fn is_reserved(subject: &str) -> bool {
    subject.starts_with('$') || subject.starts_with("_INBOX.") || subject.starts_with("_R_.")
}

fn is_space(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

/// The subjects that together take at least what the filters take, none covering another, so that a consumer may have all of them.
///
/// # Errors
/// A sentence naming the filter that no subject can be made of.
pub(crate) fn of_filters(filters: &[Filter]) -> Result<Vec<String>, String> {
    let mut subjects = Vec::new();
    for filter in filters {
        subjects.extend(of_filter(filter)?);
    }
    Ok(disjoint(subjects))
}

/// `a.#` is `a` and `a.>`; a `#` with something behind it widens to `>`.
fn of_filter(filter: &Filter) -> Result<Vec<String>, String> {
    let tokens: Vec<&str> = filter.as_str().split('.').collect();
    if tokens.iter().any(|token| token.is_empty() || token.chars().any(is_space)) {
        return Err(format!("the filter {filter} cannot match a NATS subject: a token is empty or holds a space"));
    }
    let Some(hash) = tokens.iter().position(|token| *token == "#") else { return Ok(vec![filter.as_str().to_owned()]) };
    let prefix = tokens[..hash].join(".");
    let rest = if prefix.is_empty() { ">".to_owned() } else { format!("{prefix}.>") };
    let only_hashes = tokens[hash..].iter().all(|token| *token == "#");
    Ok(if only_hashes && !prefix.is_empty() { vec![prefix, rest] } else { vec![rest] })
}

/// Drops what another covers, and widens two that overlap without covering to their common prefix.
fn disjoint(mut subjects: Vec<String>) -> Vec<String> {
    loop {
        let mut kept: Vec<String> = Vec::new();
        for subject in subjects {
            if !kept.iter().any(|other| covers(other, &subject)) {
                kept.retain(|other| !covers(&subject, other));
                kept.push(subject);
            }
        }
        let pair =
            (0..kept.len()).find_map(|i| (i + 1..kept.len()).find(|j| overlap(&kept[i], &kept[*j])).map(|j| (i, j)));
        let Some((i, j)) = pair else { return kept };
        let wider = common(&kept[i], &kept[j]);
        kept.remove(j);
        kept[i] = wider;
        subjects = kept;
    }
}

fn common(a: &str, b: &str) -> String {
    let same = a.split('.').zip(b.split('.')).take_while(|(a, b)| a == b && *a != ">");
    let mut tokens: Vec<&str> = same.map(|(a, _)| a).collect();
    tokens.push(">");
    tokens.join(".")
}

/// Whether the first subject takes everything that the second takes.
#[must_use]
pub(crate) fn covers(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(other)) if other != ">" => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

/// Whether some subject is taken by both.
fn overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(one), Some(other)) if one == other || one == "*" || other == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subjects(filters: &[&str]) -> Vec<String> {
        let filters: Vec<Filter> = filters.iter().map(|text| Filter::parse(text).unwrap()).collect();
        of_filters(&filters).unwrap()
    }

    #[test]
    fn filters_become_subjects() {
        assert_eq!(subjects(&["a.*.c"]), ["a.*.c"]);
        assert_eq!(subjects(&["a.#"]), ["a", "a.>"]);
        assert_eq!(subjects(&["#"]), [">"]);
        assert_eq!(subjects(&["a.#.z"]), ["a.>"]);
        assert_eq!(subjects(&["a.b", "a.>", "c"]), ["a.>", "c"]);
        assert_eq!(subjects(&["a.*.c", "a.b.*"]), ["a.>"]);
        assert!(of_filters(&[Filter::parse("a..b").unwrap()]).is_err());
    }

    #[test]
    fn a_topic_that_commands_the_server_is_refused() {
        for bad in ["", "a..b", "a b", "a.*", "a.>", ".a", "a.", "$JS.API.STREAM.PURGE.X", "_INBOX.x", "a\r\nPUB x"] {
            assert!(refusal(&Topic::parse(bad).unwrap()).is_some(), "{bad:?}");
        }
        for good in ["a", "a.b-c_d", "a.b*", "ü.x", "a.$b"] {
            assert!(refusal(&Topic::parse(good).unwrap()).is_none(), "{good:?}");
        }
    }

    proptest! {
        #[test]
        fn subjects_take_what_filters_take_and_never_overlap(
            filters in prop::collection::vec("([ab*]|#)(\\.([ab*]|#)){0,2}(\\.>)?", 1..5),
            topic in "[abc](\\.[abc]){0,3}",
        ) {
            let filters: Vec<Filter> = filters.iter().filter_map(|text| Filter::parse(text).ok()).collect();
            let subjects = of_filters(&filters).unwrap();
            let parsed = Topic::parse(&topic).unwrap();
            if filters.iter().any(|filter| filter.matches(&parsed)) {
                prop_assert!(subjects.iter().any(|subject| covers(subject, &topic)), "{subjects:?} {topic}");
            }
            for (i, a) in subjects.iter().enumerate() {
                prop_assert!(subjects[i + 1..].iter().all(|b| !overlap(a, b)), "{subjects:?}");
            }
        }
    }
}
