//! Aggregates over a subject's rows, as they stood at each of the rows: what an SQL GROUP BY says of the whole, said of the time
//! up to `window` back from every row.
//!
//! The GROUP BY's aggregates slide over the kept rows, for subjects whose answer may have changed, and only to rows that have
//! rows enough behind them; those of a subject with many rows go on from where they stood. What the rule makes of them, HAVING
//! and SELECT, is a plan of DataFusion's.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::{Column, Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::logical_plan::{Aggregate, Filter, Projection};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, LogicalPlanBuilder, Operator, col};
use datafusion::prelude::SessionContext;
use vedette_schemas::EventId;

use super::frames::{Frames, Run, Slide};
use super::kept::{ByHash, Kept, Place, keys, named, text, texts, times};
use super::upper::Upper;
use super::{Clock, EVIDENCE, Hits, event_id};

/// The columns of an event that go along.
const EVENT: [&str; 3] = ["event_time", "event_id", "received_at"];

/// What waits for the watermark is looked at when it has come so far again, in microseconds: a batch moves it by little.
const STEP: i64 = 1_000_000;

/// A GROUP BY, taken apart.
pub struct Sliding {
    /// What gives the rows that are kept.
    pub input: LogicalPlan,
    /// The columns of the result that are the groups.
    pub group_by: Vec<String>,
    /// The fewest rows with which a group can meet the condition.
    pub least: usize,
    /// More rows can only make the condition truer.
    pub monotone: bool,
    aggregate: Aggregate,
    /// The aggregates over what `input` gives, in the aggregate's order.
    functions: Vec<Expr>,
    having: Option<Expr>,
    projection: Projection,
}

/// Takes a rule's GROUP BY apart.
pub fn sliding(plan: LogicalPlan) -> Result<Sliding> {
    let LogicalPlan::Projection(projection) = plan else { return shape() };
    let (aggregate, having) = match projection.input.as_ref() {
        LogicalPlan::Aggregate(aggregate) => (aggregate.clone(), None),
        LogicalPlan::Filter(filter) => match filter.input.as_ref() {
            LogicalPlan::Aggregate(aggregate) => (aggregate.clone(), Some(filter.predicate.clone())),
            _ => return shape(),
        },
        _ => return shape(),
    };
    if aggregate.group_expr.is_empty() {
        return shape();
    }
    let group_by = group_columns(&projection, &aggregate)?;
    let (least, monotone) = threshold(having.as_ref(), &aggregate);
    let (input, functions) = carried(&aggregate)?;
    Ok(Sliding { input, group_by, least, monotone, aggregate, functions, having, projection })
}

impl Sliding {
    /// The aggregates over a plan that gives the rows that are kept, within `span` back, in microseconds.
    pub fn frames(&self, context: &SessionContext, kept: LogicalPlan, span: i64) -> Result<Frames> {
        let groups = (0..self.aggregate.group_expr.len()).map(|index| format!("__g{index}")).collect();
        Frames::new(context, kept, self.functions.clone(), groups, span)
    }

    /// What the rule selects, over a plan that gives kept rows with their aggregates.
    pub fn over(&self, kept: LogicalPlan) -> Result<LogicalPlan> {
        let groups = (0..self.aggregate.group_expr.len()).map(|index| format!("__g{index}"));
        let results = (0..self.functions.len()).map(|nth| format!("__w{nth}"));
        let mut columns: Vec<Expr> = groups
            .chain(results)
            .enumerate()
            .map(|(index, name)| {
                let (qualifier, field) = self.aggregate.schema.qualified_field(index);
                col(name).alias_qualified(qualifier.cloned(), field.name())
            })
            .collect();
        columns.extend(EVENT.map(|name| col(format!("__{name}")).alias(format!("__{name}"))));
        let mut plan = LogicalPlanBuilder::from(kept).project(columns)?.build()?;
        if let Some(having) = &self.having {
            plan = LogicalPlan::Filter(Filter::try_new(having.clone(), Arc::new(plan))?);
        }
        let selected = |name: &str| self.projection.schema.fields().iter().any(|field| field.name() == name);
        let mut columns = self.projection.expr.clone();
        columns
            .extend(EVENT.into_iter().filter(|name| !selected(name)).map(|name| col(format!("__{name}")).alias(name)));
        Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?))
    }
}

fn shape<T>() -> Result<T> {
    plan_err!("a window rule is SELECT … FROM … WHERE … GROUP BY … HAVING …, with cluster among the groups")
}

/// The names under which the groups are selected.
fn group_columns(projection: &Projection, aggregate: &Aggregate) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (index, group) in aggregate.group_expr.iter().enumerate() {
        let (qualifier, field) = aggregate.schema.qualified_field(index);
        let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        let selected = projection.expr.iter().position(|expr| expr.clone().unalias() == column);
        match selected {
            Some(place) => names.push(projection.schema.field(place).name().clone()),
            None => return plan_err!("{group} is in GROUP BY and not selected"),
        }
    }
    Ok(names)
}

/// How many rows a condition asks for at least, and whether more can only make it truer.
fn threshold(having: Option<&Expr>, aggregate: &Aggregate) -> (usize, bool) {
    let Some(having) = having else { return (1, true) };
    let groups = aggregate.group_expr.len();
    let growing = |expr: &Expr| {
        let Expr::Column(column) = expr else { return None };
        let index = aggregate.schema.index_of_column(column).ok()?.checked_sub(groups)?;
        match aggregate.aggr_expr.get(index)?.clone().unalias() {
            Expr::AggregateFunction(function) => match function.func.name() {
                "count" => Some(true),
                "max" => Some(false),
                _ => None,
            },
            _ => None,
        }
    };
    let (mut least, mut monotone) = (1, true);
    for condition in split_conjunction(having) {
        let found = match condition {
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Gt | Operator::GtEq), right }) => {
                match (growing(left), right.as_ref()) {
                    (Some(counts), Expr::Literal(value, _)) => Some((counts, *op, value.clone())),
                    _ => None,
                }
            }
            _ => None,
        };
        match found {
            Some((counts, op, value)) => {
                let number = value.cast_to(&arrow::datatypes::DataType::Int64).ok();
                if let (true, Some(ScalarValue::Int64(Some(number)))) = (counts, number) {
                    let needed = number + i64::from(op == Operator::Gt);
                    least = least.max(usize::try_from(needed).unwrap_or(1));
                }
            }
            None => monotone = false,
        }
    }
    (least, monotone)
}

/// What the aggregate reads of each row of its input, with the event's columns; and the aggregates over that.
fn carried(aggregate: &Aggregate) -> Result<(LogicalPlan, Vec<Expr>)> {
    let input = aggregate.input.as_ref().clone();
    let mut inner = Vec::new();
    for (index, group) in aggregate.group_expr.iter().enumerate() {
        inner.push(group.clone().alias(format!("__g{index}")));
    }
    for name in EVENT {
        let (qualifier, field) = input.schema().qualified_field_with_unqualified_name(name)?;
        inner.push(Expr::Column(Column::new(qualifier.cloned(), field.name())).alias(format!("__{name}")));
    }
    let mut functions = Vec::new();
    for expr in &aggregate.aggr_expr {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = expr.clone().unalias() else {
            return plan_err!("{expr} can't slide over time");
        };
        if !params.order_by.is_empty() {
            return plan_err!("{expr}: an ordered aggregate can't slide over time");
        }
        // What the functions read is computed once, before rows are kept.
        let mut carried = |expr: Expr| match expr {
            literal @ Expr::Literal(..) => literal,
            expr => {
                let name = format!("__a{}", inner.len());
                inner.push(expr.alias(&name));
                col(name)
            }
        };
        let args = params.args.into_iter().map(&mut carried).collect();
        let filter = params.filter.map(|filter| Box::new(carried(*filter)));
        let params = AggregateFunctionParams { args, filter, ..params };
        functions.push(Expr::AggregateFunction(AggregateFunction { func, params }));
    }
    let named = functions.into_iter().enumerate().map(|(nth, function)| function.alias(format!("__w{nth}"))).collect();
    Ok((LogicalPlanBuilder::from(input).project(inner)?.build()?, named))
}

pub struct Window {
    kept: Kept,
    frames: Frames,
    upper: Upper,
    span: i64,
    least: usize,
    monotone: bool,
    /// The kept rows' columns that are the groups, and their names in what is selected.
    groups: (Vec<String>, Vec<String>),
    cluster: String,
    /// Subjects with new rows: their cluster, and the oldest row that has not been looked at.
    touched: ByHash<(Arc<str>, i64)>,
    /// Where the aggregates of hot subjects stand.
    slides: ByHash<Slide>,
    /// For each cluster the watermark by which rows that wait for it were last looked at.
    looked: BTreeMap<Arc<str>, i64>,
    /// The clock's floor at that time.
    floor: i64,
}

impl Window {
    /// `kept` is the schema of the rows it is given; `upper` runs over what `frames` gives.
    pub fn new(sliding: Sliding, frames: Frames, upper: Upper, kept: SchemaRef, span: i64) -> Result<Self> {
        let inner: Vec<String> = (0..sliding.group_by.len()).map(|index| format!("__g{index}")).collect();
        let Some(place) = sliding.group_by.iter().position(|name| name == "cluster") else { return shape() };
        let (least, monotone, cluster) = (sliding.least, sliding.monotone, inner[place].clone());
        let (groups, kept) = ((inner, sliding.group_by), Kept::new(kept)?);
        let (touched, slides, looked, floor) = (ByHash::default(), ByHash::default(), BTreeMap::new(), i64::MIN);
        Ok(Self { kept, frames, upper, span, least, monotone, groups, cluster, touched, slides, looked, floor })
    }

    /// Whether more rows can only make the answer truer.
    pub fn is_monotone(&self) -> bool {
        self.monotone
    }

    /// The columns of what is selected that are the groups.
    pub fn group_by(&self) -> &[String] {
        &self.groups.1
    }

    pub fn push(&mut self, rows: &RecordBatch) -> Result<()> {
        let (keys, _) = keys(&named(rows, &self.groups.0)?, rows.num_rows(), false)?;
        let times = times(rows, "__event_time")?;
        let clusters = texts(rows, &self.cluster)?;
        self.kept.push(rows, &keys, &times)?;
        for (row, (key, time)) in keys.into_iter().zip(times).enumerate() {
            let cluster = || text(&clusters, row).unwrap_or_default().into();
            let entry = self.touched.entry(key).or_insert_with(|| (cluster(), time));
            entry.1 = entry.1.min(time);
            // What comes late is not among what they stand at.
            if self.slides.get(&key).is_some_and(|slide| time <= slide.time) {
                self.slides.remove(&key);
            }
        }
        Ok(())
    }

    /// Bytes held, nearly.
    pub fn bytes(&self) -> usize {
        self.kept.bytes() + self.slides.values().map(Slide::bytes).sum::<usize>()
    }

    /// Lets go of the oldest rows. Returns the time of the newest of them.
    pub fn shed(&mut self) -> Option<i64> {
        self.slides.clear();
        self.kept.forget_oldest()
    }

    pub async fn advance(&mut self, context: &SessionContext, clock: &Clock) -> Result<Vec<Hits>> {
        let told = clock.floor() > self.floor;
        let mut looked = BTreeMap::new();
        let mut horizon = |cluster: &Arc<str>| {
            if self.monotone {
                return i64::MAX;
            }
            let watermark = clock.watermark(cluster);
            let soon = self.looked.get(cluster).is_some_and(|last| watermark < last.saturating_add(STEP));
            if soon && !told {
                return i64::MIN;
            }
            looked.insert(cluster.clone(), watermark);
            watermark
        };
        let mut due = Due::default();
        let (kept, slides, least, span) = (&self.kept, &mut self.slides, self.least, self.span);
        self.touched.retain(|key, (cluster, since)| {
            let until = horizon(cluster);
            if *since > until {
                return true;
            }
            let all = kept.places(*key);
            if all.len() >= least {
                let slide = slides.remove(key);
                let from = slide.as_ref().map_or(*since, |slide| slide.time.min(*since)).saturating_sub(span);
                let rows = all.iter().filter(|place| (from..=until).contains(&place.time)).copied().collect();
                let unused = due.add(*key, rows, *since, slide, span, least);
                slides.extend(unused.map(|slide| (*key, slide)));
            }
            // What is newer than the watermark is looked at later.
            match all.iter().map(|place| place.time).filter(|time| *time > until).min() {
                Some(next) => {
                    *since = next;
                    true
                }
                None => false,
            }
        });
        self.looked.extend(looked);
        self.floor = clock.floor();
        let hits = if due.places.is_empty() { Vec::new() } else { self.evaluate(context, due).await? };
        let before = clock.horizon().saturating_sub(self.span + STEP);
        self.kept.forget_before(before);
        self.slides.retain(|_, slide| slide.time >= before);
        Ok(hits)
    }

    async fn evaluate(&mut self, context: &SessionContext, due: Due) -> Result<Vec<Hits>> {
        let rows = self.kept.rows(&due.places)?;
        let times: Vec<i64> = due.places.iter().map(|place| place.time).collect();
        let (asked, slides) = self.frames.over(&rows, &times, &due.asked, due.runs)?;
        self.slides.extend(slides);
        let mut hits = Vec::new();
        for found in self.upper.run(context, vec![asked]).await? {
            if found.num_rows() > 0 {
                hits.push(Hits { evidence: self.evidence(&found)?, rows: found });
            }
        }
        Ok(hits)
    }

    /// The newest events behind each of what was found.
    fn evidence(&self, found: &RecordBatch) -> Result<Vec<Vec<EventId>>> {
        let (keys, _) = keys(&named(found, &self.groups.1)?, found.num_rows(), false)?;
        let times = times(found, "event_time")?;
        let mut stretches: ByHash<(i64, i64)> = ByHash::default();
        for (key, time) in keys.iter().zip(&times) {
            let stretch = stretches.entry(*key).or_insert((*time, *time));
            *stretch = (stretch.0.min(*time), stretch.1.max(*time));
        }
        let mut places = Vec::new();
        for (key, (first, last)) in stretches {
            let reach = first.saturating_sub(self.span)..=last;
            let mut own: Vec<Place> =
                self.kept.places(key).iter().filter(|place| reach.contains(&place.time)).copied().collect();
            own.sort_by_key(|place| place.time);
            // Of what the first has behind it, as much as is named, and what is of the same time.
            let oldest = own.partition_point(|place| place.time <= first).saturating_sub(EVIDENCE);
            let from = own.get(oldest).map_or(first, |place| place.time);
            places.extend(own.into_iter().filter(|place| place.time >= from));
        }
        let events = self.events(&self.kept.rows(&places)?)?;
        let named = keys.iter().zip(times).map(|(key, time)| {
            let all = events.get(key).map_or(&[][..], Vec::as_slice);
            let from = all.partition_point(|(at, _)| *at < time.saturating_sub(self.span));
            let to = all.partition_point(|(at, _)| *at <= time);
            all[from.max(to.saturating_sub(EVIDENCE))..to].iter().map(|(_, id)| *id).collect()
        });
        Ok(named.collect())
    }

    /// The events of each subject, oldest first.
    fn events(&self, rows: &RecordBatch) -> Result<ByHash<Vec<(i64, EventId)>>> {
        let (keys, _) = keys(&named(rows, &self.groups.0)?, rows.num_rows(), false)?;
        let (times, ids) = (times(rows, "__event_time")?, texts(rows, "__event_id")?);
        let mut events: ByHash<Vec<_>> = ByHash::default();
        for (row, (key, time)) in keys.into_iter().zip(times).enumerate() {
            events.entry(key).or_default().extend(event_id(text(&ids, row)).map(|id| (time, id)));
        }
        events.values_mut().for_each(|events| events.sort_unstable());
        Ok(events)
    }
}

/// Rows to look at.
#[derive(Default)]
struct Due {
    places: Vec<Place>,
    /// Which of them are asked about; the others are looked back on, or leave a slide.
    asked: Vec<bool>,
    /// Whose they are.
    runs: Vec<Run>,
}

impl Due {
    /// Adds a subject's rows: those since a time are asked about, if they have at least so many rows behind them, themselves
    /// included; times are in microseconds since 1970. Rows that stay in a slide are left out. Gives it back if none is asked about.
    fn add(
        &mut self,
        key: u64,
        mut rows: Vec<Place>,
        since: i64,
        slide: Option<Slide>,
        span: i64,
        least: usize,
    ) -> Option<Slide> {
        rows.sort_by_key(|place| place.time);
        let (mut from, mut end) = (0, 0);
        let mut asked: Vec<(usize, Range<usize>)> = Vec::new();
        for peers in rows.chunk_by(|one, other| one.time == other.time) {
            let place = end;
            end += peers.len();
            while rows[from].time < peers[0].time.saturating_sub(span) {
                from += 1;
            }
            if peers[0].time >= since && end - from >= least {
                asked.push((from, place..end));
            }
        }
        let Some(oldest) = asked.last().map(|(from, _)| *from) else { return slide };
        let begin = self.places.len();
        // What a slide has: it is no use if rows came late or were let go of, or if none stays.
        let known = |slide: &Slide| {
            let from = rows.partition_point(|place| place.time < slide.time.saturating_sub(span));
            from..rows.partition_point(|place| place.time <= slide.time)
        };
        let usable =
            |slide: &Slide| since > slide.time && known(slide).len() == slide.rows && oldest < known(slide).end;
        let slide = slide.filter(usable);
        let mut added = 0;
        if let Some(known) = slide.as_ref().map(known) {
            self.places.extend(&rows[known.start..oldest]);
            added = known.end;
        }
        for (from, peers) in asked {
            if slide.is_none() {
                added = from.max(added);
            }
            self.places.extend(&rows[added..peers.end]);
            self.asked.resize(self.places.len() - peers.len(), false);
            self.asked.resize(self.places.len(), true);
            added = peers.end;
        }
        self.runs.push(Run { key, rows: self.places.len() - begin, slide });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(times: &[i64], since: i64, least: usize, expected: &[(i64, bool)]) {
        let mut due = Due::default();
        due.add(0, times.iter().map(|time| Place::at(*time)).collect(), since, None, 10, least);
        let found: Vec<(i64, bool)> = due.places.iter().map(|place| place.time).zip(due.asked).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn only_rows_with_rows_enough_behind_them_are_asked_about() {
        check(&[1, 2, 3], 2, 1, &[(1, false), (2, true), (3, true)]);
        check(&[3, 1, 2], 1, 3, &[(1, false), (2, false), (3, true)]);
        // Rows of one time have each other.
        check(&[1, 5, 5], 1, 3, &[(1, false), (5, true), (5, true)]);
        check(&[1, 5, 12, 13, 14, 40, 41], 1, 3, &[(5, false), (12, false), (13, true), (14, true)]);
        check(&[1, 2, 3, 40, 41, 42], 1, 3, &[(1, false), (2, false), (3, true), (40, false), (41, false), (42, true)]);
        check(&[1, 20], 1, 2, &[]);
    }
}
