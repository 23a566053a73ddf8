//! Topics, filters and how they relate.
//!
//! Start with [`Topic`] and [`Filter`]; [`FilterSet`] answers for many filters at once.

mod filter;
mod topic;

pub use filter::{Filter, FilterError};
pub use topic::{TOPIC_BYTES_MAX, Topic, TopicError};
