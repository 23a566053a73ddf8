//! Predicates over attributes and headers, compiled once, evaluated without failing.
//!
//! After the CloudEvents Subscriptions dialects. A name that an event does not have makes `exact`, `prefix` and `suffix` false, so
//! `not` of them true. A dialect with no pairs holds; `all` of nothing holds, `any` of nothing does not.

mod lookup;

use longhaul_topology::Predicate;

pub(crate) use lookup::Lookup;

/// A compiled predicate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledPredicate(Node);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Pair(Test, Box<str>, Box<str>),
    All(Box<[Node]>),
    Any(Box<[Node]>),
    Not(Box<Node>),
}

/// How a value is compared with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Exact,
    Prefix,
    Suffix,
}

impl CompiledPredicate {
    /// Compiles a predicate.
    #[must_use]
    pub fn new(predicate: &Predicate) -> Self {
        Self(compile(predicate))
    }

    /// Whether it holds for an event.
    #[must_use]
    pub fn matches(&self, event: &longhaul_event::Event) -> bool {
        self.holds(&Lookup::new(event))
    }

    pub(crate) fn holds(&self, event: &Lookup<'_>) -> bool {
        holds(&self.0, event)
    }
}

fn compile(predicate: &Predicate) -> Node {
    match predicate {
        Predicate::Exact(pairs) => compile_pairs(Test::Exact, pairs),
        Predicate::Prefix(pairs) => compile_pairs(Test::Prefix, pairs),
        Predicate::Suffix(pairs) => compile_pairs(Test::Suffix, pairs),
        Predicate::All(inner) => simplest(inner.iter().map(compile).collect(), Node::All),
        Predicate::Any(inner) => simplest(inner.iter().map(compile).collect(), Node::Any),
        Predicate::Not(inner) => Node::Not(Box::new(compile(inner))),
    }
}

fn compile_pairs(test: Test, pairs: &[(String, String)]) -> Node {
    let pairs = pairs.iter().map(|(name, text)| Node::Pair(test, name.as_str().into(), text.as_str().into()));
    simplest(pairs.collect(), Node::All)
}

/// Both `all` and `any` of one are that one.
fn simplest(mut nodes: Vec<Node>, many: fn(Box<[Node]>) -> Node) -> Node {
    if nodes.len() == 1 { nodes.remove(0) } else { many(nodes.into()) }
}

/// As deep as the document that declared it, whose depth is bounded.
fn holds(node: &Node, event: &Lookup<'_>) -> bool {
    match node {
        Node::Pair(test, name, text) => event.value(name).is_some_and(|value| compare(*test, &value, text)),
        Node::All(nodes) => nodes.iter().all(|node| holds(node, event)),
        Node::Any(nodes) => nodes.iter().any(|node| holds(node, event)),
        Node::Not(node) => !holds(node, event),
    }
}

fn compare(test: Test, value: &str, text: &str) -> bool {
    match test {
        Test::Exact => value == text,
        Test::Prefix => value.starts_with(text),
        Test::Suffix => value.ends_with(text),
    }
}

#[cfg(test)]
mod tests;
