//! How fast is the index over 1,000,000 filters, and how large?
//!
//! Topics come in random order and each is looked up once, so that nearly every probe misses the processor's caches: this is the
//! worst a router can meet. Half of the topics match a filter. The anchor is a plain list of filters, at a size that it can bear.
//! One core; run it alone.
#![expect(clippy::print_stdout, reason = "printing its figures is what a benchmark is for")]

use std::collections::HashSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use longhaul_benches::figures::verdict;
use longhaul_topic::{Filter, FilterSet, Topic};

const FILTERS: usize = 1_000_000;
const FILTERS_OF_ANCHOR: usize = 10_000;
const TOPICS: usize = 400_000;
const TOPICS_OF_ANCHOR: usize = 2_000;
const TOKENS: usize = 5;
/// Topics looked up in a second by one core, at least.
const PER_SECOND_MIN: f64 = 1e6;
/// Six shapes, half of the filters without a wildcard.
const FEW_SHAPES: [&str; 10] = ["lllll", "lllll", "lllll", "lllll", "lllll", "ll*ll", "llll>", "l*l*l", "lll#l", "ll#"];

fn main() {
    // Every choice of literals but none, with and without a `#` behind: all of them fit every topic.
    let many_shapes: Vec<String> = (1..1 << TOKENS)
        .map(|bits: u32| (0..TOKENS).map(|place| if bits >> place & 1 == 1 { 'l' } else { '*' }).collect())
        .flat_map(|shape: String| [shape.clone(), shape + "#"])
        .collect();
    measure("few shapes", &FEW_SHAPES);
    measure("62 shapes, the worst case", &many_shapes.iter().map(String::as_str).collect::<Vec<_>>());
    measure_anchor();
}

fn measure(name: &str, shapes: &[&str]) {
    let mut random = Random(1);
    let filters = filters(FILTERS, shapes, &mut random);
    let topics = topics(TOPICS, &filters, &mut random);
    let text_bytes: usize = filters.iter().map(|filter| filter.as_str().len()).sum();

    let start = Instant::now();
    let set = FilterSet::new(&filters);
    let build = start.elapsed();
    println!("{name}: {FILTERS} filters, {} shapes, {} in the trie", set.shapes(), set.residual());
    println!("  build          {:>10.3} s", build.as_secs_f64());
    println!("  beside texts   {:>10.1} bytes/filter", (set.bytes() - text_bytes) as f64 / FILTERS as f64);
    println!("  texts          {:>10.1} bytes/filter", text_bytes as f64 / FILTERS as f64);

    // Everything but the topics has left the caches by now: they are read in order, so the processor fetches them ahead.
    let mut matched = 0;
    let any = best(|| matched = topics.iter().filter(|topic| set.matches_any(topic)).count());
    print_rate("any", TOPICS, any);
    let enough = TOPICS as f64 / any.as_secs_f64() >= PER_SECOND_MIN;
    println!("  at least {:.0} M matches/s: {}", PER_SECOND_MIN / 1e6, verdict(enough));
    let mut ids = 0_u64;
    let all =
        best(|| topics.iter().for_each(|topic| set.for_each_match(topic, |id| ids += u64::from(black_box(id) > 0))));
    print_rate("all", TOPICS, all);
    let batched = best(|| set.for_each_match_batch(&topics, |_, id| ids += u64::from(black_box(id) > 0)));
    print_rate("all, batched", TOPICS, batched);
    let mut found = 0;
    set.for_each_match_batch(&topics, |_, _| found += 1);
    let percent = 100.0 * matched as f64 / TOPICS as f64;
    println!("  topics matched {percent:>10.1} %, by {:.2} filters on average", f64::from(found) / TOPICS as f64);
}

fn measure_anchor() {
    let mut random = Random(2);
    let filters = filters(FILTERS_OF_ANCHOR, &FEW_SHAPES, &mut random);
    let topics = topics(TOPICS_OF_ANCHOR, &filters, &mut random);
    let set = FilterSet::new(&filters);
    let count = |matches: &dyn Fn(&Topic) -> usize| topics.iter().map(matches).sum::<usize>();

    let (mut by_list, mut by_index) = (0, 0);
    let list = best(|| by_list = count(&|topic| filters.iter().filter(|filter| filter.matches(topic)).count()));
    let index = best(|| {
        by_index = count(&|topic| {
            let mut found = 0;
            set.for_each_match(topic, |_| found += 1);
            found
        });
    });
    assert_eq!(by_list, by_index, "the index and the list must find the same filters");
    println!("anchor: {FILTERS_OF_ANCHOR} filters in a list");
    print_rate("list", TOPICS_OF_ANCHOR, list);
    print_rate("index", TOPICS_OF_ANCHOR, index);
    println!("  ratio          {:>10.0} x", list.as_secs_f64() / index.as_secs_f64());
}

fn print_rate(name: &str, topics: usize, time: Duration) {
    let seconds = time.as_secs_f64();
    println!(
        "  {name:<14} {:>10.3} M matches/s ({:.0} ns)",
        topics as f64 / seconds / 1e6,
        seconds * 1e9 / topics as f64
    );
}

/// The best of five: what disturbs a run on a shared machine only ever makes it slower.
fn best(mut run: impl FnMut()) -> Duration {
    (0..5)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .min()
        .expect("five runs")
}

/// Different filters of those shapes in equal parts, as far as a shape has so many.
fn filters(count: usize, shapes: &[&str], random: &mut Random) -> Vec<Filter> {
    let (mut filters, mut seen) = (Vec::with_capacity(count), HashSet::with_capacity(count));
    while filters.len() < count {
        let shape = shapes[random.below(shapes.len())].chars().enumerate();
        let tokens: Vec<String> =
            shape.map(|(place, kind)| if kind == 'l' { random.token(place) } else { kind.to_string() }).collect();
        let text = tokens.join(".");
        let filter = Filter::parse(&text).expect("made of valid tokens");
        if seen.insert(text) {
            filters.push(filter);
        }
    }
    filters
}

/// Half of them made from a filter by filling its wildcards, half at random.
fn topics(count: usize, filters: &[Filter], random: &mut Random) -> Vec<Topic> {
    (0..count)
        .map(|i| {
            let text =
                if i % 2 == 0 { &*["*"; TOKENS].join(".") } else { filters[random.below(filters.len())].as_str() };
            let fill = |(place, token): (usize, &str)| match token {
                "#" if place == TOKENS => None,
                "*" | ">" | "#" => Some(random.token(place)),
                literal => Some(literal.to_owned()),
            };
            let tokens: Vec<String> = text.split('.').enumerate().filter_map(fill).collect();
            Topic::parse(&tokens.join(".")).expect("a short topic")
        })
        .collect()
}

/// SplitMix64: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(mixed ^ (mixed >> 31)) * bound as u128) >> 64) as usize
    }

    /// Few tokens in the first places, many in the last ones, as in real topic trees.
    fn token(&mut self, place: usize) -> String {
        let kinds = [200, 1_000, 5_000, 20_000, 20_000][place.min(TOKENS - 1)];
        format!("t{}", self.below(kinds))
    }
}
