//! What a record is, in every notation: Arrow, ClickHouse DDL and the reference page. Decoding from JSON. No I/O.

pub mod decode;
pub mod derive;
pub mod identity;
pub mod notation;
pub mod rebuild;
pub mod table;

pub use decode::paths::{self, Paths, Step};
pub use decode::{AuditDecoder, DecodeError, FalcoDecoder, Received};
pub use identity::EventId;
pub use rebuild::{RebuildError, rebuild_audit, rebuild_falco};
pub use table::{Column, Kind, Table};
