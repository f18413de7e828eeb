//! Names that a SELECT gives to something else than the table's column of that name.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, SelectItem, SetExpr, Statement, visit_expressions};
use datafusion::sql::sqlparser::parser::Parser;

use crate::except::expression;
use crate::sql::PARSER;

/// Why a condition that is to go into a SELECT's WHERE would ask for another thing than what the SELECT shows by that name.
pub fn ambiguous(sql: &str, condition: &str) -> Result<(), String> {
    let condition = expression(condition)?;
    let statements = Parser::parse_sql(&PARSER, sql).map_err(|error| error.to_string())?;
    let [Statement::Query(query)] = &statements[..] else { return Ok(()) };
    let SetExpr::Select(select) = query.body.as_ref() else { return Ok(()) };
    let other = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { expr, alias } if !is(expr, alias) => Some((lower(alias), expr.to_string())),
        _ => None,
    };
    let others: Vec<(String, String)> = select.projection.iter().filter_map(other).collect();
    let found = visit_expressions(&condition, |part| {
        let Expr::Identifier(name) = part else { return ControlFlow::Continue(()) };
        match others.iter().find(|(alias, _)| *alias == lower(name)) {
            Some((alias, expr)) => ControlFlow::Break(format!(
                "{alias} is the table's column here, and the rule selects {expr} by that name: name that, or the column \
                 with its table, as in audit.{alias}"
            )),
            None => ControlFlow::Continue(()),
        }
    });
    found.break_value().map_or(Ok(()), Err)
}

/// Whether an expression is the column of that name.
fn is(expr: &Expr, name: &Ident) -> bool {
    match expr {
        Expr::Identifier(column) => lower(column) == lower(name),
        Expr::CompoundIdentifier(parts) => parts.last().is_some_and(|column| lower(column) == lower(name)),
        _ => false,
    }
}

fn lower(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_shown_for_something_else_is_not_asked_for() {
        let sql =
            "SELECT cluster, a.name AS name, coalesce(name, 'x') AS namespace, lower(verb) AS what FROM audit AS a";
        for condition in ["namespace = 'shop'", "name = 'x' AND NAMESPACE LIKE 'a%'", "lower(namespace) = 'a'"] {
            let error = ambiguous(sql, condition).unwrap_err();
            assert!(error.contains("selects coalesce(name, 'x') by that name"), "{condition}: {error}");
        }
        for condition in ["name = 'x'", "coalesce(name, 'x') = 'shop'", "a.namespace = 'shop'", "verb = 'get'"] {
            assert_eq!(ambiguous(sql, condition), Ok(()), "{condition}");
        }
    }
}
