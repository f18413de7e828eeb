//! What we look for: rules, their loading and lint. No I/O beyond reading files.

pub mod rule;

pub use rule::{Rule, Severity};
