//! Values inside JSON bodies: every path that rules ask for, found in one pass over a body.
//!
//! A call such as `json_get_str(request_object, 'spec', 'type')` becomes the same call on a column of its own that holds the
//! text of the value at that path.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::Expr;
use vedette_schemas::{Paths, Step, paths};

use super::rows::Rows;

/// Functions of a JSON text and a path, which on the value's own text alone answer the same.
const AT_A_PATH: [&str; 7] =
    ["json_get_str", "json_get_int", "json_get_float", "json_get_bool", "json_get_json", "json_as_text", "json_length"];

/// All paths into the bodies of one table's columns.
#[derive(Default)]
pub struct Bodies {
    columns: BTreeMap<usize, Paths>,
    /// The column and the steps of each path, and its number among the column's.
    known: Vec<(usize, Vec<Step>, usize)>,
    scratch: paths::Scratch,
    /// This batch's: the rows that were looked into, and each path's values there.
    looked: Option<Rows>,
    values: Vec<ArrayRef>,
}

/// The column and the path of a call that can be answered from the path's value alone. A key that spells a number may mean a
/// place in an array, and a place counted from the end needs the whole array; the functions see to those themselves.
fn path_of(expr: &Expr) -> Option<(&str, Vec<Step>)> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let (Expr::Column(column), path @ [_, ..]) = call.args.split_first()? else { return None };
    if !AT_A_PATH.contains(&call.name()) {
        return None;
    }
    let steps = path.iter().map(|step| match step {
        Expr::Literal(ScalarValue::Int64(Some(index)), _) => usize::try_from(*index).ok().map(Step::Index),
        Expr::Literal(value, _) => {
            let key = value.try_as_str().flatten()?;
            key.parse::<isize>().is_err().then(|| Step::Key(key.to_owned()))
        }
        _ => None,
    });
    Some((&column.name, steps.collect::<Option<_>>()?))
}

impl Bodies {
    /// The number of the path that a call asks for, if it is one that is found in the common pass, and the name of its
    /// column. `column` finds a column's place by its name.
    pub fn add(&mut self, expr: &Expr, column: impl Fn(&str) -> Option<usize>) -> Option<usize> {
        let (name, steps) = path_of(expr)?;
        let column = column(name)?;
        if let Some(known) = self.known.iter().position(|path| path.0 == column && path.1 == steps) {
            return Some(known);
        }
        let number = self.columns.entry(column).or_default().add(&steps);
        self.known.push((column, steps, number));
        Some(self.known.len() - 1)
    }

    /// Forgets the last batch.
    pub fn begin(&mut self) {
        self.looked = None;
        self.values.clear();
    }

    /// The rows looked into.
    pub fn looked(&self) -> Option<&Rows> {
        self.looked.as_ref()
    }

    /// A path's values, one for each row looked into.
    pub fn values(&self, path: usize) -> ArrayRef {
        self.values[path].clone()
    }

    /// Looks into the bodies of some rows.
    pub fn look(&mut self, batch: &RecordBatch, rows: Rows) -> Result<()> {
        let count = rows.count();
        let mut builders: Vec<_> = self.known.iter().map(|_| StringViewBuilder::with_capacity(count)).collect();
        for (column, paths) in &self.columns {
            let Some(bodies) = batch.column(*column).as_string_view_opt() else {
                return internal_err!("column {column} is not a JSON column");
            };
            let mine: Vec<_> = (0..self.known.len()).filter(|path| self.known[*path].0 == *column).collect();
            let mut found = Vec::with_capacity(paths.len());
            for row in rows.iter() {
                let body = if bodies.is_valid(row) { bodies.value(row) } else { "" };
                paths.find(body, &mut self.scratch, &mut found);
                mine.iter().for_each(|path| builders[*path].append_option(found[self.known[*path].2]));
            }
        }
        self.values = builders.into_iter().map(|mut builder| Arc::new(builder.finish()) as ArrayRef).collect();
        self.looked = Some(rows);
        Ok(())
    }
}
