//! Journal to engine, engine to store and alerts. Scheduled rules. Querying.

pub mod backtest;
pub mod engine;
pub mod pipeline;
pub mod query;
pub mod scheduler;
pub mod store;
