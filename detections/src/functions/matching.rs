//! Functions that match a text against a pattern, which is read once for all rows that share it.

use std::sync::Arc;

use datafusion::arrow::array::BooleanArray;
use datafusion::arrow::datatypes::DataType;

use super::Function;
use super::udf::TextFunction;

/// Which of the two arguments is the pattern.
#[derive(Clone, Copy)]
pub enum Pattern {
    First,
    Second,
}

impl Pattern {
    /// The pattern and the text, of two arguments.
    fn apart<T>(self, [first, second]: [T; 2]) -> (T, T) {
        match self {
            Self::First => (first, second),
            Self::Second => (second, first),
        }
    }
}

/// A function that says whether the text matches the pattern. A literal that can't be read is refused when a query is
/// planned; a pattern from a column that can't be read matches nothing.
pub fn matching<P>(
    described: Function,
    pattern: Pattern,
    read: impl Fn(&str) -> Result<P, String> + Clone + Send + Sync + 'static,
    matches: impl Fn(&P, &str) -> bool + Send + Sync + 'static,
) -> TextFunction {
    let check = read.clone();
    let function = TextFunction::new::<2>(described, DataType::Boolean, move |arguments| {
        let mut latest: Option<(&str, Option<P>)> = None;
        let answers = arguments.rows().map(|row| {
            let (written, text) = pattern.apart(row?);
            let meant = match latest.take() {
                Some((known, meant)) if known == written => meant,
                _ => read(written).ok(),
            };
            let answer = meant.as_ref().is_some_and(|meant| matches(meant, text));
            latest = Some((written, meant));
            Some(answer)
        });
        Arc::new(answers.collect::<BooleanArray>())
    });
    function.checked(move |literals| {
        let literals: [_; 2] = literals.try_into().unwrap_or_default();
        match pattern.apart(literals).0 {
            Some(written) => check(written).map(drop),
            None => Ok(()),
        }
    })
}
