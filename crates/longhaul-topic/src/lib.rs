//! Topics, filters and how they relate.
//!
//! Start with [`Topic`] and [`Filter`]; [`overlaps`] and [`covers`] compare filters, [`FilterSet`] answers for up to a million
//! of them at once. Pure values: nothing here reads a clock, allocates without a bound or fails after parsing.

mod filter;
mod index;
mod pattern;
mod relate;
#[cfg(test)]
mod testing;
mod topic;

pub use filter::{FILTER_BYTES_MAX, FILTER_TOKENS_MAX, Filter, FilterError, FilterToken, any_matches};
pub use index::{FilterSet, SHAPES_MAX};
pub use relate::{covers, overlaps};
pub use topic::{TOPIC_BYTES_MAX, Topic, TopicError};
