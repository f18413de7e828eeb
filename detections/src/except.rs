//! Exceptions: a condition on what a rule is not to see, written into its SQL, so that every way to run the rule knows it.

use std::ops::ControlFlow;

use chrono::{DateTime, SecondsFormat};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::Volatility;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{self, SetExpr, Statement, Visit, Visitor};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::rule::{Rule, RuleKind};
use crate::sql::{self, PARSER};

/// What must hold of rows that an exception leaves to a rule: that its condition is not true, or that they are from `until` on, in
/// microseconds since 1970.
///
/// The condition is over the columns of the table that the rule reads; of a `sequence` over its steps' columns, such as
/// `done.user_name`; of a `scheduled` rule over the columns of its findings, for periods that end by then.
pub fn rest(rule: &Rule, condition: &str, until: Option<i64>) -> Result<ast::Expr, String> {
    // Parsed for itself first, so that it can't close a bracket and go on as something else.
    let condition = expression(condition)?;
    usable(&condition)?;
    let condition = condition.to_string();
    let before = |moment: &str, or_at: &str| {
        let until = DateTime::from_timestamp_micros(until?)?.to_rfc3339_opts(SecondsFormat::Micros, true);
        Some(format!(" AND {moment} <{or_at} CAST('{until}' AS TIMESTAMP WITH TIME ZONE)"))
    };
    let before = match rule.kind {
        RuleKind::Sequence => {
            let last = rule.steps.last().map(|step| format!("{}.event_time", step.name)).unwrap_or_default();
            before(&last, "")
        }
        RuleKind::Scheduled => before("period_end()", "="),
        _ => {
            crate::alias::ambiguous(&rule.sql, &condition)?;
            before("event_time", "")
        }
    };
    expression(&not(&condition, before))
}

/// Leaves to a rule only what meets all of these conditions.
pub fn keep(rule: &mut Rule, conditions: Vec<ast::Expr>) -> Result<(), String> {
    let Some(all) = conditions.into_iter().reduce(|some, one| and(Some(some), one)) else { return Ok(()) };
    match rule.kind {
        RuleKind::Sequence => {
            let old = rule.condition.as_deref().map(expression).transpose()?;
            rule.condition = Some(and(old, all).to_string());
        }
        RuleKind::Scheduled => {
            let sql = rule.sql.trim_end().trim_end_matches(';');
            rule.sql = format!("SELECT * FROM ({sql}\n) AS findings WHERE {all}");
        }
        _ => rule.sql = with_condition(&rule.sql, all)?,
    }
    Ok(())
}

/// True unless the condition is; also where it is null.
fn not(condition: &str, before: Option<String>) -> String {
    format!("(({condition}){}) IS NOT TRUE", before.unwrap_or_default())
}

/// A SELECT with one condition more.
fn with_condition(sql: &str, condition: ast::Expr) -> Result<String, String> {
    let mut statements = Parser::parse_sql(&PARSER, sql).map_err(|error| error.to_string())?;
    let query = match &mut statements[..] {
        [Statement::Query(query)] => query,
        _ => return Err("the rule is not one SELECT".into()),
    };
    let SetExpr::Select(select) = &mut *query.body else { return Err("the rule is not one SELECT".into()) };
    select.selection = Some(and(select.selection.take(), condition));
    Ok(query.to_string())
}

/// Both conditions, side by side: brackets within brackets would soon be more than the parser takes.
fn and(old: Option<ast::Expr>, new: ast::Expr) -> ast::Expr {
    let left = match old {
        None => return new,
        Some(old @ (ast::Expr::Nested(_) | ast::Expr::BinaryOp { op: ast::BinaryOperator::And, .. })) => old,
        Some(old) => ast::Expr::Nested(Box::new(old)),
    };
    ast::Expr::BinaryOp { left: Box::new(left), op: ast::BinaryOperator::And, right: Box::new(new) }
}

/// Whether a condition tells events apart by what they are: by columns of a row, and always alike.
fn usable(condition: &ast::Expr) -> Result<(), String> {
    let mut parts = Parts { session: sql::session().map_err(|error| error.to_string())?, columns: false };
    match condition.visit(&mut parts) {
        ControlFlow::Break(problem) => Err(problem),
        ControlFlow::Continue(()) if parts.columns => Ok(()),
        ControlFlow::Continue(()) => {
            Err("names no column, so that it is about all or nothing; enabled: false in overrides.yaml is for that"
                .into())
        }
    }
}

struct Parts {
    session: SessionContext,
    columns: bool,
}

impl Visitor for Parts {
    type Break = String;

    fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<String> {
        ControlFlow::Break("no subqueries: it is about one row".into())
    }

    fn pre_visit_expr(&mut self, part: &ast::Expr) -> ControlFlow<String> {
        match part {
            ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_) => self.columns = true,
            ast::Expr::Function(function) => {
                let name = function.name.to_string().to_lowercase();
                let known = self.session.udf(&name);
                if known.is_ok_and(|known| known.signature().volatility != Volatility::Immutable) {
                    return ControlFlow::Break(format!("{name}() depends on when it runs; use event_time or expires"));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// One expression and nothing after it.
pub(crate) fn expression(text: &str) -> Result<ast::Expr, String> {
    let read = || {
        let mut parser = Parser::new(&PARSER).try_with_sql(text)?;
        let expression = parser.parse_expr()?;
        parser.expect_token(&Token::EOF)?;
        Ok(expression)
    };
    read().map_err(|error: datafusion::sql::sqlparser::parser::ParserError| error.to_string())
}
