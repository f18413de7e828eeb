//! Journal to engine, engine to store and alerts. Querying.

pub mod backtest;
pub mod engine;
pub mod pipeline;
pub mod query;
pub mod store;
