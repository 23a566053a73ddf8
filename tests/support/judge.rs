//! The judgement over what arrived: everything, in order per key, repeats only as copies of an event that was there before.
//!
//! Order means: the first arrivals of a key's events come in the order in which they were produced. Repeats may come anywhere behind.

use std::collections::{HashMap, HashSet};

use crate::sample::{Arrived, Sample};

/// Most examples in a message.
const EXAMPLES: usize = 5;

/// What must be equal between an event and its arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Key, payload and all headers: source and destination are brokers of one kind.
    Exact,
    /// Key and payload.
    Content,
}

/// What was found, when nothing was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Different events.
    pub events: usize,
    /// Arrivals of an event that had arrived before.
    pub duplicates: usize,
}

/// Judges; `expected` in the order of their production (per key).
///
/// # Panics
/// With the first few events that are missing, out of order, changed, unexpected, or repeated under another identity.
pub fn judge(what: &str, expected: &[Sample], arrived: &[Arrived], compare: Compare) -> Verdict {
    let wanted: HashMap<usize, (usize, &Sample)> = expected
        .iter()
        .enumerate()
        .map(|(at, sample)| (sample.number().expect("every event of a test has a number"), (at, sample)))
        .collect();
    assert_eq!(wanted.len(), expected.len(), "the test's numbers are unique");
    let mut faults = Faults::default();
    let mut first: HashMap<usize, &Arrived> = HashMap::new();
    let mut newest: HashMap<&[u8], (usize, usize)> = HashMap::new();
    let mut ids: HashSet<&str> = HashSet::new();
    let mut duplicates = 0;
    for arrival in arrived {
        let number = arrival.event.number();
        let Some((number, &(at, sample))) = number.and_then(|number| Some((number, wanted.get(&number)?))) else {
            faults.unexpected.push(format!("{:?}", arrival.event));
            continue;
        };
        if let Some(before) = first.get(&number) {
            duplicates += 1;
            if before != &arrival || arrival.id.is_none() {
                faults.other_identity.push(format!("{number}: {before:?}, then {arrival:?}"));
            }
            continue;
        }
        first.insert(number, arrival);
        if arrival.id.as_deref().is_none_or(|id| id.is_empty() || !ids.insert(id)) {
            faults.no_identity.push(format!("{number}: {:?}", arrival.id));
        }
        if let Some(difference) = difference(sample, &arrival.event, compare) {
            faults.changed.push(format!("{number}: {difference}"));
        }
        if let Some(key) = &sample.key {
            let newest = newest.entry(key).or_insert((at, number));
            if newest.0 > at {
                faults.disordered.push(format!("{number} behind {} of key {}", newest.1, key.escape_ascii()));
            }
            *newest = (*newest).max((at, number));
        }
    }
    let missing = expected.iter().filter_map(Sample::number).filter(|number| !first.contains_key(number));
    faults.missing = missing.map(|number| number.to_string()).collect();
    faults.raise(what, expected.len(), arrived.len());
    Verdict { events: first.len(), duplicates }
}

/// The first difference, in words.
fn difference(sample: &Sample, arrived: &Sample, compare: Compare) -> Option<String> {
    if sample.key != arrived.key {
        return Some(format!("the key {:?} is {:?}", sample.key, arrived.key));
    }
    if sample.payload != arrived.payload {
        return Some(format!("the payload of {sample:?} is that of {arrived:?}"));
    }
    if compare == Compare::Content || sample.headers == arrived.headers {
        return None;
    }
    let mut pairs = sample.headers.iter().zip(&arrived.headers);
    let (sent, came) = (sample.headers.len(), arrived.headers.len());
    Some(match pairs.find(|(a, b)| a != b) {
        Some((a, b)) => format!("the header {} of {} bytes is {} of {} bytes", a.0, a.1.len(), b.0, b.1.len()),
        None => format!("{sent} headers are {came}: {arrived:?}"),
    })
}

/// Everything that was wrong.
#[derive(Debug, Default)]
struct Faults {
    missing: Vec<String>,
    disordered: Vec<String>,
    changed: Vec<String>,
    unexpected: Vec<String>,
    other_identity: Vec<String>,
    no_identity: Vec<String>,
}

impl Faults {
    fn raise(&self, what: &str, expected: usize, arrived: usize) {
        let kinds = [
            ("missing", &self.missing),
            ("out of order", &self.disordered),
            ("changed", &self.changed),
            ("nobody produced", &self.unexpected),
            ("repeated as something else", &self.other_identity),
            ("without an identity of their own", &self.no_identity),
        ];
        let some = |list: &[String]| list[..list.len().min(EXAMPLES)].join("; ");
        let wrong = kinds.iter().filter(|(_, list)| !list.is_empty());
        let lines: Vec<_> = wrong.map(|(name, list)| format!("  {} {name}: {}", list.len(), some(list))).collect();
        assert!(lines.is_empty(), "{what}: of {expected} events {arrived} arrivals came\n{}", lines.join("\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(samples: &[Sample]) -> Vec<Arrived> {
        let copy = |event: &Sample| Arrived { event: event.clone(), id: event.number().map(|n| format!("id-{n}")) };
        samples.iter().map(copy).collect()
    }

    fn fails(change: impl FnOnce(&mut Vec<Arrived>)) -> String {
        let samples = Sample::plain_many("t", 10, 2, 20);
        let mut arrived = copies(&samples);
        change(&mut arrived);
        let judged = std::panic::catch_unwind(|| judge("it", &samples, &arrived, Compare::Exact));
        *judged.expect_err("it is wrong").downcast::<String>().expect("a sentence")
    }

    #[test]
    fn what_is_right_passes() {
        let samples = Sample::plain_many("t", 10, 2, 20);
        let mut arrived = copies(&samples);
        // Order holds among equal keys only, and a run may be repeated.
        arrived.swap(0, 1);
        arrived.extend(arrived.clone());
        assert_eq!(judge("it", &samples, &arrived, Compare::Exact), Verdict { events: 10, duplicates: 10 });
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (wrong, word) in [
            (fails(|arrived| drop(arrived.remove(3))), "1 missing: 3"),
            (fails(|arrived| arrived.swap(2, 4)), "1 out of order: 2 behind 4"),
            (fails(|arrived| arrived[5].event.payload.push(0)), "1 changed: 5: the payload"),
            (fails(|arrived| arrived[5].event.key = None), "1 changed: 5: the key"),
            (fails(|arrived| arrived[5].event.headers.push((String::new(), vec![]))), "1 changed: 5: 1 headers are 2"),
            (fails(|arrived| arrived[5].id = None), "1 without an identity"),
            (fails(|arrived| arrived[5].id = arrived[4].id.clone()), "1 without an identity"),
            (fails(|arrived| arrived.push(Arrived { id: Some("x".into()), ..arrived[5].clone() })), "1 repeated as"),
            (
                fails(|arrived| arrived.push(copies(&[Sample::plain("t", 77, 2, 5)]).remove(0))),
                "1 nobody produced: t key",
            ),
        ] {
            assert!(wrong.contains(word), "{word:?} is not in {wrong}");
        }
    }
}
