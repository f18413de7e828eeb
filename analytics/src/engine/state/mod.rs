//! Rules that look at more than one row: what they keep, and when they speak.
//!
//! Each takes the rows that its inputs select, in whatever order and batches they come, and gives hits. Which hits there are
//! in the end follows from the rows and their times alone.

mod absence;
mod exact;
mod frames;
pub mod kept;
mod new_terms;
mod sequence;
mod upper;
mod window;

use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::prelude::SessionContext;
use vedette_schemas::EventId;

use super::clock::Clock;
pub use absence::Absence;
pub use new_terms::NewTerms;
pub use sequence::Sequence;
pub use upper::Upper;
pub use window::{Window, sliding};

/// Rows that a rule has found, with the events behind each.
pub struct Hits {
    pub rows: RecordBatch,
    /// For each row, oldest first; at most `EVIDENCE`.
    pub evidence: Vec<Vec<EventId>>,
}

/// The most events that a finding names.
pub const EVIDENCE: usize = 100;

/// What a rule keeps.
pub enum State {
    Window(Box<Window>),
    Sequence(Sequence),
    NewTerms(NewTerms),
    Absence(Absence),
}

impl State {
    /// Takes rows of one of the rule's inputs, by its number.
    pub fn push(&mut self, input: usize, rows: &RecordBatch) -> Result<()> {
        match self {
            State::Window(window) => window.push(rows),
            State::Sequence(sequence) => sequence.push(input, rows),
            State::NewTerms(terms) => terms.push(rows),
            State::Absence(absence) => absence.push(input, rows),
        }
    }

    /// What is found as of the clock.
    pub async fn advance(&mut self, context: &SessionContext, clock: &Clock) -> Result<Vec<Hits>> {
        match self {
            State::Window(window) => window.advance(context, clock).await,
            State::Sequence(sequence) => sequence.advance(context, clock).await,
            State::NewTerms(terms) => terms.advance(clock),
            State::Absence(absence) => absence.advance(clock),
        }
    }

    /// What is done with the rows, for people.
    pub fn words(&self) -> &'static str {
        match self {
            State::Window(window) if window.is_monotone() => {
                "and keeps the rows by subject; aggregates are looked at with each new row"
            }
            State::Window(_) => "and keeps the rows by subject; aggregates are looked at once the watermark has passed",
            State::Sequence(_) => {
                "and keeps each step's rows by subject; they are joined when there are some of every step"
            }
            State::NewTerms(_) => "and keeps the days on which each combination was seen",
            State::Absence(_) => "and keeps what waits for an answer, until its time is up by the watermark",
        }
    }

    /// Bytes held, nearly.
    pub fn bytes(&self) -> usize {
        match self {
            State::Window(window) => window.bytes(),
            State::Sequence(sequence) => sequence.bytes(),
            State::NewTerms(terms) => terms.bytes(),
            State::Absence(absence) => absence.bytes(),
        }
    }

    /// Lets go of some of the oldest of what is kept, to free memory. Returns up to when, in microseconds since 1970; `None` if
    /// there is nothing to let go.
    pub fn shed(&mut self) -> Option<i64> {
        match self {
            State::Window(window) => window.shed(),
            State::Sequence(sequence) => sequence.shed(),
            State::NewTerms(terms) => terms.shed(),
            State::Absence(absence) => absence.shed(),
        }
    }
}

/// An event id as it stands in a column.
fn event_id(text: Option<&str>) -> Option<EventId> {
    text.and_then(EventId::parse)
}
