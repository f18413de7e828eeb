//! One suite for every journal, and what only one of them can be asked.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod embedded_crash;
mod embedded_runner;
mod kafka_runner;
mod suite;

// A journal joins by a module here whose test hands `suite::run_all` a way to make fresh places.
