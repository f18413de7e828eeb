//! From a rule's text to what the engine runs: its inputs, what it keeps, and what its findings are about.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder};
use datafusion::prelude::{DataFrame, SessionContext};
use vedette_detections::{Rule, RuleKind, Span};

use super::finding::Subject;
use super::input::{self, Input};
use super::slot::{Filters, Slot, SlotTable};
use super::state::{Absence, NewTerms, Sequence, State, Upper, Window, sliding};

type Result<T> = std::result::Result<T, DataFusionError>;

/// A rule, planned.
pub struct Planned {
    /// Each with the filters of its scan.
    pub inputs: Vec<(Input, Vec<Expr>)>,
    pub state: Option<State>,
    pub subject: Option<Subject>,
}

/// What is found again within a day is no news, unless a rule of new terms says otherwise.
const DAY: i64 = 86_400_000_000;

/// Plans a rule of any kind but `scheduled`.
pub async fn plan(context: &SessionContext, rule: &Rule) -> Result<Planned> {
    let span = rule.window.map(Span::micros);
    let needed = || span.ok_or_else(|| missing("window"));
    let subject = |columns: &[String], default: i64| {
        Some(Subject { columns: columns.to_vec(), suppress: rule.suppress.map_or(default, Span::micros) })
    };
    match rule.kind {
        RuleKind::Match | RuleKind::Scheduled => {
            let input = Input::plan(context, &rule.sql).await?;
            let subject = if rule.group_by.is_empty() { None } else { subject(&rule.group_by, DAY) };
            Ok(Planned { inputs: vec![input], state: None, subject })
        }
        RuleKind::Window => {
            let (input, window) = window(context, rule, needed()?).await?;
            let subject = subject(window.group_by(), needed()?);
            Ok(Planned { inputs: vec![input], state: Some(State::Window(Box::new(window))), subject })
        }
        RuleKind::Sequence => {
            let mut inputs = Vec::new();
            for step in &rule.steps {
                inputs.push(Input::plan(context, &step.sql).await?);
            }
            let schemas = inputs.iter().map(|(input, _)| input.schema()).collect();
            let slack = rule.slack.map_or(0, Span::micros);
            let sequence = Sequence::new(context, rule, schemas, needed()?, slack).await?;
            let subject = subject(&rule.group_by, needed()?);
            Ok(Planned { inputs, state: Some(State::Sequence(sequence)), subject })
        }
        RuleKind::NewTerms => {
            let input = Input::plan(context, &rule.sql).await?;
            let history = rule.window.ok_or_else(|| missing("window"))?.days();
            let learning = rule.learning.map_or(1, Span::days);
            let terms = NewTerms::new(rule.group_by.clone(), &rule.terms, history, learning);
            let columns: Vec<String> = rule.group_by.iter().chain(&rule.terms).cloned().collect();
            Ok(Planned { inputs: vec![input], state: Some(State::NewTerms(terms)), subject: subject(&columns, DAY) })
        }
        RuleKind::Absence => {
            let mut inputs = vec![Input::plan(context, &rule.sql).await?];
            if let Some(expects) = &rule.expects {
                inputs.push(Input::plan(context, expects).await?);
            }
            let absence = Absence::new(rule.group_by.clone(), needed()?, rule.expects.is_none());
            let subject = subject(&rule.group_by, needed()?);
            Ok(Planned { inputs, state: Some(State::Absence(absence)), subject })
        }
    }
}

async fn window(context: &SessionContext, rule: &Rule, span: i64) -> Result<((Input, Vec<Expr>), Window)> {
    let slot = Slot::default();
    input::register(context, &slot)?;
    let state = context.state();
    let sliding = sliding(state.create_logical_plan(&rule.sql).await?)?;
    let logical = state.optimize(&sliding.input)?;
    let input = Input::new(&state, &logical, slot).await?;
    let kept = input.0.schema();
    let slot = Slot::default();
    let scan = |schema: SchemaRef| {
        let table = provider_as_source(Arc::new(SlotTable::new(schema, slot.clone(), Filters::Plans)));
        LogicalPlanBuilder::scan("__kept", table, None)?.build()
    };
    let frames = sliding.frames(context, scan(kept.clone())?, span)?;
    let plan = state.create_physical_plan(&sliding.over(scan(frames.schema())?)?).await?;
    let upper = Upper { slots: vec![slot], plan };
    Ok((input, Window::new(sliding, frames, upper, kept, span)?))
}

/// How far back a rule must look to know what it would know had it run all along, in microseconds; `None` if it keeps nothing.
pub fn reach(rule: &Rule) -> Option<i64> {
    let span = rule.window.map_or(0, Span::micros) + rule.slack.map_or(0, Span::micros);
    let suppress = rule.suppress.map(Span::micros);
    match rule.kind {
        RuleKind::Scheduled => None,
        RuleKind::Match if rule.group_by.is_empty() => None,
        RuleKind::Match => Some(suppress.unwrap_or(DAY)),
        // What it remembers for longer is remembered by day.
        RuleKind::NewTerms => Some(suppress.unwrap_or(DAY)),
        RuleKind::Window | RuleKind::Sequence | RuleKind::Absence => Some(span + suppress.unwrap_or(span)),
    }
}

/// What each of a rule's inputs selects of the tables that a session has.
pub async fn over(context: &SessionContext, rule: &Rule) -> Result<Vec<DataFrame>> {
    if rule.kind == RuleKind::Window {
        let state = context.state();
        let plan = sliding(state.create_logical_plan(&rule.sql).await?)?.input;
        return Ok(vec![DataFrame::new(state, plan)]);
    }
    let mut frames = Vec::new();
    for (_, sql) in rule.selects() {
        frames.push(context.sql(sql).await?);
    }
    Ok(frames)
}

fn missing(field: &str) -> DataFusionError {
    DataFusionError::Plan(format!("{field} is missing"))
}
