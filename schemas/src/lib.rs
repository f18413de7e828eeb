//! What a record is, in every notation: Arrow, ClickHouse DDL and the reference page. Decoding from JSON. No I/O.

pub mod derive;
pub mod identity;
pub mod notation;
pub mod table;

pub use identity::EventId;
pub use table::{Column, Kind, Table};
