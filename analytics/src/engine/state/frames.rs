//! Aggregates as they stand at single rows, over the rows of the same subject up to a time back: what SQL calls a RANGE frame.
//!
//! Accumulators slide from one asked row to the next; rows that are only looked back on cost no answer. Where a subject has many
//! rows, they stay as they are and slide on when more is asked. They are DataFusion's, but for sums of fractions, from which
//! nothing can be taken off exactly; what else reckons with fractions, such as `stddev`, is made anew for each row.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::{filter, take, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::Accumulator;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::prelude::SessionContext;

use super::exact::{self, Exact, Made};
use super::kept::named;

/// An aggregate, and which rows it takes.
struct Function {
    aggregate: Arc<AggregateFunctionExpr>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    moves: Move,
}

/// How an aggregate goes from one frame to the next.
#[derive(Clone, Copy, PartialEq)]
enum Move {
    /// What leaves the frame is taken off again.
    Slides,
    /// So it is, from a sum that is exact.
    Exact(Made),
    /// It begins anew.
    Anew,
}

/// Aggregates that share a frame.
pub struct Frames {
    functions: Vec<Function>,
    groups: Vec<String>,
    subjects: RowConverter,
    span: i64,
    schema: SchemaRef,
}

impl Frames {
    /// Over what `kept` gives, rows that agree in `groups` are a subject's. `span` in microseconds. An aggregate that can't
    /// slide is an error.
    pub fn new(
        context: &SessionContext,
        kept: LogicalPlan,
        functions: Vec<Expr>,
        groups: Vec<String>,
        span: i64,
    ) -> Result<Self> {
        let rows = kept.schema().clone();
        let state = context.state();
        let aggregates = LogicalPlanBuilder::from(kept).aggregate(Vec::<Expr>::new(), functions)?.build()?;
        // Only for the types of the arguments.
        let analyzed = state.analyzer().execute_and_check(aggregates, state.config_options(), |_, _| {})?;
        let mut functions = Vec::new();
        analyzed.apply(|plan| {
            let LogicalPlan::Aggregate(aggregate) = plan else { return Ok(TreeNodeRecursion::Continue) };
            for expr in &aggregate.aggr_expr {
                functions.push(Function::new(&state, expr, &rows)?);
            }
            Ok(TreeNodeRecursion::Stop)
        })?;
        let fields =
            groups.iter().map(|name| Ok(SortField::new(rows.field_with_unqualified_name(name)?.data_type().clone())));
        let subjects = RowConverter::new(fields.collect::<Result<_>>()?)?;
        let results = functions.iter().enumerate().map(|(nth, function)| function.field(nth));
        let fields: Vec<Field> = rows.fields().iter().map(|field| field.as_ref().clone()).chain(results).collect();
        Ok(Self { functions, groups, subjects, span, schema: Arc::new(Schema::new(fields)) })
    }

    /// The schema of what `over` gives: that of the rows, and each aggregate as `__w0`, `__w1`, ...
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Of some rows the asked ones, by subject and time, with the aggregates as they stand at each. `times` are the rows', in
    /// microseconds since 1970. `runs` says whose the rows are, one run after the other. Returns with it where the aggregates of
    /// hot subjects stand, by key.
    pub fn over(
        &self,
        rows: &RecordBatch,
        times: &[i64],
        asked: &[bool],
        runs: Vec<Run>,
    ) -> Result<(RecordBatch, Vec<(u64, Slide)>)> {
        let slides = self.functions.iter().all(|function| function.moves != Move::Anew);
        let subjects = self.subjects.convert_columns(&named(rows, &self.groups)?)?;
        let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
        let mut places = Vec::new();
        let mut stretches = Vec::new();
        let mut begin = 0;
        for Run { key, rows, mut slide } in runs {
            let run = &mut order[begin..begin + rows];
            run.sort_by_key(|row| times[*row as usize]);
            let subject = |row: &u32| subjects.row(*row as usize);
            // A key is a hash: two subjects may have the same.
            let alone = run.windows(2).all(|rows| subject(&rows[0]) == subject(&rows[1]));
            if !alone {
                run.sort_by_key(subject);
            }
            for same in run.chunk_by(|one, other| alone || subject(one) == subject(other)) {
                let subject = subject(&same[0]);
                let slide = slide.take_if(|slide| slide.subject.row() == subject);
                let own: Vec<i64> = same.iter().map(|row| times[*row as usize]).collect();
                let asked: Vec<usize> = (0..same.len()).filter(|row| asked[same[*row] as usize]).collect();
                places.extend(asked.iter().map(|place| (begin + place) as u32));
                let mut stretch = Stretch::new(begin, &own, &asked, self.span, slide, self.functions.len());
                stretch.stays = (slides && alone && stretch.is_hot()).then(|| (key, subject.owned()));
                stretches.push(stretch);
                begin += same.len();
            }
        }
        stretches.retain(|stretch| !stretch.frames.is_empty());
        let rows = take_record_batch(rows, &UInt32Array::from(order))?;
        let places = UInt32Array::from(places);
        let mut columns: Vec<ArrayRef> =
            rows.columns().iter().map(|column| Ok(take(column, &places, None)?)).collect::<Result<_>>()?;
        for (nth, function) in self.functions.iter().enumerate() {
            columns.push(function.over(nth, &rows, &mut stretches)?);
        }
        let slides = stretches.into_iter().filter_map(Stretch::slide).collect();
        Ok((RecordBatch::try_new(self.schema.clone(), columns)?, slides))
    }
}

/// Rows of one key that are given to `Frames::over`.
pub struct Run {
    pub key: u64,
    /// How many: those that leave the slide, and those that are new to it; all, if there is none.
    pub rows: usize,
    pub slide: Option<Slide>,
}

/// Where a subject's aggregates stand: at the rows up to a time, over those within the span before it.
pub struct Slide {
    subject: OwnedRow,
    accumulators: Vec<Box<dyn Accumulator>>,
    /// How many rows are in them.
    pub rows: usize,
    /// The time as of which they stand, in microseconds since 1970; the newest row's.
    pub time: i64,
}

impl Slide {
    /// Bytes held, nearly.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.accumulators.iter().map(|accumulator| accumulator.size()).sum::<usize>()
    }
}

/// So many rows make a subject hot: its aggregates are not begun anew each time.
const HOT: usize = 256;

/// A subject's rows, in a batch that has those of others, too. Rows that stay in the accumulators are not in the batch: they come
/// between those that leave and those that are new, and count as rows.
struct Stretch {
    /// Where its rows begin in the batch.
    begin: usize,
    /// How many rows leave.
    leaving: usize,
    /// How many stay.
    staying: usize,
    /// The rows that each asked row looks back on. Both ends of a frame are at or after those of the one before.
    frames: Vec<Range<usize>>,
    /// Those that the accumulators stand at.
    last: Range<usize>,
    /// A place for each function's.
    accumulators: Vec<Option<Box<dyn Accumulator>>>,
    time: i64,
    /// The key and subject for which the accumulators are kept.
    stays: Option<(u64, OwnedRow)>,
}

impl Stretch {
    /// Of rows at these times, of which these are asked, for so many functions.
    fn new(begin: usize, times: &[i64], asked: &[usize], span: i64, slide: Option<Slide>, functions: usize) -> Self {
        let (mut leaving, mut staying, mut last) = (0, 0, 0..0);
        let mut accumulators = Vec::new();
        if let Some(slide) = slide {
            leaving = times.partition_point(|time| *time <= slide.time);
            (staying, last) = (slide.rows.saturating_sub(leaving), 0..slide.rows);
            accumulators.extend(slide.accumulators.into_iter().map(Some));
        }
        accumulators.resize_with(functions, || None);
        let mut frames = Vec::with_capacity(asked.len());
        let (mut from, mut to) = (0, leaving);
        for place in asked {
            let since = times[*place].saturating_sub(span);
            // While some stay, none leaves that came after them.
            while times[from] < since && (staying == 0 || from < leaving) {
                from += 1;
            }
            to = to.max(place + 1);
            while to < times.len() && times[to] <= times[*place] {
                to += 1;
            }
            frames.push(from..to + staying);
        }
        let time = asked.last().map_or(i64::MIN, |place| times[*place]);
        Self { begin, leaving, staying, frames, last, accumulators, time, stays: None }
    }

    fn is_hot(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.len() >= HOT)
    }

    /// Where rows are in the batch. They are none of those that stay.
    fn within(&self, rows: Range<usize>) -> Range<usize> {
        let staying = if rows.start >= self.leaving { self.staying } else { 0 };
        self.begin + rows.start - staying..self.begin + rows.end - staying
    }

    fn slide(self) -> Option<(u64, Slide)> {
        let rows = self.frames.last()?.len();
        let (key, subject) = self.stays?;
        let accumulators = self.accumulators.into_iter().collect::<Option<_>>()?;
        Some((key, Slide { subject, accumulators, rows, time: self.time }))
    }
}

impl Function {
    fn new(state: &SessionState, expr: &Expr, rows: &DFSchema) -> Result<Self> {
        let planning = PhysicalPlanningContext::default();
        let lowered =
            LoweredAggregateBuilder::new(expr, rows, rows.as_arrow(), state.execution_props(), &planning).build()?;
        let (aggregate, filter) = (lowered.aggregate, lowered.filter);
        let name = aggregate.fun().name();
        if aggregate.create_sliding_accumulator().is_err() {
            return plan_err!("{name}() can't slide over time; {} can", sliding_instead(name));
        }
        let mut moves = Move::Slides;
        for argument in aggregate.expressions() {
            let of = argument.data_type(rows.as_arrow())?;
            if of.is_floating() && !COMPARE.contains(&name) {
                moves = exact::made(&aggregate, &of).map_or(Move::Anew, Move::Exact);
            }
        }
        Ok(Self { aggregate, filter, moves })
    }

    fn accumulator(&self) -> Result<Box<dyn Accumulator>> {
        match self.moves {
            Move::Exact(made) => Ok(Box::new(Exact::new(made))),
            _ => self.aggregate.create_sliding_accumulator(),
        }
    }

    fn field(&self, nth: usize) -> Field {
        self.aggregate.field().as_ref().clone().with_name(format!("__w{nth}"))
    }

    /// The aggregate over each frame of each stretch, from where its accumulators stand.
    fn over(&self, nth: usize, rows: &RecordBatch, stretches: &mut [Stretch]) -> Result<ArrayRef> {
        let count = rows.num_rows();
        let values = self.aggregate.expressions();
        let values: Vec<ArrayRef> =
            values.iter().map(|expr| expr.evaluate(rows)?.into_array(count)).collect::<Result<_>>()?;
        let taken = self.filter.as_ref().map(|filter| filter.evaluate(rows)?.into_array(count)).transpose()?;
        let some = |range: Range<usize>| -> Result<Vec<ArrayRef>> {
            let slices = values.iter().map(|values| values.slice(range.start, range.len()));
            match &taken {
                None => Ok(slices.collect()),
                Some(taken) => {
                    let taken = taken.slice(range.start, range.len());
                    let Some(taken) = taken.as_boolean_opt() else { return plan_err!("a FILTER is a condition") };
                    slices.map(|slice| Ok(filter(&slice, taken)?)).collect()
                }
            }
        };
        let mut results: Vec<ScalarValue> = Vec::new();
        for stretch in stretches {
            let mut last = stretch.last.clone();
            let mut accumulator = match stretch.accumulators[nth].take() {
                Some(accumulator) => accumulator,
                None => self.accumulator()?,
            };
            for frame in &stretch.frames {
                if *frame == last {
                    let same = results.last().cloned();
                    results.extend(same);
                    continue;
                }
                if frame.start >= last.end || (self.moves == Move::Anew && frame.start > last.start) {
                    accumulator = self.accumulator()?;
                    last = frame.start..frame.start;
                }
                if frame.end > last.end {
                    accumulator.update_batch(&some(stretch.within(last.end..frame.end))?)?;
                }
                if frame.start > last.start {
                    accumulator.retract_batch(&some(stretch.within(last.start..frame.start))?)?;
                }
                last = frame.clone();
                results.push(accumulator.evaluate()?);
            }
            stretch.accumulators[nth] = Some(accumulator);
        }
        match results.is_empty() {
            true => Ok(arrow::array::new_empty_array(self.aggregate.field().data_type())),
            false => ScalarValue::iter_to_array(results),
        }
    }
}

/// Aggregates that compare, count or collect numbers and don't reckon with them, by DataFusion's names.
const COMPARE: [&str; 6] = ["count", "min", "max", "array_agg", "median", "percentile_cont"];

/// What says the same as an aggregate, or nearly, and slides.
fn sliding_instead(name: &str) -> &'static str {
    match name {
        "approx_distinct" => "count(DISTINCT …)",
        "bool_or" => "count(*) FILTER (WHERE …) > 0",
        "bool_and" => "count(*) FILTER (WHERE NOT …) = 0",
        "string_agg" => "array_agg",
        "first_value" | "last_value" | "nth_value" => "min or max",
        _ => "count, count(DISTINCT …), sum, avg, min, max or array_agg",
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray};
    use arrow::datatypes::DataType;
    use datafusion::datasource::provider_as_source;

    use super::*;
    use crate::engine::slot::{Filters, Slot, SlotTable};

    /// Rows of `a` and of `b` at these times, with a number and a text each.
    const ROWS: [(&str, i64, i64, &str); 8] = [
        ("a", 30, 3, "x"),
        ("b", 11, 50, "y"),
        ("a", 10, 1, "x"),
        ("a", 12, 2, "y"),
        ("b", 12, 60, "y"),
        ("a", 12, 4, "x"),
        ("a", 22, 5, "z"),
        ("a", 60, 7, "z"),
    ];

    /// What the aggregates say at each asked row, by subject and time.
    async fn frames(functions: &str, asked: [bool; 8]) -> (Vec<(String, i64)>, Vec<ArrayRef>) {
        let fields =
            [("__g0", DataType::Utf8), ("time", DataType::Int64), ("n", DataType::Int64), ("t", DataType::Utf8)];
        let schema: Vec<Field> = fields.into_iter().map(|(name, kind)| Field::new(name, kind, true)).collect();
        let schema = Arc::new(Schema::new(schema));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(ROWS.iter().map(|row| row.0))),
            Arc::new(Int64Array::from_iter_values(ROWS.iter().map(|row| row.1))),
            Arc::new(Int64Array::from_iter_values(ROWS.iter().map(|row| row.2))),
            Arc::new(StringArray::from_iter_values(ROWS.iter().map(|row| row.3))),
        ];
        let rows = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let context = SessionContext::new();
        let table = Arc::new(SlotTable::new(schema, Slot::default(), Filters::Plans));
        let kept = LogicalPlanBuilder::scan("kept", provider_as_source(table.clone()), None).unwrap().build().unwrap();
        context.register_table("kept", table).unwrap();
        let sql = format!("SELECT {functions} FROM kept");
        let mut wanted = Vec::new();
        let plan = context.state().create_logical_plan(&sql).await.unwrap();
        plan.apply(|node| {
            if let LogicalPlan::Aggregate(aggregate) = node {
                wanted.extend(aggregate.aggr_expr.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        let frames = Frames::new(&context, kept, wanted, vec!["__g0".into()], 10).unwrap();
        let run = Run { key: 0, rows: ROWS.len(), slide: None };
        let (found, _) = frames.over(&rows, &ROWS.map(|row| row.1), &asked, vec![run]).unwrap();
        assert_eq!(found.schema(), frames.schema());
        let subjects = found.column(0).as_string::<i32>().iter().map(|text| text.unwrap().to_owned());
        let times = found.column(1).as_primitive::<arrow::datatypes::Int64Type>().values().iter().copied();
        (subjects.zip(times).collect(), found.columns()[4..].to_vec())
    }

    #[tokio::test]
    async fn aggregates_stand_as_the_rows_up_to_a_time_back_say() {
        let functions = "count(*), sum(n), count(DISTINCT t), max(n), avg(n), count(*) FILTER (WHERE t = 'x')";
        let (rows, columns) = frames(functions, [true; 8]).await;
        let rows: Vec<(&str, i64)> = rows.iter().map(|(subject, time)| (subject.as_str(), *time)).collect();
        assert_eq!(rows, [("a", 10), ("a", 12), ("a", 12), ("a", 22), ("a", 30), ("a", 60), ("b", 11), ("b", 12)]);
        let whole = |place: usize| columns[place].as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
        assert_eq!(whole(0), [1, 3, 3, 3, 2, 1, 1, 2]);
        assert_eq!(whole(1), [1, 7, 7, 11, 8, 7, 50, 110]);
        assert_eq!(whole(2), [1, 2, 2, 3, 2, 1, 1, 1]);
        assert_eq!(whole(3), [1, 4, 4, 5, 5, 7, 50, 60]);
        assert_eq!(columns[4].as_any().downcast_ref::<Float64Array>().unwrap().value(7), 55.0);
        assert_eq!(whole(5), [1, 2, 2, 1, 1, 0, 0, 0]);
    }

    fn fractions(column: &ArrayRef) -> Vec<f64> {
        column.as_primitive::<arrow::datatypes::Float64Type>().values().to_vec()
    }

    #[tokio::test]
    async fn fractions_that_leave_leave_nothing() {
        let functions = "sum(CASE WHEN n = 4 THEN 1e300 ELSE 1.5 END), \
            avg(CASE WHEN n = 4 THEN 'inf'::double ELSE n END), \
            stddev_pop(CASE WHEN n = 4 THEN 1e150 ELSE n END), \
            sum(CASE WHEN n = 4 THEN 'nan'::double ELSE 0.1 END)";
        let (_, columns) = frames(functions, [true; 8]).await;
        assert_eq!(fractions(&columns[0]), [1.5, 1e300, 1e300, 1e300, 3.0, 1.5, 1.5, 3.0]);
        assert_eq!(fractions(&columns[1]), [1.0, f64::INFINITY, f64::INFINITY, f64::INFINITY, 4.0, 7.0, 50.0, 55.0]);
        assert_eq!(fractions(&columns[2])[4..], [1.0, 0.0, 0.0, 5.0]);
        assert_eq!(fractions(&columns[3])[4..], [0.2, 0.1, 0.1, 0.2]);
    }

    #[tokio::test]
    async fn rows_that_are_only_looked_back_on_have_no_answer() {
        let (rows, columns) = frames("sum(n)", [true, false, false, false, true, false, false, false]).await;
        assert_eq!(rows, [("a".to_owned(), 30), ("b".to_owned(), 12)]);
        assert_eq!(columns[0].as_primitive::<arrow::datatypes::Int64Type>().values(), &[8, 110]);
    }
}
