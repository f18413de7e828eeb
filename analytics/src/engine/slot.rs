//! A table whose rows are whatever batch was last put into it, already filtered and projected for one rule's scan.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::datasource::TableType;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

/// The place where a plan's next input is put.
#[derive(Clone, Debug, Default)]
pub struct Slot(Arc<Mutex<Option<RecordBatch>>>);

impl Slot {
    pub fn put(&self, batch: RecordBatch) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(batch);
    }

    fn take(&self) -> Option<RecordBatch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A table over a slot.
#[derive(Debug)]
pub struct SlotTable {
    schema: SchemaRef,
    slot: Slot,
    filters: Filters,
}

/// What becomes of filters over a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filters {
    /// The table claims to apply each exactly, so that planning leaves them on the scan, where the engine takes them and
    /// evaluates them itself. What is put into the slot has the scan's columns.
    Ours,
    /// The plan applies them. What is put into the slot has all of the table's columns.
    Plans,
}

impl SlotTable {
    pub fn new(schema: SchemaRef, slot: Slot, filters: Filters) -> Self {
        Self { schema, slot, filters }
    }
}

#[async_trait]
impl TableProvider for SlotTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = match self.filters {
            Filters::Ours => TableProviderFilterPushDown::Exact,
            Filters::Plans => TableProviderFilterPushDown::Unsupported,
        };
        Ok(vec![support; filters.len()])
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let projected = match projection {
            Some(projection) => Arc::new(self.schema.project(projection)?),
            None => self.schema.clone(),
        };
        match self.filters {
            Filters::Ours => leaf(projected, self.slot.clone(), None),
            Filters::Plans => leaf(self.schema.clone(), self.slot.clone(), projection),
        }
    }
}

/// A plan that gives what is in a slot, of this schema, or some of its columns.
pub fn leaf(schema: SchemaRef, slot: Slot, projection: Option<&Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
    let partition = SlotPartition { schema: schema.clone(), slot };
    Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(partition)], projection, vec![], false, None)?))
}

#[derive(Debug)]
struct SlotPartition {
    schema: SchemaRef,
    slot: Slot,
}

impl PartitionStream for SlotPartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = futures::stream::iter(self.slot.take().map(Ok));
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), rows))
    }
}
