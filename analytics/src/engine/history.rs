//! What the engine knows from the store: rules that keep rows take them from there, as if they had run all along.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{AsArray, BooleanArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::functions::datetime::expr_fn::date_trunc;
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::prelude::{DataFrame, Expr, SessionContext, col, ident, lit};
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use futures::future::try_join_all;
use vedette_detections::sql::session_with_lists;
use vedette_detections::{Lists, RuleKind, Span};
use vedette_schemas::{EventId, Table};

use super::finding::json_rows;
use super::open::Told;
use super::state::State;
use super::{Engine, Finding, Part, plan};
use crate::store::{Store, StoreError};

type Result<T> = std::result::Result<T, HistoryError>;

#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Sql(#[from] DataFusionError),
    #[error(transparent)]
    Engine(#[from] super::EngineError),
    /// Why a rule failed at run time.
    #[error("{0}")]
    Rule(String),
}

/// A session over the store's tables as they are now, each with the rows of some event time only: from `from` to before `to`,
/// in microseconds since 1970; the ends of time leave all in.
pub async fn session(store: &Arc<dyn Store>, lists: &Arc<Lists>, from: i64, to: i64) -> Result<SessionContext> {
    Opened::now(store).await?.session(lists, from, to)
}

/// A store's tables as they were at one time, for as many sessions as are needed.
pub(crate) struct Opened(Vec<(Table, Arc<dyn TableProvider>)>);

impl Opened {
    pub async fn now(store: &Arc<dyn Store>) -> Result<Self> {
        let open = |table: Table| async move { Ok::<_, StoreError>((table, store.provider(table).await?)) };
        Ok(Self(try_join_all(Table::ALL.map(open)).await?))
    }

    pub fn table(&self, table: Table) -> Option<&Arc<dyn TableProvider>> {
        self.0.iter().find(|(other, _)| *other == table).map(|(_, provider)| provider)
    }

    fn session(&self, lists: &Arc<Lists>, from: i64, to: i64) -> Result<SessionContext> {
        let context = session_with_lists(lists.clone(), |config| config.with_target_partitions(1))?;
        for (table, provider) in &self.0 {
            let rows = context.read_table(provider.clone())?;
            let rows = if from > i64::MIN { rows.filter(col("event_time").gt_eq(time(from)))? } else { rows };
            let rows = if to < i64::MAX { rows.filter(col("event_time").lt(time(to)))? } else { rows };
            context.register_table(table.name(), rows.into_view())?;
        }
        Ok(context)
    }
}

/// Of each cluster the newest event's time, and the last receipt, in microseconds since 1970.
pub type Newest = BTreeMap<String, (i64, i64)>;

/// What a store holds at one time.
pub struct Stored {
    opened: Opened,
    /// Of the clusters that have sent events lately.
    newest: Newest,
}

impl Stored {
    /// `newest` is what the store holds of each cluster that it has heard of lately; `None` has the store read for it.
    pub async fn now(store: &Arc<dyn Store>, newest: Option<Newest>, lists: &Arc<Lists>, now: i64) -> Result<Self> {
        let opened = Opened::now(store).await?;
        let mut newest = match newest {
            Some(newest) => newest,
            None => read_newest(&opened, lists, now).await?,
        };
        newest.retain(|_, (_, received)| *received >= now - KNOWN);
        Ok(Self { opened, newest })
    }
}

pub(super) fn time(micros: i64) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())))
}

/// Events that the engine is given besides, while it learns: it must not read them from the store as well.
#[derive(Clone, Debug, Default)]
pub struct Apart(Arc<Mutex<HashSet<EventId>>>);

impl Apart {
    /// Adds the events of a batch, before they can come to be stored.
    pub fn add(&self, batch: &RecordBatch) {
        self.ids().extend(event_ids(batch).flatten());
    }

    pub(super) fn without(&self, batch: RecordBatch) -> std::result::Result<RecordBatch, ArrowError> {
        let ids = self.ids();
        if ids.is_empty() {
            return Ok(batch);
        }
        without(batch, &ids)
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<EventId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events of a batch's rows; nothing if it does not name them.
pub(super) fn event_ids(batch: &RecordBatch) -> impl Iterator<Item = Option<EventId>> {
    // Where rows are aggregated, the event's own columns go beside those of the rule.
    let column = batch.column_by_name("__event_id").or_else(|| batch.column_by_name("event_id"));
    let ids = column.and_then(|column| column.as_string_view_opt());
    ids.into_iter().flat_map(|ids| ids.iter().map(|id| id.and_then(EventId::parse)))
}

/// Batches without the rows of these events.
pub(super) fn without_any(
    batches: Vec<RecordBatch>,
    events: &HashSet<EventId>,
) -> std::result::Result<Vec<RecordBatch>, DataFusionError> {
    if events.is_empty() {
        return Ok(batches);
    }
    let without = |batch| without(batch, events).map_err(DataFusionError::from);
    batches.into_iter().map(without).collect()
}

fn without(batch: RecordBatch, events: &HashSet<EventId>) -> std::result::Result<RecordBatch, ArrowError> {
    let keep: Vec<bool> = event_ids(&batch).map(|id| !id.is_some_and(|id| events.contains(&id))).collect();
    // Rows without events of their own are not among them.
    if keep.is_empty() { Ok(batch) } else { filter_record_batch(&batch, &BooleanArray::from(keep)) }
}

/// The ids alone of the rows of a batch that passed a filter.
pub(super) fn ids(
    batch: &RecordBatch,
    passed: &BooleanArray,
) -> std::result::Result<Vec<RecordBatch>, DataFusionError> {
    let column = batch.schema().index_of("event_id")?;
    Ok(vec![filter_record_batch(&batch.project(&[column])?, passed)?])
}

/// The store is asked for so many findings by their ids; for more, for all of the time.
const NAMED: usize = 1_000;

/// How long a cluster may have been silent and still be known, in microseconds.
const KNOWN: i64 = 2 * DAY;

const DAY: i64 = 86_400_000_000;

impl Engine {
    /// Learns from the store what the rules would know had they run all along up to its newest rows. Returns what they find on
    /// the way, most or all of which was found before. Reads each table once for all rules, as far back as any looks; what a
    /// rule of new terms remembers by day is a query of its own.
    pub async fn learn(&mut self, store: &Arc<dyn Store>, now: i64) -> Result<Vec<Finding>> {
        if !self.looks_back() {
            self.batches += 1;
            return Ok(Vec::new());
        }
        let stored = Stored::now(store, None, &self.options.lists, now).await?;
        self.learn_apart(store, stored, now, &Apart::default()).await
    }

    /// Whether any rule keeps anything here.
    pub fn looks_back(&self) -> bool {
        self.options.part != Part::Filters && self.rules.iter().any(|live| plan::reach(&live.rule).is_some())
    }

    /// The same, of what the store held, and of all events but those that are evaluated besides.
    pub async fn learn_apart(
        &mut self,
        store: &Arc<dyn Store>,
        Stored { opened, newest }: Stored,
        now: i64,
        apart: &Apart,
    ) -> Result<Vec<Finding>> {
        self.batches += 1;
        let Some(base) = newest.iter().map(|(_, (time, _))| *time).min() else { return Ok(Vec::new()) };
        let base = base.saturating_sub(self.options.lateness);
        let mut rows = self.read_tables(&opened, base, apart)?;
        for rule in 0..self.rules.len() {
            let Some(reach) = plan::reach(&self.rules[rule].rule) else { continue };
            self.remember_terms(&opened, rule, base.saturating_sub(reach)).await?;
        }
        let mut findings = Vec::new();
        while let Some(read) = rows.recv().await {
            self.learn_from(read?, now, &mut findings).await;
        }
        for (cluster, (time, received)) in newest {
            self.clock.reach(&cluster, time.min(received), received);
        }
        self.advance(now, &mut findings).await;
        if let Some(since) = self.open.since() {
            self.adopt(store, since).await?;
        }
        Ok(findings)
    }

    /// A time before which no open finding was told, in microseconds since 1970; `None` if none is open.
    pub fn open_since(&self) -> Option<i64> {
        self.open.since()
    }

    /// Takes open findings for those that the store has, where it has them: since a time of receipt, in microseconds since 1970.
    /// They say what they said when they were told first, and what is told of them again replaces what is stored.
    pub async fn adopt(&mut self, store: &Arc<dyn Store>, since: i64) -> Result<()> {
        let ids: Vec<Expr> = self.open.ids().take(NAMED + 1).map(|id| lit(id.to_string())).collect();
        let mut alerts = self.context.read_table(store.provider(Table::Alerts).await?)?;
        alerts = alerts.filter(col("received_at").gt_eq(time(since)))?;
        if ids.len() <= NAMED {
            alerts = alerts.filter(col("alert_id").in_list(ids, false))?;
        }
        let mut columns = vec!["alert_id"];
        columns.extend(Told::COLUMNS);
        let mut rows = alerts.select_columns(&columns)?.execute_stream().await?;
        while let Some(batch) = rows.try_next().await? {
            let ids = cast(batch.column(0), &DataType::Utf8).map_err(DataFusionError::from)?;
            let ids: Vec<_> = ids.as_string::<i32>().iter().map(|id| id.and_then(EventId::parse)).collect();
            let open: Vec<bool> = ids.iter().map(|id| id.is_some_and(|id| self.open.contains(id))).collect();
            let ids = ids.into_iter().flatten().filter(|id| self.open.contains(*id)).collect::<Vec<_>>();
            for (id, told) in ids.into_iter().zip(told(&batch, open)?) {
                self.open.adopt(id, told);
            }
        }
        Ok(())
    }

    /// Reads what a rule's inputs select of the session's tables.
    pub(crate) async fn read(
        &mut self,
        context: &SessionContext,
        rule: usize,
        now: i64,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        for (number, frame) in plan::over(context, &self.rules[rule].rule).await?.into_iter().enumerate() {
            let taps = self.rooms.values().flat_map(|room| &room.taps);
            let tap = taps.into_iter().find(|tap| tap.rule == rule && tap.number == number);
            let Some(schema) = tap.map(|tap| tap.input.schema()) else { continue };
            // A store gives rows in any order; what a finding says first depends on it.
            let frame = match self.rules[rule].rule.kind {
                RuleKind::Match if self.rules[rule].subject.is_some() => as_received(frame).await?,
                _ => frame,
            };
            let mut rows = frame.execute_stream().await?;
            while let Some(batch) = rows.try_next().await? {
                let columns = batch.columns().iter().zip(schema.fields());
                let columns = columns.map(|(column, field)| Ok(cast(column, field.data_type())?));
                let columns = columns.collect::<std::result::Result<_, DataFusionError>>()?;
                let batch = RecordBatch::try_new(schema.clone(), columns).map_err(DataFusionError::from)?;
                let live = &mut self.rules[rule];
                if let Err(error) = live.take(number, Ok(vec![batch]), now, &mut self.open, findings) {
                    findings.push(live.fail(&error, now));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// For a rule of new terms: what was seen on each day that it remembers, up to a time.
    pub(crate) async fn remember_terms(&mut self, opened: &Opened, rule: usize, until: i64) -> Result<()> {
        let live = &self.rules[rule].rule;
        if live.kind != RuleKind::NewTerms {
            return Ok(());
        }
        let from = until.saturating_sub(live.window.map_or(0, Span::micros));
        let context = opened.session(&self.options.lists, from, until)?;
        let names = live.group_by.iter().chain(&live.terms);
        let mut columns: Vec<Expr> = names.map(ident).collect();
        columns.push(date_trunc(lit("day"), col("event_time")).alias("event_time"));
        for frame in plan::over(&context, live).await? {
            let seen: DataFrame = frame.select(columns.clone())?.distinct()?;
            let mut rows = seen.execute_stream().await?;
            while let Some(batch) = rows.try_next().await? {
                if let Some(State::NewTerms(terms)) = &mut self.rules[rule].state {
                    terms.remember(&batch)?;
                }
            }
        }
        Ok(())
    }
}

/// Rows in the order in which they came, which says what a finding's first is: as far as the SQL leaves the time of receipt to
/// be sorted by, and else by event time.
async fn as_received(frame: DataFrame) -> Result<DataFrame> {
    let by = |names: &[&str]| names.iter().map(|name| col(*name).sort(true, false)).collect();
    if let Ok(sorted) = frame.clone().sort(by(&["received_at", "event_time", "event_id"]))
        && sorted.clone().create_physical_plan().await.is_ok()
    {
        return Ok(sorted);
    }
    Ok(frame.sort(by(&["event_time", "event_id"]))?)
}

/// Rows of `alerts`, of which some are wanted: an id, and the columns of what was told.
fn told(batch: &RecordBatch, wanted: Vec<bool>) -> std::result::Result<Vec<Told>, DataFusionError> {
    let batch = filter_record_batch(batch, &BooleanArray::from(wanted))?;
    let utc = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
    let columns = batch.columns()[1..].iter().zip(Told::COLUMNS).enumerate().map(|(place, (column, name))| {
        let time = place < Told::TIMES;
        let column = if time { cast(&cast(column, &utc)?, &DataType::Int64)? } else { column.clone() };
        Ok((name, column))
    });
    let columns: std::result::Result<Vec<_>, ArrowError> = columns.collect();
    let rows = json_rows(&RecordBatch::try_from_iter(columns?)?)?;
    let told = rows.into_iter().map(|row| serde_json::from_value(row.into()));
    told.collect::<std::result::Result<_, _>>().map_err(|error| DataFusionError::External(error.into()))
}

/// Of each cluster that has sent events lately, the newest event's time, and the last receipt.
async fn read_newest(opened: &Opened, lists: &Arc<Lists>, now: i64) -> Result<Newest> {
    let context = opened.session(lists, i64::MIN, i64::MAX)?;
    let mut newest = Newest::new();
    for table in [Table::Audit, Table::Falco] {
        let lately = col("day").gt_eq(lit(ScalarValue::Date32(i32::try_from((now - KNOWN).div_euclid(DAY)).ok())));
        let rows =
            context.table(table.name()).await?.filter(lately.and(col("received_at").gt_eq(time(now - KNOWN))))?;
        let rows = rows.aggregate(vec![col("cluster")], vec![max(col("event_time")), max(col("received_at"))])?;
        for batch in rows.collect().await? {
            let clusters = cast(batch.column(0), &DataType::Utf8).map_err(DataFusionError::from)?;
            let utc = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
            let times = [1, 2].map(|column| cast(batch.column(column), &utc));
            let [event, receipt] = times;
            let (event, receipt) = (event.map_err(DataFusionError::from)?, receipt.map_err(DataFusionError::from)?);
            let times = event.as_primitive::<TimestampMicrosecondType>().iter();
            let times = times.zip(receipt.as_primitive::<TimestampMicrosecondType>());
            for (cluster, (event, receipt)) in clusters.as_string::<i32>().iter().zip(times) {
                let (Some(cluster), Some(event), Some(receipt)) = (cluster, event, receipt) else { continue };
                let known = newest.entry(cluster.to_owned()).or_insert((event, receipt));
                *known = (known.0.max(event), known.1.max(receipt));
            }
        }
    }
    Ok(newest)
}
