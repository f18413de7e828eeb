//! Conditions that no row can meet: what the optimizer finds out, and conditions on one thing that contradict each other.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use datafusion::arrow::array::{Datum, Scalar, StringArray};
use datafusion::arrow::compute::kernels::comparison::{ilike, like};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Like, LogicalPlan, Operator};
use datafusion::scalar::ScalarValue;

use crate::functions::USER_KINDS;

/// Whether a query can't return a row, as far as that can be told without data.
pub fn never(asked: &LogicalPlan, optimized: &LogicalPlan) -> bool {
    let empty = |plan: &LogicalPlan| plan.exists(|node| Ok(matches!(node, LogicalPlan::EmptyRelation(_))));
    let mut never = !empty(asked).unwrap_or(true) && empty(optimized).unwrap_or(false);
    // Visiting can't fail where the visitor doesn't.
    let _ = asked.apply(|node| {
        never |=
            matches!(node, LogicalPlan::Filter(filter) if impossible(&filter.predicate, is_of_groups(&filter.input)));
        Ok(TreeNodeRecursion::Continue)
    });
    never
}

/// What the conditions that must all hold say of one thing.
#[derive(Default)]
struct Said<'a> {
    null: bool,
    not_null: bool,
    /// Values that it must be among, each list for itself.
    among: Vec<Vec<&'a ScalarValue>>,
    compared: Vec<(Operator, &'a ScalarValue)>,
    like: Vec<&'a Like>,
    unlike: Vec<&'a Like>,
    /// The values that there are, if they are few, beside null.
    possible: Option<&'static [ScalarValue]>,
}

/// Whether rows are groups of rows, each of one row at least.
fn is_of_groups(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Aggregate(aggregate) if !aggregate.group_expr.is_empty())
}

/// Whether a condition is true of no row; `groups` says whether rows are groups.
pub fn impossible(condition: &Expr, groups: bool) -> bool {
    if let Expr::BinaryExpr(either) = condition
        && either.op == Operator::Or
    {
        return impossible(&either.left, groups) && impossible(&either.right, groups);
    }
    let parts = split_conjunction(condition);
    contradictory(&parts, groups) || parts.len() > 1 && parts.into_iter().any(|part| impossible(part, groups))
}

/// Whether conditions can't hold together; `groups` says whether rows are groups.
pub fn contradictory(parts: &[&Expr], groups: bool) -> bool {
    let mut things: BTreeMap<String, Said> = BTreeMap::new();
    let mut orders: BTreeMap<(String, String), u8> = BTreeMap::new();
    for part in parts {
        if let Some((thing, fact)) = fact(part, false) {
            let said = things.entry(name(thing)).or_insert_with(|| Said {
                possible: possible(thing),
                compared: least(thing).filter(|_| groups).map(|least| (Operator::GtEq, least)).into_iter().collect(),
                ..Said::default()
            });
            match fact {
                Fact::Null => said.null = true,
                Fact::NotNull => said.not_null = true,
                Fact::Among(values) => said.among.push(values),
                Fact::Compared(compared) => said.compared.extend(compared),
                Fact::Like(like) => said.like.push(like),
                Fact::Unlike(like) => said.unlike.push(like),
            }
        }
        if let Some((one, other, ways)) = order(part) {
            *orders.entry((one, other)).or_insert(u8::MAX) &= ways;
        }
    }
    things.values().any(Said::contradicts_itself) || orders.values().any(|ways| *ways == 0)
}

enum Fact<'a> {
    Null,
    NotNull,
    Among(Vec<&'a ScalarValue>),
    Compared(Vec<(Operator, &'a ScalarValue)>),
    Like(&'a Like),
    Unlike(&'a Like),
}

/// What a condition says of a column or a call, or its negation, if it is one that can be compared with others.
fn fact(condition: &Expr, negated: bool) -> Option<(&Expr, Fact<'_>)> {
    Some(match condition {
        Expr::Not(inner) => return fact(inner, !negated),
        Expr::IsNull(inner) => (thing(inner)?, if negated { Fact::NotNull } else { Fact::Null }),
        Expr::IsNotNull(inner) => (thing(inner)?, if negated { Fact::Null } else { Fact::NotNull }),
        Expr::InList(InList { expr, list, negated: not }) => {
            let values: Vec<&ScalarValue> = list.iter().map(literal).collect::<Option<_>>()?;
            let other = |values: Vec<_>| Fact::Compared(values.into_iter().map(|v| (Operator::NotEq, v)).collect());
            (thing(expr)?, if *not == negated { Fact::Among(values) } else { other(values) })
        }
        Expr::Between(between) if between.negated == negated => {
            let (low, high) = (literal(&between.low)?, literal(&between.high)?);
            (thing(&between.expr)?, Fact::Compared(vec![(Operator::GtEq, low), (Operator::LtEq, high)]))
        }
        Expr::Like(like) => {
            literal(&like.pattern)?;
            (thing(&like.expr)?, if like.negated == negated { Fact::Like(like) } else { Fact::Unlike(like) })
        }
        Expr::BinaryExpr(binary) => {
            let (thing, operator, value) = match (literal(&binary.left), literal(&binary.right)) {
                (None, Some(value)) => (thing(&binary.left)?, binary.op, value),
                (Some(value), None) => (thing(&binary.right)?, binary.op.swap()?, value),
                _ => return None,
            };
            let operator = if negated { operator.negate()? } else { operator };
            (thing, Fact::Compared(vec![(operator, value)]))
        }
        _ => return None,
    })
}

/// How two things must lie to each other, by name, as bits: below, equal, above.
fn order(condition: &Expr) -> Option<(String, String, u8)> {
    let (binary, negated) = match condition {
        Expr::Not(inner) => match inner.as_ref() {
            Expr::BinaryExpr(binary) => (binary, true),
            _ => return None,
        },
        Expr::BinaryExpr(binary) => (binary, false),
        _ => return None,
    };
    let (left, right) = (name(thing(&binary.left)?), name(thing(&binary.right)?));
    let mut operator = if negated { binary.op.negate()? } else { binary.op };
    if left > right {
        operator = operator.swap()?;
    }
    let ways = match operator {
        Operator::Lt => 0b001,
        Operator::LtEq => 0b011,
        Operator::Eq => 0b010,
        Operator::NotEq => 0b101,
        Operator::GtEq => 0b110,
        Operator::Gt => 0b100,
        _ => return None,
    };
    let same = if left == right { 0b010 } else { 0b111 };
    Some((left.clone().min(right.clone()), left.max(right), ways & same))
}

/// A column, or a call, which gives one answer for one row.
fn thing(expr: &Expr) -> Option<&Expr> {
    matches!(expr, Expr::Column(_) | Expr::ScalarFunction(_)).then_some(expr)
}

fn name(thing: &Expr) -> String {
    match thing {
        Expr::Column(column) => column.flat_name(),
        call => call.to_string(),
    }
}

/// The values that a call gives, if they are few.
fn possible(thing: &Expr) -> Option<&'static [ScalarValue]> {
    static KINDS: LazyLock<Vec<ScalarValue>> = LazyLock::new(|| USER_KINDS.iter().map(|kind| (*kind).into()).collect());
    match thing {
        Expr::ScalarFunction(call) if call.name() == "user_kind" => Some(&KINDS),
        _ => None,
    }
}

/// The least that a group of rows is told to have: it has one row, and what is counted of it is not below zero.
fn least(thing: &Expr) -> Option<&'static ScalarValue> {
    static NONE: ScalarValue = ScalarValue::Int64(Some(0));
    static ONE: ScalarValue = ScalarValue::Int64(Some(1));
    match thing {
        Expr::Column(column) if ["count(*)", "count(Int64(1))"].contains(&column.name()) => Some(&ONE),
        Expr::Column(column) if column.name().starts_with("count(") => Some(&NONE),
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

/// A value's text, whatever the type of text.
pub fn text(value: &ScalarValue) -> Option<&str> {
    value.try_as_str().flatten()
}

impl Said<'_> {
    fn contradicts_itself(&self) -> bool {
        if self.compared.iter().any(|(operator, value)| strict(*operator) && value.is_null()) {
            return true;
        }
        let strict = self.compared.iter().any(|(operator, _)| strict(*operator));
        let patterns = !self.like.is_empty() || !self.unlike.is_empty();
        if self.null && (self.not_null || !self.among.is_empty() || strict || patterns) {
            return true;
        }
        let equal =
            self.compared.iter().filter(|(operator, _)| *operator == Operator::Eq).map(|(_, value)| vec![*value]);
        let possible = self.possible.filter(|_| !self.null).map(|values| values.iter().collect());
        let sets: Vec<Vec<&ScalarValue>> = self.among.iter().cloned().chain(equal).chain(possible).collect();
        if let Some((first, others)) = sets.split_first() {
            return !first.iter().any(|value| self.allows(value, others));
        }
        // Between a lower bound and an upper one there is room only if the one meets the other.
        let above = |op: Operator| matches!(op, Operator::Gt | Operator::GtEq);
        self.compared.iter().filter(|(operator, _)| above(*operator)).any(|(over, low)| {
            let below = self.compared.iter().filter(|(operator, _)| !above(*operator));
            below.into_iter().any(|(under, high)| {
                let open = *over == Operator::Gt || *under == Operator::Lt;
                match under {
                    Operator::Lt | Operator::LtEq => match compare(low, high) {
                        Some(order) => order.is_gt() || open && order.is_eq(),
                        None => false,
                    },
                    _ => false,
                }
            })
        })
    }

    /// Whether it may have a value, which is in these lists too.
    fn allows(&self, value: &ScalarValue, lists: &[Vec<&ScalarValue>]) -> bool {
        let same = |other: &&ScalarValue| compare(value, other).is_none_or(Ordering::is_eq);
        let matched = |like: &&Like| matches(value, like);
        lists.iter().all(|list| list.iter().any(same))
            && self.compared.iter().all(|(operator, bound)| may_hold(value, *operator, bound))
            && self.like.iter().all(|like| matched(like) != Some(false))
            && self.unlike.iter().all(|like| matched(like) != Some(true))
    }
}

/// Whether a comparison gives null for null.
fn strict(operator: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

/// `None` if values of two types can't be compared.
fn compare(one: &ScalarValue, other: &ScalarValue) -> Option<Ordering> {
    match (text(one), text(other)) {
        (Some(one), Some(other)) => Some(one.cmp(other)),
        _ => one.partial_cmp(other),
    }
}

/// Whether a value may compare so; values of different types may.
fn may_hold(value: &ScalarValue, operator: Operator, bound: &ScalarValue) -> bool {
    let Some(order) = compare(value, bound) else { return true };
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

/// Whether a text fits a pattern; `None` if that can't be told.
fn matches(value: &ScalarValue, pattern: &Like) -> Option<bool> {
    let one = |text: &str| Scalar::new(StringArray::from(vec![text]));
    let (value, like_what) = (one(text(value)?), one(text(literal(&pattern.pattern)?)?));
    let (value, like_what): (&dyn Datum, &dyn Datum) = (&value, &like_what);
    let found = if pattern.case_insensitive { ilike(value, like_what) } else { like(value, like_what) };
    // Another escape character than the usual one is another pattern.
    found.ok().filter(|_| pattern.escape_char.is_none()).map(|found| found.value(0))
}
