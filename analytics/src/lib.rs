//! Journal to engine, engine to store and alerts. Querying.

pub mod engine;
pub mod query;
pub mod store;
