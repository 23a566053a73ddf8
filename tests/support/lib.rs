//! What the whole-system tests share: a mesh of router processes, ordinary clients of every broker, and the judgement over what arrived.
//!
//! Start with [`mesh::Mesh`], then [`client`]. Scenarios are the files of `tests/scenarios`, one behaviour each. Every wait has a limit and
//! says what it waited for.

pub mod audit;
pub mod browser;
pub mod client;
pub mod dice;
pub mod http;
pub mod judge;
pub mod mesh;
pub mod otlp;
pub mod relay;
pub mod sample;
pub mod started;
pub mod throttle;
pub mod wait;
