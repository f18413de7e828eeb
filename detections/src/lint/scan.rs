//! What a plan reads of each table: with which conditions on its time, and whether each of its rows counts.

use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, InList};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Aggregate, BinaryExpr, Expr, JoinType, LogicalPlan, Operator};

/// Columns by which a store reads less of a table.
pub const TIMES: [&str; 4] = ["day", "event_time", "received_at", "raised_at"];

/// Columns in which the rows of one request differ.
const OF_A_STAGE: [&str; 5] = ["event_id", "stage", "event_time", "stage_timestamp", "received_at"];

/// Aggregates that are the same however often a row is there.
const INDIFFERENT: [&str; 13] = [
    "min",
    "max",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "array_agg",
    "string_agg",
    "first_value",
    "last_value",
    "nth_value",
    "any_value",
    "approx_distinct",
];

/// A table, read once.
pub struct Scan {
    pub table: String,
    /// What rows that are read meet, taken apart.
    pub conditions: Vec<Expr>,
    /// Whether two rows of one request are more than one.
    pub counted: bool,
}

/// Every reading of a table in an optimized plan. `counted` says whether each row of the result counts.
pub fn scans(plan: &LogicalPlan, counted: bool) -> Vec<Scan> {
    let mut found = Vec::new();
    walk(plan, Vec::new(), counted, &mut found);
    found
}

/// Whether rows with these columns are told apart though they are of one request.
pub fn apart<'a>(columns: impl IntoIterator<Item = &'a str>) -> bool {
    columns.into_iter().any(|name| OF_A_STAGE.contains(&name))
}

fn walk(plan: &LogicalPlan, mut conditions: Vec<Expr>, counted: bool, found: &mut Vec<Scan>) {
    match plan {
        LogicalPlan::TableScan(scan) => {
            conditions.extend(scan.filters.iter().cloned().flat_map(split_conjunction_owned));
            found.push(Scan { table: scan.table_name.table().to_owned(), conditions, counted });
        }
        LogicalPlan::Filter(filter) => {
            conditions.extend(split_conjunction_owned(filter.predicate.clone()));
            walk(&filter.input, conditions, counted, found);
        }
        // What a condition says of an answer, it does not say of the rows behind it.
        LogicalPlan::Aggregate(aggregate) => walk(&aggregate.input, Vec::new(), counts(aggregate, counted), found),
        LogicalPlan::Join(join) => {
            use JoinType::{LeftAnti, LeftMark, LeftSemi, RightAnti, RightMark, RightSemi};
            // Of one side it is only asked whether there is any.
            let (left, right) = match join.join_type {
                LeftSemi | LeftAnti | LeftMark => (counted, false),
                RightSemi | RightAnti | RightMark => (false, counted),
                _ => (counted, counted),
            };
            walk(&join.left, Vec::new(), left, found);
            walk(&join.right, Vec::new(), right, found);
        }
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Sort(_) => {
            plan.inputs().into_iter().for_each(|input| walk(input, conditions.clone(), counted, found));
        }
        _ => plan.inputs().into_iter().for_each(|input| walk(input, Vec::new(), counted, found)),
    }
}

/// Whether an aggregate counts the rows of one request each; `counted`: whether its own rows count.
fn counts(aggregate: &Aggregate, counted: bool) -> bool {
    let columns = |expr: &Expr| expr.column_refs().into_iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    let parts = aggregate.group_expr.iter().any(|expr| apart(columns(expr).iter().map(String::as_str)));
    let counts = |expr: &Expr| {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = expr.clone().unalias() else { return true };
        let AggregateFunctionParams { args, distinct, filter, .. } = &params;
        let named: Vec<String> = args.iter().chain(filter.as_deref()).flat_map(columns).collect();
        // Which stage it counts, it says itself.
        let says = named.iter().any(|name| name == "stage");
        let same =
            if *distinct { !apart(named.iter().map(String::as_str)) } else { INDIFFERENT.contains(&func.name()) };
        !says && !same
    };
    aggregate.aggr_expr.iter().any(counts) || parts && counted
}

/// Whether every row that meets all of these conditions is from after some time.
pub fn bounded(conditions: &[Expr]) -> bool {
    conditions.iter().any(from_below)
}

fn from_below(condition: &Expr) -> bool {
    let time = |expr: &Expr| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.iter().all(|column| TIMES.contains(&column.name.as_str()))
    };
    let fixed = |expr: &Expr| expr.column_refs().is_empty();
    match condition {
        Expr::Alias(alias) => from_below(&alias.expr),
        Expr::Between(between) => !between.negated && time(&between.expr) && fixed(&between.low),
        Expr::InList(InList { expr, list, negated }) => !negated && time(expr) && list.iter().all(fixed),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And => from_below(left) || from_below(right),
            Operator::Or => from_below(left) && from_below(right),
            Operator::Gt | Operator::GtEq => time(left) && fixed(right),
            Operator::Lt | Operator::LtEq => fixed(left) && time(right),
            Operator::Eq => time(left) && fixed(right) || fixed(left) && time(right),
            _ => false,
        },
        _ => false,
    }
}
