//! Scheduled rules: SQL over whole tables, for a period of time; every row is a finding.

use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use vedette_detections::{Rule, Span, sql};

use super::finding::{Finding, Subject, from_rows};

/// What a scheduled rule finds for a period: from `start` to before `end`, in microseconds since 1970. The session has the tables.
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
    Ok(findings)
}
