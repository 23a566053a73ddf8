//! Documents that mean harm, or that are nothing at all: bounded, never a panic, always an error with a place.
#![expect(
    clippy::disallowed_methods,
    reason = "documents are read from disk, and how long a refusal takes is measured"
)]

mod common;

use std::time::{Duration, Instant};

use common::{mesh, root, router};

/// Far above what a refusal takes, far below what an unbounded expansion would.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn aliases_depth_nodes_and_size_are_bounded() {
    let bomb: String = std::iter::once("a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned())
        .chain((1..12).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 8].join(", "))))
        .collect();
    let many_nodes = format!("regions: [{}]", "1, ".repeat(60_000));
    for (what, text) in [
        ("an alias bomb", bomb),
        ("deep brackets", "[".repeat(100_000)),
        ("deep maps", "{a: ".repeat(10_000)),
        ("many nodes", many_nodes),
        ("a large file", "#".repeat((1 << 20) + 1)),
        ("two documents", "a: 1\n---\nb: 2\n".to_owned()),
        ("an unknown anchor", "a: *nothing".to_owned()),
    ] {
        let started = Instant::now();
        let found = mesh(&text).expect_err(what);
        assert!(started.elapsed() < PATIENCE, "{what} took {:?}", started.elapsed());
        assert_eq!(found.len(), 1, "{what}: {found}");
        assert!(found.to_string().len() < 500, "{what}: {found}");
    }
}

#[test]
fn nothing_and_nonsense_are_refused() {
    for text in [
        "",
        "\n",
        "null",
        "42",
        "text",
        "[]",
        "{}",
        "- a",
        "\u{feff}",
        "\0",
        "a: b",
        "? [a]\n: b",
        "\t",
        "!!binary x",
        "<<: 1",
        "&a [*a]",
    ] {
        assert!(!mesh(text).expect_err(text).is_empty(), "{text:?}");
        assert!(!router(text).expect_err(text).is_empty(), "{text:?}");
    }
}

/// Every example with one line left out, doubled, cut short or moved in: refused or taken, never a panic, and every place exists.
#[test]
fn damaged_examples_never_panic() {
    let mut tried = 0;
    for (folder, name) in [("topology", "hub.yaml"), ("topology", "three-regions.yaml"), ("configs", "default.yaml")] {
        let text = std::fs::read_to_string(root().join(folder).join(name)).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        for at in 0..lines.len() {
            let half: String = lines[at].chars().take(lines[at].chars().count() / 2).collect();
            let deeper = format!("  {}", lines[at]);
            let twice = format!("{}\n{}", lines[at], lines[at]);
            for instead in ["", &half, &deeper, &twice, "\u{2028}é: [", "  - 1"] {
                let mut damaged = lines.clone();
                damaged[at] = instead;
                let damaged = damaged.join("\n");
                let found = if folder == "configs" { router(&damaged).err() } else { mesh(&damaged).err() };
                for found in found.iter().flat_map(longhaul_config::Diagnostics::iter) {
                    assert!(found.line <= damaged.lines().count() + 1, "{found:?}");
                    assert!(found.line > 0 && found.column > 0, "{found:?}");
                }
                if let Some(found) = found {
                    assert!(!found.render(false).is_empty());
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 500);
}
