//! Exceptions: a condition on what a rule is not to see, written into its SQL, so that every way to run the rule knows it.

use chrono::{DateTime, SecondsFormat};
use datafusion::sql::sqlparser::ast::{self, SetExpr, Statement};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::rule::{Rule, RuleKind};
use crate::sql::PARSER;

/// Leaves out of a rule what a condition says, for events from before `until`, in microseconds since 1970.
///
/// The condition is over the columns of the table that the rule reads; of a `sequence` over its steps' columns, such as
/// `done.user_name`; of a `scheduled` rule over the columns of its findings, for periods that end by then.
pub fn except(rule: &mut Rule, condition: &str, until: Option<i64>) -> Result<(), String> {
    // Parsed for itself first, so that it can't close a bracket and go on as something else.
    let condition = expression(condition)?.to_string();
    let before = |moment: &str, or_at: &str| {
        let until = DateTime::from_timestamp_micros(until?)?.to_rfc3339_opts(SecondsFormat::Micros, true);
        Some(format!(" AND {moment} <{or_at} CAST('{until}' AS TIMESTAMP WITH TIME ZONE)"))
    };
    match rule.kind {
        RuleKind::Sequence => {
            let last = rule.steps.last().map(|step| format!("{}.event_time", step.name)).unwrap_or_default();
            let rest = not(&condition, before(&last, ""));
            rule.condition = Some(match &rule.condition {
                Some(old) => format!("({old}) AND {rest}"),
                None => rest,
            });
        }
        RuleKind::Scheduled => {
            let rest = not(&condition, before("period_end()", "="));
            let sql = rule.sql.trim_end().trim_end_matches(';');
            rule.sql = format!("SELECT * FROM ({sql}\n) AS findings WHERE {rest}");
        }
        _ => {
            crate::alias::ambiguous(&rule.sql, &condition)?;
            let rest = expression(&not(&condition, before("event_time", "")))?;
            rule.sql = with_condition(&rule.sql, rest)?;
        }
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
    select.selection = Some(match select.selection.take() {
        Some(old) => ast::Expr::BinaryOp {
            left: Box::new(ast::Expr::Nested(Box::new(old))),
            op: ast::BinaryOperator::And,
            right: Box::new(condition),
        },
        None => condition,
    });
    Ok(query.to_string())
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
