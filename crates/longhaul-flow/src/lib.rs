//! The flow protocol as state machines: numbers in, numbers out
