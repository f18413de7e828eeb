//! Scheduled rules: SQL over whole tables, for a period of time; every row is a finding.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use vedette_detections::{Lists, Rule, Schedule, Span, sql};
use vedette_schemas::Table;

use super::finding::{Finding, Subject, from_rows};

/// Whether a scheduled rule can run: its schedule is one, and its SQL plans. The error says why not.
pub async fn check(rule: &Rule, lists: &Arc<Lists>) -> Result<(), DataFusionError> {
    let schedule: Result<Schedule, String> = rule.schedule.as_deref().unwrap_or_default().parse();
    schedule.map_err(|problem| DataFusionError::Plan(format!("schedule: {problem}")))?;
    let context = sql::session_with_lists(lists.clone(), |config| config)?;
    for table in Table::ALL {
        context.register_table(table.name(), Arc::new(EmptyTable::new(table.schema())))?;
    }
    sql::register_period(&context, 0, 1);
    context.sql(&rule.sql).await.map(|_| ())
}

/// What a scheduled rule finds for a period: from `start` to before `end`, in microseconds since 1970. The session has the tables.
/// Of rows that are one finding the first tells it.
pub async fn report(
    context: &SessionContext,
    rule: &Rule,
    start: i64,
    end: i64,
) -> Result<Vec<Finding>, DataFusionError> {
    sql::register_period(context, start, end);
    let frame = context.sql(&rule.sql).await?;
    let columns = match rule.group_by.is_empty() {
        true => frame.schema().fields().iter().map(|field| field.name().clone()).collect(),
        false => rule.group_by.clone(),
    };
    // Without an event time of its own, a row is about the period.
    let subject = Subject { columns, suppress: rule.suppress.map_or(1, Span::micros) };
    let mut findings = Vec::new();
    for rows in frame.collect().await? {
        findings.extend(from_rows(rule, Some(&subject), &rows, None, end)?);
    }
    let mut known = HashSet::new();
    findings.retain(|finding| known.insert(finding.alert_id));
    Ok(findings)
}
