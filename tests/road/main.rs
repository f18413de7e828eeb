//! The whole road from outside: the real program as processes, events in at the webhook, answers out of SQL; through the
//! embedded journal and the lake, in a folder and in an object store, and through a real Kafka and ClickHouse. Processes
//! are killed on the way, and the counts must hold all the same.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod bucket;
mod clickhouse;
mod deployment;
mod embedded;
mod facts;
mod kafka;
mod load;
mod overlay;
mod program;
mod recall;
mod schedule;
mod services;
mod shared;
