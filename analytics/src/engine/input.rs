//! What a rule takes from one table: the rows that pass its filter, with the columns it selects.

use std::sync::Arc;

use arrow::array::RecordBatchOptions;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::streaming::StreamingTableExec;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use vedette_schemas::Table;

use super::conditions::{Program, Rows};
use super::slot::{Filters, Slot, SlotTable};

/// One scan, planned.
pub struct Input {
    pub table: Table,
    /// The scan's filter, among the table's conditions.
    pub program: Program,
    /// The table's columns that `make` reads.
    columns: Vec<usize>,
    schema: SchemaRef,
    make: Make,
}

/// What becomes of rows that passed.
enum Make {
    /// Each column by an expression of its own.
    Columns(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
    /// Whatever the plan says.
    Plan(Slot, Arc<dyn ExecutionPlan>),
}

/// Registers the tables that rules read, over one slot.
pub fn register(context: &SessionContext, slot: &Slot) -> Result<(), DataFusionError> {
    for table in Table::ALL.into_iter().filter(|table| table.is_streamed()) {
        let provider = Arc::new(SlotTable::new(table.schema(), slot.clone(), Filters::Ours));
        context.deregister_table(table.name())?; // the rule before this one left its own
        context.register_table(table.name(), provider)?;
    }
    Ok(())
}

impl Input {
    /// Plans a SELECT over one table. Returns it with the filters of its scan.
    pub async fn plan(context: &SessionContext, sql: &str) -> Result<(Self, Vec<Expr>), DataFusionError> {
        let slot = Slot::default();
        register(context, &slot)?;
        let state = context.state();
        let logical = state.optimize(&state.create_logical_plan(sql).await?)?;
        let plan = state.query_planner().create_physical_plan(&logical, &state).await?;
        Self::new(only_scan(&logical)?, slot, plan)
    }

    /// From the scan of a planned rule, and the plan over the slot that its rows go through.
    pub fn new(
        scan: TableScan,
        slot: Slot,
        plan: Arc<dyn ExecutionPlan>,
    ) -> Result<(Self, Vec<Expr>), DataFusionError> {
        let table = Table::parse(scan.table_name.table())
            .ok_or_else(|| DataFusionError::Plan(format!("{} is not a table that rules read", scan.table_name)))?;
        let columns = scan.projection.clone().unwrap_or_else(|| (0..table.columns().len()).collect());
        let schema = plan.schema();
        let make = match columns_only(&plan) {
            Some(exprs) => Make::Columns(exprs, schema.clone()),
            None => Make::Plan(slot, plan),
        };
        Ok((Self { table, program: Program::default(), columns, schema, make }, scan.filters))
    }

    /// The schema of the rows that it makes.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The table's columns that rows are made of, by their places.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// Whether rows are made without running a plan.
    pub fn is_direct(&self) -> bool {
        matches!(self.make, Make::Columns(..))
    }

    /// What the rule selects of the rows that passed, in one batch or several.
    pub async fn rows(
        &self,
        context: &SessionContext,
        batch: &RecordBatch,
        passed: &Rows,
    ) -> Result<Vec<RecordBatch>, DataFusionError> {
        let input = filter_record_batch(&batch.project(&self.columns)?, &passed.filter())?;
        match &self.make {
            Make::Columns(exprs, schema) => {
                let rows = input.num_rows();
                let columns =
                    exprs.iter().map(|expr| expr.evaluate(&input)?.into_array(rows)).collect::<Result<_, _>>()?;
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                Ok(vec![RecordBatch::try_new_with_options(schema.clone(), columns, &options)?])
            }
            Make::Plan(slot, plan) => {
                slot.put(input);
                // Each run of a plan adds metrics to it, which would pile up.
                collect(reset_plan_states(plan.clone())?, context.task_ctx()).await
            }
        }
    }
}

/// The expressions of a plan that does no more than to compute columns from a row.
fn columns_only(plan: &Arc<dyn ExecutionPlan>) -> Option<Vec<Arc<dyn PhysicalExpr>>> {
    if let Some(scan) = plan.downcast_ref::<StreamingTableExec>() {
        // Planning lets the scan put its columns in another order.
        let schema = scan.partition_schema();
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let order = scan.projection().as_deref().unwrap_or(&all);
        let column = |index: &usize| Arc::new(Column::new(schema.field(*index).name(), *index)) as _;
        return Some(order.iter().map(column).collect());
    }
    let projection = plan.downcast_ref::<ProjectionExec>()?;
    let scan = projection.input().downcast_ref::<StreamingTableExec>()?;
    let exprs = projection.expr().iter().map(|column| column.expr.clone()).collect();
    scan.projection().is_none().then_some(exprs)
}

/// The one scan of a plan.
pub fn only_scan(plan: &LogicalPlan) -> Result<TableScan, DataFusionError> {
    let mut scans = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            scans.push(scan.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match scans.pop() {
        Some(scan) if scans.is_empty() => Ok(scan),
        Some(_) => Err(DataFusionError::Plan("reads more than one table; what joins rows is a sequence".into())),
        None => Err(DataFusionError::Plan("the SQL reads no table, or its condition is never true".into())),
    }
}
