//! The nearest of some names to one that was probably mistyped.

/// The candidate that is most like `name`, if one is like enough to be what was meant: at most a third of the longer one's
/// letters differ, and never more than four.
#[must_use]
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .filter(|candidate| *candidate != name)
        .map(|candidate| (distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            let longer = name.chars().count().max(candidate.chars().count());
            *distance <= longer.div_ceil(3).min(4)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A sentence for whoever used a name that is not known: the nearest one, or all (at most eight) after the `intro`, such as
/// "the regions are".
#[must_use]
pub fn suggest_name<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone, intro: &str) -> String {
    if let Some(near) = nearest(name, known.clone()) {
        return format!("did you mean `{near}`?");
    }
    let mut names: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).take(9).collect();
    match names.as_mut_slice() {
        [] => "none is declared".to_owned(),
        [_, _, _, _, _, _, _, _, more] => {
            "..".clone_into(more);
            format!("{intro} {}", names.join(", "))
        }
        _ => format!("{intro} {}", names.join(", ")),
    }
}

/// Letters to insert, remove, replace or swap with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(128).collect(), b.chars().take(128).collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let names = ["eu-west", "us-east", "ap-south"];
        assert_eq!(nearest("eu-wset", names), Some("eu-west"));
        assert_eq!(nearest("EU-WEST", names), Some("eu-west"));
        assert_eq!(nearest("us-eest", names), Some("us-east"));
    }

    #[test]
    fn is_silent_when_nothing_is_like_it() {
        assert_eq!(nearest("billing", ["orders", "x"]), None);
        assert_eq!(nearest("", ["orders"]), None);
    }

    #[test]
    fn counts_a_swap_as_one() {
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
