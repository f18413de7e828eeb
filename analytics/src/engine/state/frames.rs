//! Aggregates as they stand at single rows, over the rows of the same subject up to a time back: what SQL calls a RANGE frame.
//!
//! DataFusion's accumulators slide from one asked row to the next; rows that are only looked back on cost no answer.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::{filter, take, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::prelude::SessionContext;

use super::kept::named;

/// An aggregate, and which rows it takes.
struct Function {
    aggregate: Arc<AggregateFunctionExpr>,
    filter: Option<Arc<dyn PhysicalExpr>>,
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
    /// microseconds since 1970.
    pub fn over(&self, rows: &RecordBatch, times: &[i64], asked: &[bool]) -> Result<RecordBatch> {
        let subjects = self.subjects.convert_columns(&named(rows, &self.groups)?)?;
        let mut order: Vec<usize> = (0..rows.num_rows()).collect();
        order.sort_by_key(|row| (subjects.row(*row), times[*row]));
        let mut frames = Vec::new();
        let mut places = Vec::new();
        let mut begin = 0;
        for subject in order.chunk_by(|one, other| subjects.row(*one) == subjects.row(*other)) {
            let (mut from, mut to) = (0, 0);
            for (place, row) in subject.iter().enumerate().filter(|(_, row)| asked[**row]) {
                let time = times[*row];
                while times[subject[from]] < time.saturating_sub(self.span) {
                    from += 1;
                }
                to = to.max(place + 1);
                while to < subject.len() && times[subject[to]] <= time {
                    to += 1;
                }
                frames.push(begin + from..begin + to);
                places.push((begin + place) as u32);
            }
            begin += subject.len();
        }
        let rows = take_record_batch(rows, &order.into_iter().map(|row| row as u32).collect::<UInt32Array>())?;
        let places = UInt32Array::from(places);
        let mut columns: Vec<ArrayRef> =
            rows.columns().iter().map(|column| Ok(take(column, &places, None)?)).collect::<Result<_>>()?;
        for function in &self.functions {
            columns.push(function.over(&rows, &frames)?);
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Function {
    fn new(state: &SessionState, expr: &Expr, rows: &DFSchema) -> Result<Self> {
        let planning = PhysicalPlanningContext::default();
        let lowered =
            LoweredAggregateBuilder::new(expr, rows, rows.as_arrow(), state.execution_props(), &planning).build()?;
        let function = Self { aggregate: lowered.aggregate, filter: lowered.filter };
        match function.aggregate.create_sliding_accumulator() {
            Ok(_) => Ok(function),
            Err(_) => {
                let name = function.aggregate.fun().name();
                plan_err!("{name}() can't slide over time; {} can", sliding_instead(name))
            }
        }
    }

    fn field(&self, nth: usize) -> Field {
        self.aggregate.field().as_ref().clone().with_name(format!("__w{nth}"))
    }

    /// The aggregate over each of these frames. Both ends of a frame are at or after those of the one before.
    fn over(&self, rows: &RecordBatch, frames: &[Range<usize>]) -> Result<ArrayRef> {
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
        let mut accumulator = self.aggregate.create_sliding_accumulator()?;
        let mut last = 0..0;
        let mut results: Vec<ScalarValue> = Vec::with_capacity(frames.len());
        for frame in frames {
            if *frame == last {
                let same = results.last().cloned();
                results.extend(same);
                continue;
            }
            if frame.start >= last.end {
                accumulator = self.aggregate.create_sliding_accumulator()?;
                last = frame.start..frame.start;
            }
            if frame.end > last.end {
                accumulator.update_batch(&some(last.end..frame.end)?)?;
            }
            if frame.start > last.start {
                accumulator.retract_batch(&some(last.start..frame.start)?)?;
            }
            last = frame.clone();
            results.push(accumulator.evaluate()?);
        }
        match results.is_empty() {
            true => Ok(arrow::array::new_empty_array(self.aggregate.field().data_type())),
            false => ScalarValue::iter_to_array(results),
        }
    }
}

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
        let found = frames.over(&rows, &ROWS.map(|row| row.1), &asked).unwrap();
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

    #[tokio::test]
    async fn rows_that_are_only_looked_back_on_have_no_answer() {
        let (rows, columns) = frames("sum(n)", [true, false, false, false, true, false, false, false]).await;
        assert_eq!(rows, [("a".to_owned(), 30), ("b".to_owned(), 12)]);
        assert_eq!(columns[0].as_primitive::<arrow::datatypes::Int64Type>().values(), &[8, 110]);
    }
}
