//! One condition, ready to run over the columns it reads, and what it costs.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, plan_err};
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};
use datafusion::physical_expr::PhysicalExpr;

use vedette_detections::functions;

use super::rows::Rows;
use super::search::Search;

/// Where a column that a condition reads comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table's column.
    Column(usize),
    /// What a call finds in a body: its number among the calls.
    Call(usize),
}

/// How a condition is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By the texts of one label column: column, and place in its tables.
    Label(usize, (usize, usize)),
    /// Over all rows, once a batch.
    Whole,
    /// Over the rows that a rule's cheaper conditions left.
    Survivors,
    /// Over the rows whose bodies were looked into.
    Body,
}

impl How {
    /// What it means, for people.
    pub fn words(self) -> &'static str {
        match self {
            How::Label(..) => "asked once for each distinct text",
            How::Whole => "asked once a batch, of every row",
            How::Survivors => "asked of the rows that the cheaper conditions leave",
            How::Body => "asked of values that one pass over each body finds, for the rows that any rule still needs",
        }
    }
}

/// One condition over one table.
pub struct Leaf {
    pub text: String,
    pub how: How,
    pub cost: u32,
    pub origins: Vec<Origin>,
    /// Might fail on rows that a rule's other conditions leave out, so that it must not see them.
    pub fallible: bool,
    /// Has the columns of `origins`, in their order.
    pub schema: SchemaRef,
    pub expr: Arc<dyn PhysicalExpr>,
    /// The condition as a search: `expr` is not needed then.
    pub search: Option<Search>,
}

impl Leaf {
    /// The rows where the condition is true, over the columns it reads.
    pub fn over(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<Rows> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        let array = self.expr.evaluate(&batch)?.into_array(rows)?;
        match array.as_boolean_opt() {
            Some(condition) => Ok(Rows::from_condition(condition)),
            None => plan_err!("{} is not a condition", self.text),
        }
    }
}

/// A rough price of an expression a row: comparisons are cheap, patterns dear, functions (JSON above all) dearest.
pub fn cost(expr: &Expr) -> u32 {
    let mut total = 0;
    // The closure never fails, and the walk has no other error.
    let _ = expr.apply(|e| {
        total += match e {
            Expr::ScalarFunction(function) if function.name().starts_with("json") => 50,
            Expr::ScalarFunction(_) => 10,
            Expr::Like(_) | Expr::SimilarTo(_) => 8,
            Expr::BinaryExpr(b) if matches!(b.op, Operator::RegexMatch | Operator::RegexIMatch) => 20,
            Expr::BinaryExpr(_) | Expr::InList(_) | Expr::IsNull(_) | Expr::IsNotNull(_) => 1,
            _ => 0,
        };
        Ok(TreeNodeRecursion::Continue)
    });
    total
}

/// Functions that have an answer for whatever they are given.
const TOTAL: [&str; 22] = [
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_length",
    "btrim",
    "cardinality",
    "character_length",
    "coalesce",
    "concat",
    "concat_ws",
    "contains",
    "ends_with",
    "lower",
    "ltrim",
    "nullif",
    "octet_length",
    "replace",
    "reverse",
    "rtrim",
    "starts_with",
    "strpos",
    "upper",
];

/// Whether an expression can fail on some input. Unsure counts as yes.
pub fn fallible(expr: &Expr, schema: &DFSchema) -> bool {
    let total = |name: &str| name.starts_with("json_") || TOTAL.contains(&name) || functions::is_ours(name);
    let text = |kind: &DataType| match kind {
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => true,
        DataType::Dictionary(_, value) => matches!(**value, DataType::Utf8),
        _ => false,
    };
    let widens = |from: DataType, to: &DataType| {
        text(to) || from == *to || from.is_integer() && matches!(to, DataType::Int64 | DataType::Float64)
    };
    expr.exists(|e| {
        Ok(match e {
            // A pattern that comes from a row may be none.
            Expr::ScalarFunction(function) if function.name() == "regexp_like" => {
                !function.args.iter().skip(1).all(|arg| matches!(arg, Expr::Literal(..)))
            }
            Expr::ScalarFunction(function) => !total(function.name()),
            Expr::Cast(cast) => cast.expr.get_type(schema).map_or(true, |from| !widens(from, cast.field.data_type())),
            Expr::BinaryExpr(binary) => matches!(
                binary.op,
                Operator::Divide | Operator::Modulo | Operator::Plus | Operator::Minus | Operator::Multiply
            ),
            _ => false,
        })
    })
    .unwrap_or(true)
}
