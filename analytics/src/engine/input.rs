//! What a rule takes from one table: the rows that pass its filter, with the columns it selects.

use std::sync::Arc;

use arrow::array::RecordBatchOptions;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, TableScan};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::execution_plan::reset_plan_states;
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
    Columns(Vec<Arc<dyn PhysicalExpr>>),
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
        Self::new(&state, &logical, slot).await
    }

    /// Of an optimized plan over tables that have the slot.
    pub async fn new(
        state: &SessionState,
        plan: &LogicalPlan,
        slot: Slot,
    ) -> Result<(Self, Vec<Expr>), DataFusionError> {
        let scan = only_scan(plan)?;
        let table = Table::parse(scan.table_name.table())
            .ok_or_else(|| DataFusionError::Plan(format!("{} is not a table that rules read", scan.table_name)))?;
        let columns = scan.projection.clone().unwrap_or_else(|| (0..table.columns().len()).collect());
        let (schema, make) = match columns_only(state, plan) {
            Some(exprs) => (plan.schema().inner().clone(), Make::Columns(exprs)),
            None => {
                let plan = state.query_planner().create_physical_plan(plan, state).await?;
                (plan.schema(), Make::Plan(slot, plan))
            }
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
            Make::Columns(exprs) => {
                let rows = input.num_rows();
                let columns =
                    exprs.iter().map(|expr| expr.evaluate(&input)?.into_array(rows)).collect::<Result<_, _>>()?;
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                Ok(vec![RecordBatch::try_new_with_options(self.schema(), columns, &options)?])
            }
            Make::Plan(slot, plan) => {
                slot.put(input);
                // Each run of a plan adds metrics to it, which would pile up.
                collect(reset_plan_states(plan.clone())?, context.task_ctx()).await
            }
        }
    }
}

/// The expressions of a plan that does no more than to compute columns from those of a scan.
fn columns_only(state: &SessionState, plan: &LogicalPlan) -> Option<Vec<Arc<dyn PhysicalExpr>>> {
    let (exprs, scan) = match plan {
        LogicalPlan::Projection(Projection { expr, input, .. }) => (expr.clone(), input.as_ref()),
        scan => (scan.schema().iter().map(Expr::from).collect(), scan),
    };
    let mut leaf = scan;
    while let LogicalPlan::SubqueryAlias(alias) = leaf {
        leaf = &alias.input;
    }
    if !matches!(leaf, LogicalPlan::TableScan(scan) if scan.fetch.is_none()) {
        return None;
    }
    let planning = PhysicalPlanningContext::default();
    let planned = |expr: &Expr| create_physical_expr(expr, scan.schema(), state.execution_props(), &planning).ok();
    exprs.iter().map(planned).collect()
}

/// The one scan of a plan.
fn only_scan(plan: &LogicalPlan) -> Result<TableScan, DataFusionError> {
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
