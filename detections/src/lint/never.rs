//! Conditions that no row can meet: what the optimizer finds out, and conditions on one column that contradict each other.

use std::collections::BTreeMap;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};
use datafusion::scalar::ScalarValue;

/// Whether a query can't return a row, as far as that can be told without data.
pub fn never(asked: &LogicalPlan, optimized: &LogicalPlan) -> bool {
    let empty = |plan: &LogicalPlan| plan.exists(|node| Ok(matches!(node, LogicalPlan::EmptyRelation(_))));
    let mut never = !empty(asked).unwrap_or(true) && empty(optimized).unwrap_or(false);
    // Visiting can't fail where the visitor doesn't.
    let _ = asked.apply(|node| {
        never |= matches!(node, LogicalPlan::Filter(filter) if impossible(&filter.predicate));
        Ok(TreeNodeRecursion::Continue)
    });
    never
}

/// What the conditions that must all hold say of one column.
#[derive(Default)]
struct Said<'a> {
    null: bool,
    /// Values that it must be among, each list for itself.
    among: Vec<Vec<&'a ScalarValue>>,
    compared: Vec<(Operator, &'a ScalarValue)>,
}

fn impossible(condition: &Expr) -> bool {
    if let Expr::BinaryExpr(either) = condition
        && either.op == Operator::Or
    {
        return impossible(&either.left) && impossible(&either.right);
    }
    let parts = split_conjunction(condition);
    let mut columns: BTreeMap<&str, Said> = BTreeMap::new();
    for part in &parts {
        if let Some((column, fact)) = fact(part) {
            let said = columns.entry(column).or_default();
            match fact {
                Fact::Null => said.null = true,
                Fact::Among(values) => said.among.push(values),
                Fact::Compared(compared) => said.compared.extend(compared),
            }
        }
    }
    columns.values().any(Said::contradicts_itself) || parts.len() > 1 && parts.into_iter().any(impossible)
}

enum Fact<'a> {
    Null,
    Among(Vec<&'a ScalarValue>),
    Compared(Vec<(Operator, &'a ScalarValue)>),
}

/// What a condition says of a column, if it is one that can be compared with others.
fn fact(condition: &Expr) -> Option<(&str, Fact<'_>)> {
    Some(match condition {
        Expr::IsNull(inner) => (column(inner)?, Fact::Null),
        Expr::InList(list) if !list.negated => {
            (column(&list.expr)?, Fact::Among(list.list.iter().map(literal).collect::<Option<_>>()?))
        }
        Expr::Between(between) if !between.negated => {
            let (low, high) = (literal(&between.low)?, literal(&between.high)?);
            (column(&between.expr)?, Fact::Compared(vec![(Operator::GtEq, low), (Operator::LtEq, high)]))
        }
        Expr::BinaryExpr(binary) => {
            let (column, operator, value) = match (column(&binary.left), column(&binary.right)) {
                (Some(column), _) => (column, binary.op, literal(&binary.right)?),
                (None, Some(column)) => (column, binary.op.swap()?, literal(&binary.left)?),
                (None, None) => return None,
            };
            (column, Fact::Compared(vec![(operator, value)]))
        }
        _ => return None,
    })
}

fn column(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(&column.name),
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

impl Said<'_> {
    fn contradicts_itself(&self) -> bool {
        if self.compared.iter().any(|(operator, value)| strict(*operator) && value.is_null()) {
            return true;
        }
        if self.null && (!self.among.is_empty() || self.compared.iter().any(|(operator, _)| strict(*operator))) {
            return true;
        }
        let equal =
            self.compared.iter().filter(|(operator, _)| *operator == Operator::Eq).map(|(_, value)| vec![*value]);
        let sets: Vec<Vec<&ScalarValue>> = self.among.iter().cloned().chain(equal).collect();
        if let Some((first, others)) = sets.split_first() {
            let fits = |value: &&ScalarValue| {
                others.iter().all(|other| other.contains(value))
                    && self.compared.iter().all(|(operator, bound)| may_hold(value, *operator, bound))
            };
            return !first.iter().any(fits);
        }
        // Between a lower bound and an upper one there is room only if the one meets the other.
        let above = |op: Operator| matches!(op, Operator::Gt | Operator::GtEq);
        self.compared.iter().filter(|(operator, _)| above(*operator)).any(|(over, low)| {
            let below = self.compared.iter().filter(|(operator, _)| !above(*operator));
            below.into_iter().any(|(under, high)| {
                let open = *over == Operator::Gt || *under == Operator::Lt;
                match under {
                    Operator::Lt | Operator::LtEq => match low.partial_cmp(high) {
                        Some(order) => order.is_gt() || open && order.is_eq(),
                        None => false,
                    },
                    _ => false,
                }
            })
        })
    }
}

/// Whether a comparison gives null for null.
fn strict(operator: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

/// Whether a value may compare so; values of different types may.
fn may_hold(value: &ScalarValue, operator: Operator, bound: &ScalarValue) -> bool {
    let Some(order) = value.partial_cmp(bound) else { return true };
    match operator {
        Operator::Lt => order.is_lt(),
        Operator::LtEq => order.is_le(),
        Operator::Gt => order.is_gt(),
        Operator::GtEq => order.is_ge(),
        Operator::NotEq => order.is_ne(),
        Operator::Eq => order.is_eq(),
        _ => true,
    }
}
