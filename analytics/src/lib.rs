//! Journal to engine, engine to store and alerts. Querying.

pub mod store;
