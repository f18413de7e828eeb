//! A rule's SQL, planned over empty tables: does it name what exists, and has it the shape the engine runs.

use std::cell::RefCell;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchemaRef;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast;
use vedette_schemas::Table;

use super::never::never;
use super::scan::{TIMES, apart, bounded, scans};
use super::{stage, words};
use crate::lists::Lists;
use crate::rule::{Rule, RuleKind};

/// What a rule must select from any table.
const REQUIRED: [&str; 3] = ["event_id", "cluster", "event_time"];

/// A rule's SQL, understood.
pub struct Examined {
    /// Names of the columns it returns, in order.
    pub selected: Vec<String>,
    /// The same with their types.
    pub schema: DFSchemaRef,
    /// What is wrong with it though it plans, so that findings would be wrong or lost.
    pub problems: Vec<String>,
    /// What is likely a mistake, or dear.
    pub advice: Vec<String>,
}

/// The names of the columns that the SQL returns, in order; or why it doesn't plan.
pub fn columns_selected(sql: &str) -> Result<Vec<String>, String> {
    plan(sql, Form::Report, &Arc::default()).map(|planned| selected(&planned.asked)).map_err(told)
}

/// What a SELECT of a rule may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Rows of one table that meet a condition.
    Rows,
    /// The same, where it says no more if there are several.
    Signs,
    /// An aggregate over such rows.
    Groups,
    /// Anything that reads: it runs over the store.
    Report,
}

impl Form {
    /// The form of a rule's SELECTs.
    pub fn of(rule: &Rule) -> Self {
        match rule.kind {
            RuleKind::Scheduled => Form::Report,
            RuleKind::Window => Form::Groups,
            RuleKind::NewTerms | RuleKind::Absence => Form::Signs,
            RuleKind::Match | RuleKind::Sequence => Form::Rows,
        }
    }
}

/// Plans the SQL and looks at its shape. The error says why it doesn't plan, with what was meant if that can be guessed.
pub fn examine(sql: &str, form: Form, lists: &Arc<Lists>) -> Result<Examined, String> {
    only_a_select(sql)?;
    let planned = plan(sql, form, lists).map_err(told)?;
    let (selected, schema) = (selected(&planned.asked), planned.asked.schema().clone());
    let mut advice = Vec::new();
    let shape = Shape::of(&planned.asked, form).map_err(told)?;
    let mut problems = shape.problems;
    if never(&planned.asked, &planned.optimized) {
        problems.push("can never be true, so that nothing is ever found".into());
    }
    if form == Form::Report {
        if !selected.iter().any(|name| name == "cluster") {
            problems.push("does not select cluster".into());
        }
        let made_of = match &planned.asked {
            LogicalPlan::Projection(projection) => columns(&projection.expr),
            _ => selected.clone(),
        };
        let counted = apart(made_of.iter().map(String::as_str));
        about_scans(&planned.optimized, counted, form, &mut problems, &mut advice);
        return Ok(Examined { selected, schema, problems, advice });
    }
    if form == Form::Groups && !shape.grouped {
        problems.push("no GROUP BY: whose rows are counted?".into());
    }
    let required: &[&str] = if form == Form::Groups { &["cluster"] } else { &REQUIRED };
    for name in required.iter().filter(|name| !selected.iter().any(|s| s == *name)) {
        problems.push(format!("does not select {name}"));
    }
    if form != Form::Groups {
        problems.extend(required.iter().filter_map(|name| another(&planned.asked, name)));
    }
    match shape.tables[..] {
        [table] => {
            about_scans(&planned.optimized, form != Form::Signs, form, &mut problems, &mut advice);
            if form == Form::Signs && is_staged(table) && !shape.conditions.iter().any(|column| column == "stage") {
                advice.push(unstaged(table.name()));
            }
            about_table(table, form, &selected, &mut problems);
        }
        _ => problems.push("reads one table, once; what joins rows is a sequence".into()),
    }
    Ok(Examined { selected, schema, problems, advice })
}

/// What is wrong with how a plan reads its tables. `counted`: whether each row of the result counts.
fn about_scans(
    optimized: &LogicalPlan,
    counted: bool,
    form: Form,
    problems: &mut Vec<String>,
    advice: &mut Vec<String>,
) {
    for scan in scans(optimized, counted) {
        let table = &scan.table;
        if form == Form::Report && !bounded(&scan.conditions) {
            advice.push(format!(
                "reads all of {table}: no lower bound on day, event_time or received_at that holds for every row"
            ));
        }
        let known = Table::parse(table);
        if known == Some(Table::Audit) {
            advice.extend(words::unknown(&scan.conditions));
        }
        if !known.is_some_and(is_staged) {
            continue;
        }
        let unknown = stage::unknown(&scan.conditions);
        if !scan.counted || unknown.is_some() {
            problems.extend(unknown.map(|problem| format!("stage: {problem}")));
        } else if scan.conditions.iter().any(stage::mentions) {
            advice.extend(stage::problem(&scan.conditions).map(|problem| format!("stage: {problem}")));
        } else {
            advice.push(unstaged(table));
        }
    }
}

/// The columns that expressions name.
fn columns(exprs: &[Expr]) -> Vec<String> {
    exprs.iter().flat_map(Expr::column_refs).map(|column| column.name.clone()).collect()
}

/// Whether one request gives a table several rows.
fn is_staged(table: Table) -> bool {
    table.is_streamed() && table != Table::Falco
}

fn unstaged(table: &str) -> String {
    format!("no condition on stage: one request gives {table} a row for each")
}

/// Why a column that a rule must select is not what its name says, if it isn't.
fn another(plan: &LogicalPlan, name: &str) -> Option<String> {
    let LogicalPlan::Projection(projection) = plan else { return None };
    let place = projection.schema.fields().iter().position(|field| field.name() == name)?;
    let expr = projection.expr[place].clone().unalias();
    let of = expr.column_refs();
    let fine = match name {
        "event_id" => matches!(&expr, Expr::Column(column) if column.name == name),
        "event_time" => {
            let time = matches!(projection.schema.field(place).data_type(), DataType::Timestamp(..));
            time && of.iter().any(|column| TIMES.contains(&column.name.as_str()))
        }
        _ => of.iter().any(|column| column.name == name),
    };
    (!fine).then(|| format!("selects {expr} as {name}, which is not the event's"))
}

fn about_table(table: Table, form: Form, selected: &[String], problems: &mut Vec<String>) {
    if form == Form::Groups {
        return;
    }
    for name in parts(table).iter().filter(|name| !selected.iter().any(|s| s == *name)) {
        problems.push(format!("does not select {name}, which tells one event's findings apart"));
    }
}

/// What tells the rows of one event apart.
fn parts(table: Table) -> &'static [&'static str] {
    match table {
        Table::Containers => &["container_kind", "container_name"],
        Table::RoleRules => &["rule_index"],
        Table::RoleSubjects => &["subject_index"],
        Table::Audit | Table::Falco | Table::Alerts | Table::Runs => &[],
    }
}

fn only_a_select(sql: &str) -> Result<(), String> {
    let statements = DFParser::parse_sql_with_dialect(sql, &crate::sql::PARSER).map_err(told)?;
    if statements.len() != 1 {
        return Err("one statement, please".into());
    }
    match statements.front() {
        Some(Statement::Statement(statement)) if matches!(**statement, ast::Statement::Query(_)) => Ok(()),
        _ => Err("only SELECT is run".into()),
    }
}

/// A query as it is written, and as it runs.
struct Planned {
    asked: LogicalPlan,
    optimized: LogicalPlan,
}

fn plan(sql: &str, form: Form, lists: &Arc<Lists>) -> Result<Planned, DataFusionError> {
    let context = session(form == Form::Report, lists)?;
    // Planning over tables in memory never waits, so that no runtime is needed.
    let asked = futures::executor::block_on(context.state().create_logical_plan(sql))?;
    let optimized = context.state().optimize(&asked)?;
    Ok(Planned { asked, optimized })
}

/// A session, and the lists that its functions look into.
struct Made {
    lists: Arc<Lists>,
    context: SessionContext,
}

/// A session with the tables that a report reads, or that others do, all of them empty.
fn session(report: bool, lists: &Arc<Lists>) -> Result<SessionContext, DataFusionError> {
    thread_local! {
        /// Those that were made last: making one takes longer than planning. Nothing is changed in them.
        static MADE: RefCell<[Option<Made>; 2]> = const { RefCell::new([None, None]) };
    }
    let known = MADE.with_borrow(|made| {
        let made = made[usize::from(report)].as_ref().filter(|made| Arc::ptr_eq(&made.lists, lists));
        made.map(|made| made.context.clone())
    });
    if let Some(context) = known {
        return Ok(context);
    }
    let context = crate::sql::session_with_lists(lists.clone(), |config| config)?;
    for table in Table::ALL.into_iter().filter(|table| table.is_streamed() || report) {
        context.register_table(table.name(), Arc::new(MemTable::try_new(table.schema(), vec![vec![]])?))?;
    }
    if report {
        crate::sql::register_period(&context, 0, 1);
    }
    let made = Made { lists: lists.clone(), context: context.clone() };
    MADE.with_borrow_mut(|all| all[usize::from(report)] = Some(made));
    Ok(context)
}

fn selected(plan: &LogicalPlan) -> Vec<String> {
    plan.schema().fields().iter().map(|field| field.name().clone()).collect()
}

/// What a plan reads and does.
#[derive(Default)]
struct Shape {
    tables: Vec<Table>,
    /// Columns that conditions name.
    conditions: Vec<String>,
    /// Whether rows are grouped by something.
    grouped: bool,
    problems: Vec<String>,
}

impl Shape {
    fn of(plan: &LogicalPlan, form: Form) -> Result<Self, DataFusionError> {
        let mut shape = Self::default();
        plan.apply_with_subqueries(|node| {
            if form != Form::Report {
                shape.node(node, form);
            }
            for expr in node.expressions() {
                shape.problems.extend(volatile(&expr)?);
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(shape)
    }

    fn node(&mut self, node: &LogicalPlan, form: Form) {
        match node {
            LogicalPlan::TableScan(scan) => self.tables.extend(Table::parse(scan.table_name.table())),
            LogicalPlan::Filter(filter) => {
                self.conditions.extend(filter.predicate.column_refs().into_iter().map(|c| c.name.clone()));
            }
            LogicalPlan::Aggregate(aggregate) if form == Form::Groups => {
                self.grouped |= !aggregate.group_expr.is_empty()
            }
            LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Subquery(_) => {}
            other => {
                let display = other.display().to_string();
                let name = display.split([':', ' ']).next().unwrap_or_default();
                self.problems.push(format!("selects rows that meet a condition: no {name}"));
            }
        }
    }
}

/// Functions whose answer depends on when they run would give a replayed event another finding.
pub fn volatile(expr: &Expr) -> Result<Vec<String>, DataFusionError> {
    let mut problems = Vec::new();
    expr.apply(|e| {
        if let Expr::ScalarFunction(function) = e
            && function.func.signature().volatility != Volatility::Immutable
        {
            problems.push(format!("{}() depends on when it runs; use event_time or period_end()", function.name()));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(problems)
}

/// DataFusion's message without its framing.
pub fn told(error: DataFusionError) -> String {
    error.strip_backtrace()
}
