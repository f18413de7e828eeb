//! What we look for: rules, their loading and lint, and the SQL that they are written in. No I/O beyond reading files.

mod alias;
mod balance;
pub mod config;
pub mod event;
mod except;
pub mod functions;
mod given;
pub mod lint;
pub mod lists;
pub mod load;
mod nearest;
pub mod overlay;
mod place;
pub mod rule;
pub mod ruleset;
pub mod schedule;
pub mod span;
pub mod sql;

pub use config::{Config, Unfit};
pub use event::{CASE_START, CaseEvent, TestEventError, base_event, case_events, recorded};
pub use lint::{Problem, columns_selected, lint};
pub use lists::{BadList, Lists};
pub use load::{LoadError, builtin, load};
pub use nearest::did_you_mean;
pub use place::place;
pub use rule::{Rule, RuleKind, Severity};
pub use ruleset::Ruleset;
pub use schedule::Schedule;
pub use span::Span;

/// The rule pack and its recorded events, as `build.rs` found them.
mod pack {
    include!(concat!(env!("OUT_DIR"), "/pack.rs"));
}
