//! What `analytics` does through its public interface. One binary, since each links all of DataFusion.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod conditions;
mod engine;
mod kinds;
mod lake;
mod pipeline;
mod reload;
mod schedule;
mod shared;
