//! Sums and averages of fractions that slide and stay exact.
//!
//! DataFusion's add a fraction to a sum and take it off again: what rounding left stays, and after an infinite or a huge one
//! nothing of the rest is left. Whoever can write a number into an event could so blind a rule for as long as its group lives.

use std::fmt;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::Accumulator;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use xsum::{Xsum, XsumSmall};

/// What a sum is made into.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Made {
    Sum,
    Average,
}

/// What an aggregate over a column of this type makes of an exact sum; `None` if it is something else.
pub fn made(aggregate: &AggregateFunctionExpr, of: &DataType) -> Option<Made> {
    match aggregate.fun().name() {
        _ if *of != DataType::Float64 || aggregate.is_distinct() => None,
        "sum" => Some(Made::Sum),
        "avg" => Some(Made::Average),
        _ => None,
    }
}

/// The numbers that are in, by what they do to a sum.
pub struct Exact {
    made: Made,
    finite: XsumSmall,
    count: i64,
    nan: i64,
    infinite: i64,
    minus_infinite: i64,
}

impl Exact {
    pub fn new(made: Made) -> Self {
        Self { made, finite: XsumSmall::new(), count: 0, nan: 0, infinite: 0, minus_infinite: 0 }
    }

    /// Takes numbers in, or off again.
    fn change(&mut self, values: &[ArrayRef], off: bool) {
        let by = if off { -1 } else { 1 };
        for value in values[0].as_primitive::<Float64Type>().iter().flatten() {
            self.count += by;
            match value {
                _ if value.is_finite() => self.finite.add(if off { -value } else { value }),
                _ if value.is_nan() => self.nan += by,
                _ if value > 0.0 => self.infinite += by,
                _ => self.minus_infinite += by,
            }
        }
    }

    fn sum(&mut self) -> f64 {
        match (self.nan, self.infinite, self.minus_infinite) {
            // Nothing in, nothing negative: 0.0 and not -0.0.
            (0, 0, 0) => self.finite.sum() + 0.0,
            (0, _, 0) => f64::INFINITY,
            (0, 0, _) => f64::NEG_INFINITY,
            _ => f64::NAN,
        }
    }
}

impl Accumulator for Exact {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.change(values, false);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.change(values, true);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64((self.count > 0).then(|| match self.made {
            Made::Sum => self.sum(),
            Made::Average => self.sum() / self.count as f64,
        })))
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("a sliding sum is not merged")
    }

    fn merge_batch(&mut self, _states: &[ArrayRef]) -> Result<()> {
        exec_err!("a sliding sum is not merged")
    }
}

impl fmt::Debug for Exact {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Exact").field("made", &self.made).field("count", &self.count).finish_non_exhaustive()
    }
}
