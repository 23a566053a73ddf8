//! `where`: which events, beside their topic.

use longhaul_topology::Predicate;

use crate::compile::Context;
use crate::field::{Entries, Field, List};
use crate::raw::mesh::RawPredicate;
use crate::report::{Report, Span};

/// `None` when something in it was wrong, which is reported.
pub(crate) fn predicate(raw: &Field<RawPredicate>, cx: Context<'_>) -> Option<Predicate> {
    let maimed = raw.maimed;
    let (raw, span) = raw.get()?;
    let given = [
        raw.exact.as_ref().map(|_| "exact"),
        raw.prefix.as_ref().map(|_| "prefix"),
        raw.suffix.as_ref().map(|_| "suffix"),
        raw.all.as_ref().map(|_| "all"),
        raw.any.as_ref().map(|_| "any"),
        raw.not.as_ref().map(|_| "not"),
    ];
    let given: Vec<&str> = given.into_iter().flatten().collect();
    match given.as_slice() {
        [_] => {}
        [] if maimed => return None,
        [] => {
            return cx.refuse(
                span,
                "says nothing",
                "a predicate has exactly one of exact, prefix, suffix, all, any and not",
            );
        }
        several => {
            let message = format!("a predicate has exactly one key, this one has {}", several.join(" and "));
            cx.report(Report::new(span, "more than one key", message).help("join them: `all: [{..}, {..}]`"));
            return None;
        }
    }
    let pairs = |entries: &Field<Entries<String>>| pairs(entries, cx);
    if let Some(entries) = &raw.exact {
        return pairs(entries).map(Predicate::Exact);
    }
    if let Some(entries) = &raw.prefix {
        return pairs(entries).map(Predicate::Prefix);
    }
    if let Some(entries) = &raw.suffix {
        return pairs(entries).map(Predicate::Suffix);
    }
    if let Some(list) = &raw.all {
        return several(list, cx).map(Predicate::All);
    }
    if let Some(list) = &raw.any {
        return several(list, cx).map(Predicate::Any);
    }
    let inner = predicate(raw.not.as_deref()?, cx)?;
    Some(Predicate::Not(Box::new(inner)))
}

fn pairs(entries: &Field<Entries<String>>, cx: Context<'_>) -> Option<Vec<(String, String)>> {
    let (Entries(entries), span) = entries.get()?;
    if entries.is_empty() {
        return empty(span, cx);
    }
    entries.iter().map(|(name, value)| Some((name.value.clone()?, value.value.clone()?))).collect()
}

fn several(list: &List<RawPredicate>, cx: Context<'_>) -> Option<Vec<Predicate>> {
    let (list, span) = list.get()?;
    if list.is_empty() {
        return empty(span, cx);
    }
    // All of them are looked at before one that was wrong spoils the whole.
    let compiled: Vec<Option<Predicate>> = list.iter().map(|item| predicate(item, cx)).collect();
    compiled.into_iter().collect()
}

fn empty<T>(span: Span, cx: Context<'_>) -> Option<T> {
    cx.refuse(span, "empty", "an empty predicate says nothing: fill it in, or leave it out")
}
