//! Conditions shared by rules: each distinct conjunct of a table's rules is one atom, evaluated once a batch at most.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{filter_record_batch, prep_null_mask_filter};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::prelude::SessionContext;

/// From this cost on, an atom sees only the rows that the cheaper ones left.
const SELECTIVE: u32 = 8;

/// One condition over one table, ready to run on a batch projected to the columns it reads.
struct Atom {
    expr: Arc<dyn PhysicalExpr>,
    columns: Vec<usize>,
    cost: u32,
}

/// The atoms of one table's rules.
#[derive(Default)]
pub struct Atoms {
    atoms: Vec<Atom>,
    known: HashMap<String, usize>,
    /// This batch's result of each atom that was evaluated over all of its rows.
    cache: Vec<Option<BooleanBuffer>>,
}

impl Atoms {
    /// Takes a scan's filters apart. Returns the program of a rule: its atoms, cheapest first.
    pub fn add(&mut self, context: &SessionContext, schema: &DFSchema, filters: &[Expr]) -> Result<Vec<usize>> {
        let mut conjuncts: Vec<Expr> = filters.iter().cloned().flat_map(split_conjunction_owned).collect();
        conjuncts.sort_by_key(cost);
        conjuncts.into_iter().map(|conjunct| self.atom(context, schema, conjunct)).collect()
    }

    fn atom(&mut self, context: &SessionContext, schema: &DFSchema, conjunct: Expr) -> Result<usize> {
        let conjunct = unqualified(conjunct)?;
        let name = conjunct.to_string();
        if let Some(known) = self.known.get(&name) {
            return Ok(*known);
        }
        let cost = cost(&conjunct);
        let expr = context.create_physical_expr(conjunct, schema)?;
        let mut columns: Vec<usize> = collect_columns(&expr).iter().map(|column| column.index()).collect();
        columns.sort_unstable();
        let expr = reassign_expr_columns(expr, &schema.as_arrow().project(&columns)?)?;
        self.atoms.push(Atom { expr, columns, cost });
        self.known.insert(name, self.atoms.len() - 1);
        Ok(self.atoms.len() - 1)
    }

    /// Forgets the last batch's results.
    pub fn reset(&mut self) {
        self.cache.clear();
        self.cache.resize(self.atoms.len(), None);
    }

    /// The rows of a batch that pass every atom of a program; `None` if none does.
    pub fn select(&mut self, batch: &RecordBatch, program: &[usize]) -> Result<Option<BooleanArray>> {
        let rows = batch.num_rows();
        let mut left = BooleanBuffer::new_set(rows);
        let mut count = rows;
        for &index in program {
            if count == 0 {
                break;
            }
            if self.atoms[index].cost < SELECTIVE {
                left = &left & self.whole(batch, index)?;
            } else {
                left = self.survivors(batch, index, left, count)?;
            }
            count = left.count_set_bits();
        }
        Ok((count > 0).then(|| BooleanArray::new(left, None)))
    }

    fn whole(&mut self, batch: &RecordBatch, index: usize) -> Result<&BooleanBuffer> {
        let atom = &self.atoms[index];
        let slot = &mut self.cache[index];
        match slot {
            Some(_) => {}
            None => *slot = Some(atom.evaluate(&batch.project(&atom.columns)?)?),
        }
        // Filled just above: the empty buffer can't be reached.
        Ok(slot.get_or_insert_with(|| BooleanBuffer::new_unset(0)))
    }

    fn survivors(&self, batch: &RecordBatch, index: usize, left: BooleanBuffer, count: usize) -> Result<BooleanBuffer> {
        let atom = &self.atoms[index];
        let projected = batch.project(&atom.columns)?;
        if count == batch.num_rows() {
            return atom.evaluate(&projected);
        }
        let passed = atom.evaluate(&filter_record_batch(&projected, &BooleanArray::new(left.clone(), None))?)?;
        let mut kept = arrow::array::BooleanBufferBuilder::new(batch.num_rows());
        kept.append_n(batch.num_rows(), false);
        for (nth, row) in left.set_indices().enumerate() {
            kept.set_bit(row, passed.value(nth));
        }
        Ok(kept.finish())
    }
}

impl Atom {
    /// True where the condition holds: null counts as false, as in a WHERE clause.
    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanBuffer> {
        let array = self.expr.evaluate(batch)?.into_array(batch.num_rows())?;
        let booleans = array
            .as_boolean_opt()
            .ok_or_else(|| datafusion::error::DataFusionError::Plan(format!("{} is not a condition", self.expr)))?;
        let plain = if booleans.null_count() > 0 { prep_null_mask_filter(booleans) } else { booleans.clone() };
        Ok(plain.values().clone())
    }
}

/// Scans filter one table, so that the qualifier says nothing; without it, two rules' equal conditions are one atom.
fn unqualified(expr: Expr) -> Result<Expr> {
    let expr = expr.transform(|e| {
        Ok(match e {
            Expr::Column(column) => Transformed::yes(Expr::Column(Column::new_unqualified(column.name))),
            other => Transformed::no(other),
        })
    })?;
    Ok(expr.data)
}

/// A rough price of an expression a row: comparisons are cheap, patterns dear, functions (JSON above all) dearest.
fn cost(expr: &Expr) -> u32 {
    let mut total = 0;
    // The closure never fails, and the walk has no other error.
    let _ = expr.apply(|e| {
        total += match e {
            Expr::ScalarFunction(function) if function.name().starts_with("json") => 50,
            Expr::ScalarFunction(_) => 10,
            Expr::Like(_) | Expr::SimilarTo(_) => 4,
            Expr::BinaryExpr(b) if matches!(b.op, Operator::RegexMatch | Operator::RegexIMatch) => 20,
            Expr::BinaryExpr(_) | Expr::InList(_) | Expr::IsNull(_) | Expr::IsNotNull(_) => 1,
            _ => 0,
        };
        Ok(TreeNodeRecursion::Continue)
    });
    total
}
