//! Texts that conditions compare columns with, and whether an API server writes such words there.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::never::text;
use crate::nearest::did_you_mean;

/// What the `audit` table's columns with few words may say. Of a request for no resource the verb is its HTTP method, and a
/// client may make one up.
const WORDS: [(&str, &[&str]); 3] = [
    (
        "verb",
        &[
            "get",
            "list",
            "watch",
            "create",
            "update",
            "patch",
            "delete",
            "deletecollection",
            "proxy",
            "head",
            "options",
            "post",
            "put",
            "trace",
        ],
    ),
    ("level", &["Metadata", "Request", "RequestResponse"]),
    ("decision", &["allow", "forbid"]),
];

/// Verbs of rights and of other tools, and what an event has in their place.
const MISTAKEN: [(&str, &str); 9] = [
    ("exec", "subresource = 'exec'"),
    ("attach", "subresource = 'attach'"),
    ("portforward", "subresource = 'portforward'"),
    ("connect", "subresource IN ('exec', 'attach', 'portforward', 'proxy')"),
    ("impersonate", "impersonated_user_name IS NOT NULL"),
    ("bind", "verb IN ('create', 'update', 'patch') of a binding"),
    ("escalate", "verb IN ('create', 'update', 'patch') of a role"),
    ("replace", "verb = 'update'"),
    ("apply", "verb = 'patch'"),
];

/// What conditions on the `audit` table ask for that no API server writes.
pub fn unknown(conditions: &[Expr]) -> Vec<String> {
    let of_column = |(column, words): &(&str, &[&'static str])| {
        let mut asked = compared(conditions, column);
        asked.retain(|word| !words.contains(&word.as_str()));
        let problem = |word: String| {
            let instead = MISTAKEN.iter().find(|(mistaken, _)| *column == "verb" && *mistaken == word);
            let hint = match instead {
                Some((_, instead)) => format!("; events have {instead}"),
                None => did_you_mean(&word, words.iter().copied()),
            };
            format!("{column}: no API server writes {word}{hint}")
        };
        asked.into_iter().map(problem).collect::<Vec<_>>()
    };
    WORDS.iter().flat_map(of_column).collect()
}

/// The texts that conditions compare a column with.
pub fn compared(conditions: &[Expr], column: &str) -> BTreeSet<String> {
    let is_column = |expr: &Expr| matches!(peeled(expr), Expr::Column(other) if other.name == column);
    let mut texts = BTreeSet::new();
    let mut note = |value: &Expr| texts.extend(literal(value).map(str::to_owned));
    for condition in conditions {
        // Visiting can't fail where the visitor doesn't.
        let _ = condition.apply(|part| {
            match part {
                Expr::InList(InList { expr, list, .. }) if is_column(expr) => list.iter().for_each(&mut note),
                Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq | Operator::NotEq, right }) => {
                    let other = if is_column(left) { Some(right) } else { Some(left).filter(|_| is_column(right)) };
                    match other.map(|other| peeled(other)) {
                        Some(Expr::Case(case)) => {
                            let given = case.when_then_expr.iter().map(|(_, then)| then);
                            given.chain(&case.else_expr).for_each(|value| note(value));
                        }
                        Some(other) => note(other),
                        None => {}
                    }
                }
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        });
    }
    texts
}

/// Without what planning puts around a text of another type.
pub fn peeled(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast) => peeled(&cast.expr),
        Expr::Alias(alias) => peeled(&alias.expr),
        other => other,
    }
}

pub fn literal(expr: &Expr) -> Option<&str> {
    match peeled(expr) {
        Expr::Literal(value, _) => text(value),
        _ => None,
    }
}
