//! One rule, planned: the table it reads, and what is left of its SQL once the engine applied its filters.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use vedette_detections::Rule;
use vedette_schemas::Table;

use super::slot::{Slot, SlotTable};

/// A rule as the engine runs it.
pub struct Compiled {
    pub rule: Rule,
    pub table: Table,
    /// The atoms of the rule's filter, in the table's `Atoms`.
    pub program: Vec<usize>,
    /// The table's columns that the rest of the plan reads.
    pub projection: Vec<usize>,
    slot: Slot,
    plan: Arc<dyn ExecutionPlan>,
}

impl Compiled {
    /// Plans a rule's SQL. Returns it with the filters of its one scan.
    pub async fn plan(context: &SessionContext, rule: Rule) -> Result<(Self, Vec<Expr>), DataFusionError> {
        let slot = Slot::default();
        for table in Table::ALL.into_iter().filter(|table| *table != Table::Alerts) {
            let provider = Arc::new(SlotTable::new(table.schema(), slot.clone()));
            context.deregister_table(table.name())?; // the rule before this one left its own
            context.register_table(table.name(), provider)?;
        }
        let state = context.state();
        let logical = state.optimize(&state.create_logical_plan(&rule.sql).await?)?;
        let scan = only_scan(&logical)?;
        let table = Table::parse(scan.table_name.table())
            .ok_or_else(|| DataFusionError::Plan(format!("{} is not a table that rules read", scan.table_name)))?;
        let projection = scan.projection.clone().unwrap_or_else(|| (0..table.columns().len()).collect());
        let plan = state.query_planner().create_physical_plan(&logical, &state).await?;
        Ok((Self { rule, table, program: Vec::new(), projection, slot, plan }, scan.filters))
    }

    /// What the rest of the plan makes of rows that passed the filters, projected.
    pub async fn finish(
        &self,
        context: &SessionContext,
        input: RecordBatch,
    ) -> Result<Vec<RecordBatch>, DataFusionError> {
        self.slot.put(input);
        // Each run of a plan adds metrics to it, which would pile up.
        collect(reset_plan_states(self.plan.clone())?, context.task_ctx()).await
    }
}

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
        Some(_) => Err(DataFusionError::Plan("a match rule reads one table, once".into())),
        None => Err(DataFusionError::Plan("the SQL reads no table, or its condition is never true".into())),
    }
}
