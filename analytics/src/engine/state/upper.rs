//! The part of a rule's plan that runs over kept rows.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;

use crate::engine::slot::Slot;

/// A plan over tables into which rows are put before each run.
pub struct Upper {
    /// A slot a table.
    pub slots: Vec<Slot>,
    pub plan: Arc<dyn ExecutionPlan>,
}

impl Upper {
    /// What the plan makes of these rows, one batch a table.
    pub async fn run(&self, context: &SessionContext, rows: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        self.slots.iter().zip(rows).for_each(|(slot, rows)| slot.put(rows));
        // Each run of a plan adds metrics to it, which would pile up.
        collect(reset_plan_states(self.plan.clone())?, context.task_ctx()).await
    }
}
