//! Which stages of one request a condition lets through: rows of two would count the request twice.

use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Case, Expr, Operator};

use super::never::{contradictory, text};
use super::words::{compared, literal, peeled};
use crate::nearest::did_you_mean;

const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

/// Ways in which a condition can hold that are looked at; of a condition with more nothing is said.
const MOST: usize = 512;

/// What is wrong with the stages that rows may have which meet all of these conditions.
pub fn problem(conditions: &[Expr]) -> Option<String> {
    let condition = conditions.iter().cloned().reduce(Expr::and)?;
    let ways = STAGES.map(|stage| ways(&condition, true, stage));
    for (place, first) in ways.iter().enumerate() {
        for (other, second) in ways.iter().enumerate().skip(place + 1) {
            // A request that panics does not complete.
            let exclude = [STAGES[place], STAGES[other]] == ["ResponseComplete", "Panic"];
            let (Some(first), Some(second)) = (first, second) else { continue };
            if !exclude && both(first, second) {
                return Some(format!(
                    "{} and {} of one request may both meet it, and count twice: ask for one stage, such as \
                     stage = 'ResponseComplete'",
                    STAGES[place], STAGES[other]
                ));
            }
        }
    }
    None
}

/// Whether one request may meet a condition in one of some ways and in one of others: but for its stage, its columns stay.
fn both(first: &[Way], second: &[Way]) -> bool {
    first.iter().any(|one| {
        second.iter().any(|other| {
            let all: Way = one.iter().chain(other).cloned().collect();
            !opposed(&all)
        })
    })
}

/// Conditions that hold, and conditions that don't.
type Way<'a> = Vec<(&'a Expr, bool)>;

/// Whether no row can be so, as far as that can be told.
fn opposed(way: &Way) -> bool {
    let against = |(condition, holds): &(&Expr, bool)| way.iter().any(|(c, h)| c == condition && h != holds);
    let holding: Vec<&Expr> = way.iter().filter(|(_, holds)| *holds).map(|(condition, _)| *condition).collect();
    way.iter().any(against) || contradictory(&holding, false)
}

/// The ways in which a condition is true of a row of this stage, or is not; `None` if they are too many.
fn ways<'a>(condition: &'a Expr, holds: bool, stage: &str) -> Option<Vec<Way<'a>>> {
    let known = |truth: bool| Some(if truth == holds { vec![Vec::new()] } else { Vec::new() });
    let free = || Some(vec![Vec::new()]);
    if let Some(truth) = of_stage(condition, stage) {
        return known(truth);
    }
    match condition {
        Expr::Literal(value, _) => known(*value == true.into()),
        Expr::Alias(alias) => ways(&alias.expr, holds, stage),
        Expr::IsTrue(inner) => ways(inner, holds, stage),
        Expr::IsNotTrue(inner) => ways(inner, !holds, stage),
        // What is not false may be null.
        Expr::Not(inner) | Expr::IsFalse(inner) if holds => ways(inner, false, stage),
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let (left, right) = (ways(left, holds, stage), ways(right, holds, stage));
            if (*op == Operator::And) == holds { all(left, right) } else { any(left?, right?) }
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if holds => {
            match (is_stage(left), peeled(right), is_stage(right), peeled(left)) {
                (true, Expr::Case(case), ..) | (_, _, true, Expr::Case(case)) => of_case(case, stage),
                _ if mentions(condition) => free(),
                _ => Some(vec![vec![(condition, holds)]]),
            }
        }
        _ if mentions(condition) => free(),
        _ => Some(vec![vec![(condition, holds)]]),
    }
}

/// The ways in which a CASE gives a stage.
fn of_case<'a>(case: &'a Case, stage: &str) -> Option<Vec<Way<'a>>> {
    if case.expr.is_some() {
        return Some(vec![Vec::new()]);
    }
    let gives = |value: &Expr| match peeled(value) {
        Expr::Literal(value, _) => text(value) == Some(stage),
        _ => true,
    };
    let (mut found, mut passed) = (Vec::new(), vec![Vec::new()]);
    for (when, then) in &case.when_then_expr {
        if gives(then) {
            found = any(found, all(Some(passed.clone()), ways(when, true, stage))?)?;
        }
        passed = all(Some(passed), ways(when, false, stage))?;
    }
    match &case.else_expr {
        Some(otherwise) if gives(otherwise) => any(found, passed),
        _ => Some(found),
    }
}

fn any<'a>(mut some: Vec<Way<'a>>, others: Vec<Way<'a>>) -> Option<Vec<Way<'a>>> {
    some.extend(others);
    (some.len() <= MOST).then_some(some)
}

/// Both must hold; nothing does where one can't, however many ways the other has.
fn all<'a>(some: Option<Vec<Way<'a>>>, others: Option<Vec<Way<'a>>>) -> Option<Vec<Way<'a>>> {
    if [&some, &others].iter().any(|ways| ways.as_ref().is_some_and(Vec::is_empty)) {
        return Some(Vec::new());
    }
    let (some, others) = (some?, others?);
    if some.len() * others.len() > MOST {
        return None;
    }
    let joined =
        |way: &Way<'a>| others.iter().map(|other| way.iter().chain(other).copied().collect()).collect::<Vec<_>>();
    Some(some.iter().flat_map(joined).collect())
}

/// What a condition on nothing but the stage says of this one.
fn of_stage(condition: &Expr, stage: &str) -> Option<bool> {
    match condition {
        Expr::IsNull(inner) if is_stage(inner) => Some(false),
        Expr::IsNotNull(inner) if is_stage(inner) => Some(true),
        Expr::InList(InList { expr, list, negated }) if is_stage(expr) => {
            let values: Option<Vec<&str>> = list.iter().map(literal).collect();
            Some(values?.contains(&stage) != *negated)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let value = if is_stage(left) { literal(right)? } else { literal(left).filter(|_| is_stage(right))? };
            match op {
                Operator::Eq => Some(value == stage),
                Operator::NotEq => Some(value != stage),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What is wrong if a condition compares the stage with a text that is none.
pub fn unknown(conditions: &[Expr]) -> Option<String> {
    let unknown = compared(conditions, "stage").into_iter().find(|name| !STAGES.contains(&name.as_str()))?;
    Some(format!("there is no stage {unknown}{}", did_you_mean(&unknown, STAGES)))
}

pub fn mentions(condition: &Expr) -> bool {
    condition.column_refs().iter().any(|column| column.name == "stage")
}

fn is_stage(expr: &Expr) -> bool {
    matches!(peeled(expr), Expr::Column(column) if column.name == "stage")
}
