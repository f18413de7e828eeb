//! Filters that mean exactly the same in ClickHouse, as its SQL. What is not certain to is left to DataFusion.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator};

/// The filter as ClickHouse SQL, or `None` if it might mean something else there.
pub fn to_sql(expr: &Expr) -> Option<String> {
    match expr {
        Expr::BinaryExpr(binary) => {
            let operator = match binary.op {
                Operator::Eq => "=",
                Operator::NotEq => "!=",
                Operator::Lt => "<",
                Operator::LtEq => "<=",
                Operator::Gt => ">",
                Operator::GtEq => ">=",
                Operator::And => return both(&binary.left, "AND", &binary.right),
                Operator::Or => return both(&binary.left, "OR", &binary.right),
                _ => return None,
            };
            // A value on each side at most once: two columns might be of different types.
            match (binary.left.as_ref(), binary.right.as_ref()) {
                (Expr::Column(column), Expr::Literal(value, _)) => {
                    Some(format!("({} {operator} {})", column.name, literal(value)?))
                }
                (Expr::Literal(value, _), Expr::Column(column)) => {
                    Some(format!("({} {operator} {})", literal(value)?, column.name))
                }
                _ => None,
            }
        }
        Expr::Not(inner) => Some(format!("(NOT {})", to_sql(inner)?)),
        Expr::IsNull(inner) => Some(format!("({} IS NULL)", column(inner)?)),
        Expr::IsNotNull(inner) => Some(format!("({} IS NOT NULL)", column(inner)?)),
        Expr::InList(list) => {
            let values: Option<Vec<String>> = list.list.iter().map(|value| literal(as_literal(value)?)).collect();
            let not = if list.negated { "NOT " } else { "" };
            Some(format!("({} {not}IN ({}))", column(&list.expr)?, values?.join(", ")))
        }
        Expr::Between(between) => {
            let (low, high) = (literal(as_literal(&between.low)?)?, literal(as_literal(&between.high)?)?);
            let not = if between.negated { "NOT " } else { "" };
            Some(format!("({} {not}BETWEEN {low} AND {high})", column(&between.expr)?))
        }
        Expr::Like(like) if !like.case_insensitive && like.escape_char.is_none() => {
            let (ScalarValue::Utf8(Some(pattern)) | ScalarValue::Utf8View(Some(pattern))) = as_literal(&like.pattern)?
            else {
                return None;
            };
            // Backslashes escape in both, but not the same things.
            let plain = !pattern.contains('\\');
            let not = if like.negated { "NOT " } else { "" };
            plain.then(|| Some(format!("({} {not}LIKE {})", column(&like.expr)?, text(pattern))))?
        }
        _ => None,
    }
}

fn both(left: &Expr, operator: &str, right: &Expr) -> Option<String> {
    Some(format!("({} {operator} {})", to_sql(left)?, to_sql(right)?))
}

fn column(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(&column.name),
        _ => None,
    }
}

fn as_literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

fn literal(value: &ScalarValue) -> Option<String> {
    match value {
        ScalarValue::Utf8(Some(value)) | ScalarValue::Utf8View(Some(value)) | ScalarValue::LargeUtf8(Some(value)) => {
            Some(text(value))
        }
        ScalarValue::Int32(Some(value)) => Some(value.to_string()),
        ScalarValue::Int64(Some(value)) => Some(value.to_string()),
        ScalarValue::Boolean(Some(value)) => Some(value.to_string()),
        ScalarValue::TimestampMicrosecond(Some(value), _) => Some(format!("fromUnixTimestamp64Micro({value}, 'UTC')")),
        ScalarValue::Date32(Some(days)) => Some(format!("(toDate32('1970-01-01') + {days})")),
        _ => None,
    }
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    #[track_caller]
    fn check(expr: Expr, expected: Option<&str>) {
        assert_eq!(to_sql(&expr).as_deref(), expected);
    }

    #[test]
    fn comparisons_and_logic_go_out() {
        check(col("verb").eq(lit("get")), Some("(verb = 'get')"));
        check(col("a").eq(lit(1)).and(col("b").is_null()), Some("((a = 1) AND (b IS NULL))"));
        check(col("a").in_list(vec![lit("x"), lit("y")], true), Some("(a NOT IN ('x', 'y'))"));
        check(col("a").between(lit(1), lit(2)), Some("(a BETWEEN 1 AND 2)"));
        check(col("a").like(lit("system:%")), Some("(a LIKE 'system:%')"));
    }

    #[test]
    fn text_is_escaped() {
        check(col("a").eq(lit("it's \\ 'x'")), Some(r"(a = 'it\'s \\ \'x\'')"));
    }

    #[test]
    fn what_might_differ_stays_here() {
        check(col("a").like(lit(r"50\%")), None);
        check(col("a").ilike(lit("x%")), None);
        check(col("a").eq(col("b")), None);
        check(col("a").eq(lit(1.5)), None);
        check(col("a").eq(lit(1)).or(col("a").ilike(lit("x"))), None);
        check(col("a").in_list(vec![lit("x"), lit(ScalarValue::Utf8(None))], false), None);
    }
}
