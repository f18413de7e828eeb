//! Several sorted files into one sorted file, a few rows of each in memory at a time.

use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use deltalake::kernel::{Add, LogicalFileView};
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt;
use vedette_schemas::Table;

use super::Config;
use super::files::{self, Files, ORDER};

/// Rows of each file in memory at a time.
const BATCH_ROWS: usize = 1024;

/// Writes what the files hold as one new file, which is not in the table yet.
pub(super) async fn merge(
    config: &Config,
    table: Table,
    delta: &DeltaTable,
    from: &[LogicalFileView],
) -> Result<Vec<Add>, DeltaTableError> {
    let files = Files::new(delta, files::properties(table, config.zstd_level))?;
    let rows = merged(delta, from).await?;
    let task = tokio::spawn(write(files, rows));
    let _stop = StopOnDrop(task.abort_handle());
    task.await.map_err(|error| DeltaTableError::Generic(error.to_string()))?
}

/// A merge that nobody waits for any more must not go on.
struct StopOnDrop(tokio::task::AbortHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn write(mut files: Files, mut rows: SendableRecordBatchStream) -> Result<Vec<Add>, DeltaTableError> {
    while let Some(batch) = rows.try_next().await? {
        files.push(&batch).await?;
    }
    let mut adds = files.finish().await?;
    // The rows are not new: who follows the table's changes must not see them again.
    adds.iter_mut().for_each(|add| add.data_change = false);
    Ok(adds)
}

async fn merged(delta: &DeltaTable, from: &[LogicalFileView]) -> Result<SendableRecordBatchStream, DataFusionError> {
    let session = SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH_ROWS);
    let context = SessionContext::new_with_config(session);
    let state = context.state();
    let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::with_capacity(from.len());
    for file in from {
        let provider = delta.table_provider().with_file_paths([file.path().into_owned()]).build().await?;
        let scan = provider.scan(&state, None, &[], None).await?;
        let single = scan.output_partitioning().partition_count() == 1;
        inputs.push(if single { scan } else { Arc::new(CoalescePartitionsExec::new(scan)) });
    }
    let together = if inputs.len() == 1 { inputs.remove(0) } else { UnionExec::try_new(inputs)? };
    let schema = together.schema();
    let mut keys = Vec::with_capacity(ORDER.len());
    for name in ORDER {
        keys.push(PhysicalSortExpr::new(col(name, &schema)?, SortOptions::default()));
    }
    let ordering = LexOrdering::new(keys).ok_or_else(|| DataFusionError::Internal("no sort keys".into()))?;
    execute_stream(Arc::new(SortPreservingMergeExec::new(ordering, together)), context.task_ctx())
}
