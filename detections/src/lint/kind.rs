//! What each kind of rule needs, and what it has no use for.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, visit_expressions};

use crate::except::expression;
use crate::nearest::did_you_mean;
use crate::rule::{Rule, RuleKind};
use crate::schedule::Schedule;

/// The days for which rules keep rows, at most.
const KEPT: i64 = 31;

/// Fields that must be there, and fields that say nothing for this kind.
pub fn fields(rule: &Rule, messages: &mut Vec<String>) {
    use RuleKind::{Absence, Match, NewTerms, Scheduled, Sequence, Window};
    let table: [(&str, bool, &[RuleKind], &[RuleKind]); 9] = [
        // Field, whether the rule has it, who needs it, who else may have it.
        ("sql", !rule.sql.is_empty(), &[Match, Window, NewTerms, Absence, Scheduled], &[]),
        ("steps", !rule.steps.is_empty(), &[Sequence], &[]),
        ("where", rule.condition.is_some(), &[], &[Sequence]),
        ("expects", rule.expects.is_some(), &[], &[Absence]),
        ("window", rule.window.is_some(), &[Window, Sequence, NewTerms, Absence], &[]),
        ("slack", rule.slack.is_some(), &[], &[Sequence]),
        ("group_by", !rule.group_by.is_empty(), &[Sequence, NewTerms, Absence], &[Match, Scheduled]),
        ("terms", !rule.terms.is_empty(), &[NewTerms], &[]),
        ("schedule", rule.schedule.is_some(), &[Scheduled], &[]),
    ];
    for (field, there, needed, allowed) in table {
        let kind = rule.kind.name();
        if !there && needed.contains(&rule.kind) {
            messages.push(format!("{field}: a rule of kind {kind} needs it"));
        }
        if there && !needed.contains(&rule.kind) && !allowed.contains(&rule.kind) {
            messages.push(format!("{field}: a rule of kind {kind} has no use for it"));
        }
    }
    if let Some(Err(problem)) = rule.schedule.as_ref().map(|text| text.parse::<Schedule>()) {
        messages.push(format!("schedule: {problem}"));
    }
    if rule.learning.is_some() && rule.kind != NewTerms {
        messages.push(format!("learning: a rule of kind {} has no use for it", rule.kind.name()));
    }
    if rule.suppress.is_some() && rule.group_by.is_empty() && rule.kind != Window {
        messages.push("suppress: of what subject? group_by says".into());
    }
    if rule.kind == NewTerms {
        let (history, learning) =
            (rule.window.map_or(0, |span| span.days()), rule.learning.map_or(1, |span| span.days()));
        if history > 120 {
            messages.push("window: new terms are remembered for 120d at most".into());
        }
        if learning > history {
            messages.push("learning: longer than what is remembered, so that nothing is ever new".into());
        }
    }
    if matches!(rule.kind, Window | Sequence | Absence) && rule.window.is_some_and(|span| span.days() > KEPT) {
        messages.push(format!("window: rows are kept for {KEPT}d at most; a scheduled rule looks back further"));
    }
    if rule.kind == Sequence && rule.steps.len() < 2 {
        messages.push("steps: a sequence has two at least".into());
    }
    for (place, step) in rule.steps.iter().enumerate() {
        if rule.steps[..place].iter().any(|other| other.name == step.name) {
            messages.push(format!("steps: {:?}: another step has that name", step.name));
        }
        messages.extend(nameless(&step.name));
    }
    if rule.risk.is_some_and(|risk| risk > 100) {
        messages.push("risk: 100 is the most".into());
    }
    let joins = matches!(rule.kind, Match | Sequence | NewTerms | Absence | Scheduled);
    if joins && !rule.group_by.is_empty() && !rule.group_by.iter().any(|name| name == "cluster") {
        messages.push("group_by: cluster must be among them: what happens in two clusters is not one subject's".into());
    }
}

/// Why a step can't have this name, if it can't.
fn nameless(name: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(plain) {
        return Some(format!(
            "steps: {name:?}: a name is of lower-case letters, digits and _, and begins with no digit"
        ));
    }
    // As conditions and exceptions name its columns.
    match expression(&format!("{name}.event_time")) {
        Ok(Expr::CompoundIdentifier(_)) => None,
        _ => Some(format!("steps: {name:?}: is a word of SQL")),
    }
}

/// Columns of a sequence's findings that would be two things: a step's own, which go by the step's name and theirs, and others.
pub fn twice(rule: &Rule, selects: &[Vec<String>]) -> Vec<String> {
    let mut named: Vec<String> = selects.iter().flatten().cloned().collect();
    let mut problems = Vec::new();
    for (step, selected) in rule.steps.iter().zip(selects) {
        for column in selected.iter().filter(|name| !rule.group_by.contains(name)) {
            let full = format!("{}_{column}", step.name);
            if named.contains(&full) {
                let (name, taken) = (&step.name, &full);
                problems.push(format!(
                    "steps.{name}: {column} becomes {taken} of the finding, and there is one; name either anew"
                ));
            }
            named.push(full);
        }
    }
    problems
}

/// The columns that a SELECT of the rule must have because other fields name them.
pub fn columns(rule: &Rule, field: &str, selected: &[String], messages: &mut Vec<String>) {
    let terms = rule.terms.iter().filter(|_| field == "sql").map(|name| ("terms", name));
    let groups = rule.group_by.iter().map(|name| ("group_by", name));
    for (by, name) in groups.chain(terms).filter(|(_, name)| !selected.contains(name)) {
        messages.push(format!("{field}: does not select {name}, which {by} names"));
    }
}

/// The columns of the rule's findings, given those of its SELECTs.
pub fn output(rule: &Rule, selects: &[Vec<String>]) -> Vec<String> {
    let mut columns: Vec<String> = match rule.kind {
        RuleKind::Sequence => Vec::new(),
        _ => selects.first().cloned().unwrap_or_default(),
    };
    match rule.kind {
        RuleKind::Sequence => {
            for (step, selected) in rule.steps.iter().zip(selects) {
                columns.extend(selected.iter().cloned());
                let own = selected.iter().filter(|name| !rule.group_by.contains(name));
                columns.extend(own.map(|name| format!("{}_{name}", step.name)));
            }
        }
        RuleKind::Window => columns.extend(["event_time", "event_id", "received_at"].map(str::to_owned)),
        RuleKind::Absence => columns.push("since".into()),
        _ => {}
    }
    columns
}

/// What a sequence's `where` names though no step has it, or why it can't be read. `selects` are the columns of each step.
pub fn unknown_in_condition(rule: &Rule, selects: &[Vec<String>]) -> Option<String> {
    let condition = match rule.condition.as_deref().map(expression)? {
        Ok(condition) => condition,
        Err(reason) => return Some(reason),
    };
    let columns = rule.steps.iter().zip(selects);
    let known: Vec<String> =
        columns.flat_map(|(step, columns)| columns.iter().map(|column| format!("{}.{column}", step.name))).collect();
    let check = |name: String| {
        if known.contains(&name) {
            return ControlFlow::Continue(());
        }
        let near = did_you_mean(&name, known.iter().map(String::as_str));
        ControlFlow::Break(format!("no column {name} of a step{near}"))
    };
    let dotted = |parts: &[Ident]| parts.iter().map(|part| part.value.as_str()).collect::<Vec<_>>().join(".");
    let names = visit_expressions(&condition, |part| match part {
        Expr::Identifier(name) => check(name.value.clone()),
        Expr::CompoundIdentifier(parts) => check(dotted(parts)),
        _ => ControlFlow::Continue(()),
    });
    names.break_value()
}
