//! Values inside JSON bodies: every path that rules ask for, found in one pass over a body.
//!
//! A call such as `json_get_str(request_object, 'spec', 'type')` becomes a column of its own: the same call on the text of the
//! value at that path, made once for all conditions that read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Column, DFSchema, Result, ScalarValue, internal_datafusion_err, internal_err};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
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
    calls: Vec<Call>,
    scratch: paths::Scratch,
    /// This batch's: for each row what is asked for there, as bits of the paths; the rows that were looked into, and each path's
    /// values there.
    asked: Vec<u64>,
    looked: Option<Rows>,
    values: Vec<ArrayRef>,
}

/// A call that is answered from the value at a path.
struct Call {
    text: String,
    path: usize,
    /// Has the value's text alone.
    schema: SchemaRef,
    expr: Arc<dyn PhysicalExpr>,
    kind: DataType,
    /// This batch's answers, one for each row looked into, once somebody has asked.
    answers: Option<ArrayRef>,
}

/// The column that a call becomes, by its number.
pub fn column(call: usize) -> Column {
    Column::new_unqualified(format!("__call_{call}"))
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
    /// The number of a call, if it is one that is answered from what the common pass finds. `column` finds a column's place by
    /// its name.
    pub fn add(
        &mut self,
        context: &SessionContext,
        expr: &Expr,
        column: impl Fn(&str) -> Option<usize>,
    ) -> Result<Option<usize>> {
        let Some((name, steps)) = path_of(expr) else { return Ok(None) };
        let (Some(column), Expr::ScalarFunction(call)) = (column(name), expr) else { return Ok(None) };
        let text = expr.to_string();
        if let Some(known) = self.calls.iter().position(|call| call.text == text) {
            return Ok(Some(known));
        }
        let path = self.known.iter().position(|path| path.0 == column && path.1 == steps).unwrap_or_else(|| {
            let number = self.columns.entry(column).or_default().add(&steps);
            self.known.push((column, steps, number));
            self.known.len() - 1
        });
        let schema = Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8View, true)]));
        let mut call = call.clone();
        call.args = vec![Expr::Column(Column::new_unqualified("value"))];
        let known = DFSchema::try_from(schema.as_ref().clone())?;
        let expr = context.create_physical_expr(Expr::ScalarFunction(call), &known)?;
        let kind = expr.data_type(&schema)?;
        self.calls.push(Call { text, path, schema, expr, kind, answers: None });
        Ok(Some(self.calls.len() - 1))
    }

    /// The type of a call's answers.
    pub fn kind(&self, call: usize) -> DataType {
        self.calls[call].kind.clone()
    }

    /// What asks for a call's path.
    pub fn bit(&self, call: usize) -> u64 {
        // Of paths into different columns some share a bit.
        Paths::bit(self.known[self.calls[call].path].2)
    }

    /// Asks for paths in some rows, before they are looked into. What is found of other paths there says nothing.
    pub fn ask(&mut self, rows: &Rows, len: usize, paths: u64) {
        self.asked.resize(len, 0);
        rows.iter().for_each(|row| self.asked[row] |= paths);
    }

    /// Forgets the last batch.
    pub fn begin(&mut self) {
        self.asked.clear();
        self.looked = None;
        self.values.clear();
        self.calls.iter_mut().for_each(|call| call.answers = None);
    }

    /// The rows looked into.
    pub fn looked(&self) -> Result<&Rows> {
        let looked = self.looked.as_ref();
        looked.ok_or_else(|| internal_datafusion_err!("bodies are asked about before they are looked into"))
    }

    /// A call's answers, one for each row looked into.
    pub fn answers(&mut self, call: usize) -> Result<ArrayRef> {
        let Call { path, schema, expr, answers, .. } = &mut self.calls[call];
        if let Some(answers) = answers {
            return Ok(answers.clone());
        }
        let values = RecordBatch::try_new(schema.clone(), vec![self.values[*path].clone()])?;
        let array = expr.evaluate(&values)?.into_array(values.num_rows())?;
        *answers = Some(array.clone());
        Ok(array)
    }

    /// Looks into the bodies of the rows in which anything was asked for.
    pub fn look(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.asked.is_empty() {
            return Ok(());
        }
        let mut rows = Rows::all(batch.num_rows());
        rows.retain(|row| self.asked[row] != 0);
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
                paths.find(body, self.asked[row], &mut self.scratch, &mut found);
                mine.iter().for_each(|path| builders[*path].append_option(found[self.known[*path].2]));
            }
        }
        self.values = builders.into_iter().map(|mut builder| Arc::new(builder.finish()) as ArrayRef).collect();
        self.looked = Some(rows);
        Ok(())
    }
}
