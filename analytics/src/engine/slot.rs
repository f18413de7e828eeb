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

/// A table over a slot. It claims to apply every filter exactly, so that planning leaves the filters on the scan, where
/// the engine takes them and evaluates them itself.
#[derive(Debug)]
pub struct SlotTable {
    schema: SchemaRef,
    slot: Slot,
}

impl SlotTable {
    pub fn new(schema: SchemaRef, slot: Slot) -> Self {
        Self { schema, slot }
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
        Ok(vec![TableProviderFilterPushDown::Exact; filters.len()])
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(projection) => Arc::new(self.schema.project(projection)?),
            None => self.schema.clone(),
        };
        let partition = SlotPartition { schema: schema.clone(), slot: self.slot.clone() };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(partition)], None, vec![], false, None)?))
    }
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
