//! Long chains of OR and AND as trees of little depth. DataFusion asks at each node of a condition for the types of all below
//! it, which for a chain of some hundred alternatives takes the square of their number.

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;
use datafusion::prelude::lit;

/// Shorter chains stay as they are.
const LONG: usize = 32;

/// Comes before every other rule of a session.
#[derive(Debug)]
pub struct Balance;

impl AnalyzerRule for Balance {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let balanced = plan.transform_down_with_subqueries(|node| match node {
            LogicalPlan::Filter(mut filter) => {
                let predicate = balanced(filter.predicate)?;
                filter.predicate = predicate.data;
                Ok(Transformed::new_transformed(LogicalPlan::Filter(filter), predicate.transformed))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(balanced.data)
    }

    fn name(&self) -> &str {
        "balance"
    }
}

fn balanced(condition: Expr) -> Result<Transformed<Expr>> {
    condition.transform_down(|expr| match &expr {
        Expr::BinaryExpr(BinaryExpr { op: op @ (Operator::And | Operator::Or), .. }) if is_long(&expr, *op) => {
            let op = *op;
            let parts = parts(expr, op).into_iter().map(|part| Ok(balanced(part)?.data));
            let tree = tree(parts.collect::<Result<_>>()?, op);
            Ok(Transformed::new(tree, true, TreeNodeRecursion::Jump))
        }
        _ => Ok(Transformed::no(expr)),
    })
}

fn is_long(chain: &Expr, op: Operator) -> bool {
    let (mut left, mut parts) = (vec![chain], 0);
    while let Some(expr) = left.pop().filter(|_| parts < LONG) {
        match expr {
            Expr::BinaryExpr(binary) if binary.op == op => left.extend([&*binary.right, &*binary.left]),
            _ => parts += 1,
        }
    }
    parts >= LONG
}

/// What a chain joins, in its order.
fn parts(chain: Expr, op: Operator) -> Vec<Expr> {
    let (mut left, mut parts) = (vec![chain], Vec::new());
    while let Some(expr) = left.pop() {
        match expr {
            Expr::BinaryExpr(binary) if binary.op == op => left.extend([*binary.right, *binary.left]),
            part => parts.push(part),
        }
    }
    parts
}

/// Joined two by two, then these, and so on; the order stays.
fn tree(mut parts: Vec<Expr>, op: Operator) -> Expr {
    while parts.len() > 1 {
        let mut joined = Vec::with_capacity(parts.len().div_ceil(2));
        let mut rest = parts.into_iter();
        while let Some(one) = rest.next() {
            joined.push(match rest.next() {
                Some(other) => Expr::BinaryExpr(BinaryExpr::new(Box::new(one), op, Box::new(other))),
                None => one,
            });
        }
        parts = joined;
    }
    parts.pop().unwrap_or_else(|| lit(op == Operator::And))
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::col;

    use super::*;

    fn depth(expr: &Expr) -> usize {
        match expr {
            Expr::BinaryExpr(binary) => 1 + depth(&binary.left).max(depth(&binary.right)),
            _ => 0,
        }
    }

    #[test]
    fn long_chains_become_trees_and_say_the_same_in_the_same_order() {
        let columns = |many: usize| (0..many).map(|number| col(format!("c{number}")));
        for many in [LONG, 33, 200] {
            let ands = columns(many).reduce(Expr::and).unwrap();
            // A chain in a chain.
            let chain = columns(many).map(|column| column.or(ands.clone())).reduce(Expr::or).unwrap();
            let tree = balanced(chain.clone()).unwrap().data;
            let both = parts(chain, Operator::Or).into_iter().zip(parts(tree.clone(), Operator::Or));
            for (one, other) in both {
                assert_eq!(parts(one, Operator::And), parts(other, Operator::And));
            }
            assert!(depth(&tree) <= 2 * (many * many).ilog2() as usize + 2, "{many}: {}", depth(&tree));
        }
        let short = columns(LONG - 1).reduce(Expr::or).unwrap();
        assert_eq!(balanced(short.clone()).unwrap().data, short);
    }

    #[test]
    fn sessions_balance_conditions_before_they_look_at_types() {
        let context = crate::sql::session().unwrap();
        let alternatives: Vec<String> = (0..1_000).map(|n| format!("(a = {n} AND b = {n})")).collect();
        let sql = format!("SELECT 1 FROM (VALUES (1, 2)) AS t(a, b) WHERE {}", alternatives.join(" OR "));
        let state = context.state();
        let plan = futures::executor::block_on(state.create_logical_plan(&sql)).unwrap();
        let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {}).unwrap();
        let mut deepest = 0;
        plan.apply(|node| {
            if let LogicalPlan::Filter(filter) = node {
                deepest = deepest.max(depth(&filter.predicate));
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        assert!((10..20).contains(&deepest), "{deepest}");
    }
}
