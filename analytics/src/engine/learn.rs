//! One reading of a table for all rules that learn from it: their filters run over what a store gives as over the stream.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::prelude::{DataFrame, SessionContext, col, ident};
use futures::TryStreamExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::spawn_blocking;
use vedette_detections::Rule;
use vedette_schemas::Table;

use super::history::{Apart, Opened, event_ids, time};
use super::input::Input;
use super::{Engine, Finding, Part, Tap, plan};

/// What an input needs of a table to learn from it.
pub struct Learning {
    /// How far back it looks, in microseconds.
    reach: i64,
    /// The table's columns that it reads, by their places.
    columns: BTreeSet<usize>,
    filters: Vec<Expr>,
}

impl Learning {
    /// Of an input, with the filters of its scan; `None` if its rule keeps nothing.
    pub fn new(rule: &Rule, input: &Input, filters: &[Expr]) -> Option<Self> {
        let reach = plan::reach(rule)?;
        let schema = input.table.schema();
        let always = ["event_id", "event_time"].iter().filter_map(|name| schema.index_of(name).ok());
        let asked = filters.iter().flat_map(Expr::column_refs).filter_map(|column| schema.index_of(column.name()).ok());
        let columns = always.chain(asked).chain(input.columns().iter().copied()).collect();
        Some(Self { reach, columns, filters: filters.to_vec() })
    }
}

/// Rows of a table, for the inputs that look so far back.
pub struct Read {
    table: Table,
    reach: i64,
    batch: RecordBatch,
}

/// Batches that are read ahead.
const AHEAD: usize = 4;

impl Engine {
    /// Begins to read what the rules look back on from `base`, in microseconds since 1970, each as far as it looks: every table
    /// beside the others and beside whoever evaluates what comes.
    pub(super) fn read_tables(
        &self,
        opened: &Opened,
        base: i64,
        apart: &Apart,
    ) -> Result<Receiver<Result<Read, DataFusionError>>, DataFusionError> {
        let (sender, rows) = channel(AHEAD);
        for (table, room) in &self.rooms {
            let Some(provider) = opened.table(*table) else { continue };
            let inputs = || room.taps.iter().filter_map(|tap| tap.learning.as_ref());
            let reaches: BTreeSet<i64> = inputs().map(|input| input.reach).collect();
            let mut scans = Vec::new();
            for stretch in stretches(base, &reaches) {
                let inputs: Vec<&Learning> = inputs().filter(|input| input.reach >= stretch.reach).collect();
                let columns: BTreeSet<usize> = inputs.iter().flat_map(|input| &input.columns).copied().collect();
                let rows = scan(&self.context, *table, provider, &inputs, &columns, &stretch)?;
                scans.push(Scan { table: *table, reach: stretch.reach, columns, rows, apart: apart.clone() });
            }
            let (sender, runtime) = (sender.clone(), Handle::current());
            // Decoding computes for as long as it takes, which the runtime's own threads are not for.
            spawn_blocking(move || runtime.block_on(read(scans, &sender)));
        }
        Ok(rows)
    }

    /// Gives rows to the inputs that look so far back.
    pub(super) async fn learn_from(&mut self, read: Read, now: i64, findings: &mut Vec<Finding>) {
        let Some(room) = self.rooms.get_mut(&read.table) else { return };
        let takes = |tap: &Tap| tap.learning.as_ref().is_some_and(|input| input.reach >= read.reach);
        for (tap, outcome) in room.outcomes(&self.rules, &self.context, &read.batch, takes).await {
            let tap = &mut room.taps[tap];
            // Events come from other processes as well as from the store. Which of them a rule's input has from the store
            // depends on when it was read.
            if let (Part::Groups, Ok(rows)) = (self.options.part, &outcome) {
                tap.learned.extend(rows.iter().flat_map(event_ids).flatten());
            }
            let live = &mut self.rules[tap.rule];
            if let Err(error) = live.take(tap.number, outcome, now, &mut self.open, findings) {
                findings.push(live.fail(&error, now));
            }
        }
    }
}

/// Reads one scan after the other, until there is no more or nobody listens.
async fn read(scans: Vec<Scan>, sender: &Sender<Result<Read, DataFusionError>>) {
    for scan in scans {
        if let Err(error) = scan.read(sender).await {
            let _ = sender.send(Err(error)).await;
            return;
        }
    }
}

/// A stretch of a table, about to be read.
struct Scan {
    table: Table,
    reach: i64,
    columns: BTreeSet<usize>,
    rows: DataFrame,
    apart: Apart,
}

impl Scan {
    async fn read(self, sender: &Sender<Result<Read, DataFusionError>>) -> Result<(), DataFusionError> {
        let Self { table, reach, columns, rows, apart } = self;
        let schema = table.schema();
        let mut rows = rows.execute_stream().await?;
        while let Some(batch) = rows.try_next().await? {
            let batch = apart.without(conform(&batch, &schema, &columns)?)?;
            if sender.send(Ok(Read { table, reach, batch })).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// A stretch of event time, in microseconds since 1970, that inputs read which look at least `reach` microseconds back.
#[derive(Debug, PartialEq)]
struct Stretch {
    reach: i64,
    from: i64,
    /// Not any more in it; the end of time for the newest.
    to: i64,
}

/// The time before and after `base`, cut where an input's reach ends: what few look back on is read for these few alone, with
/// the columns that they read. The oldest first.
fn stretches(base: i64, reaches: &BTreeSet<i64>) -> impl Iterator<Item = Stretch> {
    let ends = reaches.iter().rev().skip(1).map(move |reach| base.saturating_sub(*reach)).chain([i64::MAX]);
    let stretch = move |(reach, to): (&i64, i64)| Stretch { reach: *reach, from: base.saturating_sub(*reach), to };
    reaches.iter().rev().zip(ends).map(stretch)
}

/// A table's rows of a stretch that any of these inputs may want, with these columns.
fn scan(
    context: &SessionContext,
    table: Table,
    provider: &Arc<dyn TableProvider>,
    inputs: &[&Learning],
    columns: &BTreeSet<usize>,
    stretch: &Stretch,
) -> Result<DataFrame, DataFusionError> {
    let schema = table.schema();
    let filters: Vec<&[Expr]> = inputs.iter().map(|input| input.filters.as_slice()).collect();
    let mut frame = context.read_table(provider.clone())?.filter(col("event_time").gt_eq(time(stretch.from)))?;
    if stretch.to < i64::MAX {
        frame = frame.filter(col("event_time").lt(time(stretch.to)))?;
    }
    if let Some(wanted) = outgoing(provider.as_ref(), &schema, &filters) {
        frame = frame.filter(wanted)?;
    }
    let names = columns.iter().map(|column| ident(schema.field(*column).name()));
    frame.select(names.collect::<Vec<_>>())
}

/// What a store can leave out of a scan for some inputs: one condition that every row meets which any of them wants. It is made
/// of what the table applies itself and exactly, so that nothing is asked twice; `None` if some input has nothing of that kind.
fn outgoing(provider: &dyn TableProvider, schema: &Schema, inputs: &[&[Expr]]) -> Option<Expr> {
    let exact = |expr: &Expr| {
        let support = provider.supports_filters_pushdown(&[expr]);
        support.is_ok_and(|support| support == [TableProviderFilterPushDown::Exact])
    };
    let mut wanted: Vec<Expr> = Vec::new();
    for filters in inputs {
        let terms = filters.iter().cloned().flat_map(split_conjunction_owned);
        let own = conjunction(terms.filter_map(|term| plain(term, schema).ok()).filter(exact))?;
        if !wanted.contains(&own) {
            wanted.push(own);
        }
    }
    wanted.into_iter().reduce(Expr::or).filter(exact)
}

/// A filter as it was before it was planned over a table whose labels are dictionaries: a store has them as texts.
fn plain(filter: Expr, schema: &Schema) -> Result<Expr, DataFusionError> {
    let is_text = |kind: &DataType| match kind {
        DataType::Dictionary(_, value) => value.is_string(),
        kind => kind.is_string(),
    };
    let of_text = |expr: &Expr| match expr {
        Expr::Column(column) => schema.field_with_name(column.name()).is_ok_and(|field| is_text(field.data_type())),
        _ => false,
    };
    let plain = filter.transform_up(|expr| {
        Ok(match expr {
            Expr::Column(column) => Transformed::yes(Expr::Column(Column::new_unqualified(column.name))),
            Expr::Literal(ScalarValue::Dictionary(_, value), metadata) => {
                Transformed::yes(Expr::Literal(*value, metadata))
            }
            Expr::Cast(cast) if is_text(cast.field.data_type()) && of_text(&cast.expr) => Transformed::yes(*cast.expr),
            other => Transformed::no(other),
        })
    })?;
    Ok(plain.data)
}

/// A batch of some of a table's columns as one of all of them; the others are null.
fn conform(batch: &RecordBatch, schema: &SchemaRef, columns: &BTreeSet<usize>) -> Result<RecordBatch, ArrowError> {
    let mut given = batch.columns().iter();
    let mut all: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (place, field) in schema.fields().iter().enumerate() {
        match columns.contains(&place).then(|| given.next()).flatten() {
            Some(column) => all.push(cast(column, field.data_type())?),
            None => all.push(new_null_array(field.data_type(), batch.num_rows())),
        }
    }
    let nullable = |field: &Arc<arrow::datatypes::Field>| field.as_ref().clone().with_nullable(true);
    let schema: Vec<_> = schema.fields().iter().map(nullable).collect();
    RecordBatch::try_new(Arc::new(Schema::new(schema)), all)
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMicrosecondArray;
    use vedette_detections::sql::session;

    use super::*;
    use crate::store::clickhouse::ClickHouseTable;

    /// What goes out to ClickHouse for rules with these conditions.
    async fn sent(conditions: &[&str]) -> Option<String> {
        let context = session().unwrap();
        let mut filters = Vec::new();
        for condition in conditions {
            let sql = format!("SELECT event_id FROM audit WHERE {condition}");
            filters.push(Input::plan(&context, &sql).await.unwrap().1);
        }
        let table = ClickHouseTable::new(clickhouse::Client::default(), Table::Audit);
        let inputs: Vec<&[Expr]> = filters.iter().map(Vec::as_slice).collect();
        outgoing(&table, &Table::Audit.schema(), &inputs).map(|expr| expr.to_string())
    }

    #[tokio::test]
    async fn a_store_leaves_out_what_no_rule_wants() {
        let one = "verb = 'get' AND resource IN ('secrets', 'pods') AND json_get_str(request_object, 'kind') = 'Pod'";
        let other = "response_code = 403 AND request_uri LIKE '/api/%'";
        let sent_for_one = sent(&[one]).await.unwrap();
        assert!(sent_for_one.contains("verb") && sent_for_one.contains("secrets"), "{sent_for_one}");
        assert!(!sent_for_one.contains("json"), "{sent_for_one}");
        let sent_for_other = sent(&[other]).await.unwrap();
        assert!(sent_for_other.contains("403") && sent_for_other.contains("/api/%"), "{sent_for_other}");
        assert_eq!(sent(&[one, other, one]).await, Some(format!("{sent_for_one} OR {sent_for_other}")));
        // One rule needs every row.
        assert_eq!(sent(&[one, "lower(name) = 'x'"]).await, None);
    }

    #[test]
    fn columns_that_were_not_read_are_null() {
        let schema: SchemaRef = Table::Audit.schema();
        let columns: BTreeSet<usize> = ["verb", "event_time"].map(|name| schema.index_of(name).unwrap()).into();
        let given = columns.iter().map(|place| {
            let values: ArrayRef = match schema.field(*place).name().as_str() {
                "verb" => Arc::new(arrow::array::StringArray::from(vec!["get", "list"])),
                _ => Arc::new(TimestampMicrosecondArray::from(vec![5, 6]).with_timezone("UTC")),
            };
            (schema.field(*place).name().clone(), values)
        });
        let batch = conform(&RecordBatch::try_from_iter(given).unwrap(), &schema, &columns).unwrap();
        let kinds = |schema: &Schema| schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>();
        assert_eq!(kinds(&batch.schema()), kinds(&schema));
        let nulls = |name: &str| batch.column_by_name(name).unwrap().logical_null_count();
        assert_eq!((nulls("verb"), nulls("user_name")), (0, 2));
    }

    #[test]
    fn each_stretch_is_read_for_those_who_look_so_far_back() {
        let cut = |reaches: &[i64]| -> Vec<(i64, i64, i64)> {
            let reaches = reaches.iter().copied().collect();
            stretches(100, &reaches).map(|stretch| (stretch.reach, stretch.from, stretch.to)).collect()
        };
        assert_eq!(cut(&[10, 50, 10, 20]), [(50, 50, 80), (20, 80, 90), (10, 90, i64::MAX)]);
        assert_eq!(cut(&[7]), [(7, 93, i64::MAX)]);
        assert_eq!(cut(&[]), []);
    }
}
