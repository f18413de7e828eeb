//! The history of runs, as the store keeps it: what analysts see, and what a scheduler goes on from.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Int32Array, Int64Array, StringDictionaryBuilder, StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::Int32Type;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, SecondsFormat};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use vedette_detections::sql;
use vedette_schemas::{EventId, Table};

use super::due::{Attempt, Past};
use crate::engine::{HistoryError, json_rows};
use crate::store::Store;

const DAY_MICROS: i64 = 86_400_000_000;

/// One run of a rule for one period. Times are microseconds since 1970, UTC.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub rule_id: String,
    pub rule_version: i32,
    pub period_start: i64,
    /// Not part of the period.
    pub period_end: i64,
    pub began: i64,
    pub ended: i64,
    /// Rows of the period, by event time, in the tables that the rule reads.
    pub period_rows: i64,
    /// With those known before.
    pub findings: usize,
    pub new_findings: usize,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl Run {
    pub fn outcome(&self) -> &'static str {
        if self.error.is_none() { "ok" } else { "failed" }
    }

    /// The row of `runs`, in the table's schema.
    pub fn batch(&self) -> Result<RecordBatch, ArrowError> {
        let numbers = [i64::from(self.rule_version), self.period_start, self.period_end, self.began];
        let [version, start, end, began] = numbers.map(|number| number.to_string());
        let id = EventId::of_parts(&["run", &self.rule_id, &version, &start, &end, &began]);
        let day = i32::try_from(self.ended.div_euclid(DAY_MICROS)).unwrap_or_default();
        let count = |count: usize| number(i64::try_from(count).unwrap_or(i64::MAX));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from_iter_values([id.to_string()])),
            label(""),
            Arc::new(Date32Array::from_iter_values([day])),
            time(self.ended),
            time(self.began),
            label(&self.rule_id),
            Arc::new(Int32Array::from_iter_values([self.rule_version])),
            time(self.period_start),
            time(self.period_end),
            number((self.ended - self.began) / 1_000),
            number(self.period_rows),
            count(self.findings),
            count(self.new_findings),
            label(self.outcome()),
            Arc::new(StringViewArray::from_iter([self.error.as_deref()])),
        ];
        RecordBatch::try_new(Table::Runs.schema(), columns)
    }
}

fn label(text: &str) -> ArrayRef {
    let mut builder = StringDictionaryBuilder::<Int32Type>::new();
    builder.append_value(text);
    Arc::new(builder.finish())
}

fn time(micros: i64) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values([micros]).with_timezone("UTC"))
}

fn number(number: i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values([number]))
}

/// What is known of a rule from before.
#[derive(Deserialize)]
struct Known {
    rule_id: String,
    until: i64,
    succeeded: Option<i64>,
}

/// A run that may be followed by another of the same period.
#[derive(Deserialize)]
struct Recent {
    rule_id: String,
    version: i32,
    period_start: i64,
    period_end: i64,
    ran_at: i64,
    period_rows: i64,
    outcome: String,
}

/// What the store knows of each rule's runs; of single periods, those that ran at or after `since`, in microseconds since 1970.
pub async fn read(store: &Arc<dyn Store>, since: i64) -> Result<BTreeMap<String, Past>, HistoryError> {
    let known: Vec<Known> = rows(
        store,
        "SELECT rule_id, CAST(max(period_end) AS BIGINT) AS until,
                CAST(max(CASE WHEN outcome = 'ok' THEN event_time END) AS BIGINT) AS succeeded
         FROM runs GROUP BY rule_id",
    )
    .await?;
    let since = DateTime::from_timestamp_micros(since).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Micros, true);
    let recent: Vec<Recent> = rows(
        store,
        &format!(
            "SELECT rule_id, rule_version AS version, CAST(period_start AS BIGINT) AS period_start,
                    CAST(period_end AS BIGINT) AS period_end, CAST(event_time AS BIGINT) AS ran_at, period_rows, outcome
             FROM runs WHERE event_time >= '{since}' ORDER BY ran_at"
        ),
    )
    .await?;
    let mut pasts = BTreeMap::new();
    for Known { rule_id, until, succeeded } in known {
        if let Some(succeeded) = succeeded {
            super::metric_of_success(&rule_id, succeeded);
        }
        pasts.insert(rule_id, Past::new(until));
    }
    for run in recent {
        let Some(past) = pasts.get_mut(&run.rule_id) else { continue };
        past.ran(run.period_end, run.period_start, run.version, run.period_rows, run.ran_at, run.outcome == "ok");
    }
    Ok(pasts)
}

/// The rows of a query over `runs`.
async fn rows<T: DeserializeOwned>(store: &Arc<dyn Store>, sql: &str) -> Result<Vec<T>, HistoryError> {
    let context = sql::session()?;
    context.register_table(Table::Runs.name(), store.provider(Table::Runs).await?)?;
    let mut all = Vec::new();
    for batch in context.sql(sql).await?.collect().await? {
        for row in json_rows(&batch).map_err(datafusion::error::DataFusionError::from)? {
            let row = serde_json::from_value(Value::Object(row));
            all.push(row.map_err(|error| datafusion::error::DataFusionError::External(Box::new(error)))?);
        }
    }
    Ok(all)
}

impl Past {
    /// Notes a run, the newest so far of its period.
    pub fn ran(&mut self, end: i64, start: i64, version: i32, rows: i64, ran_at: i64, succeeded: bool) {
        let before = self.attempts.get(&end).map_or(0, |attempt| attempt.failures);
        let failures = if succeeded { 0 } else { before + 1 };
        self.attempts.insert(end, Attempt { start, version, rows, failures, ran_at, looked_at: ran_at });
        self.until = self.until.max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_a_row_of_its_table() {
        let run = Run {
            rule_id: "r".into(),
            rule_version: 2,
            period_start: 1_000_000,
            period_end: 2_000_000,
            began: 3_000_000,
            ended: 3_250_000,
            period_rows: 7,
            findings: 3,
            new_findings: 1,
            error: Some("no".into()),
        };
        let row = json_rows(&run.batch().unwrap()).unwrap().remove(0);
        let expected = serde_json::json!({
            "run_id": row["run_id"], "cluster": "", "day": "1970-01-01", "received_at": "1970-01-01T00:00:03.250Z",
            "event_time": "1970-01-01T00:00:03Z", "rule_id": "r", "rule_version": 2,
            "period_start": "1970-01-01T00:00:01Z", "period_end": "1970-01-01T00:00:02Z", "took_ms": 250,
            "period_rows": 7, "findings": 3, "new_findings": 1, "outcome": "failed", "error": "no"
        });
        assert_eq!(Value::Object(row.clone()), expected);
        let again = Run { began: 3_000_001, ..run.clone() };
        let of_other = json_rows(&again.batch().unwrap()).unwrap().remove(0);
        assert_ne!(of_other["run_id"], row["run_id"]);
    }

    #[test]
    fn failures_in_a_row_add_up_until_a_run_succeeds() {
        let mut past = Past::new(0);
        let failures = [false, false, true, false].map(|succeeded| {
            past.ran(10, 0, 1, 0, 20, succeeded);
            past.attempts[&10].failures
        });
        assert_eq!(failures, [1, 2, 0, 1]);
        assert_eq!(past.until, 10);
        past.ran(5, 0, 1, 0, 20, true);
        assert_eq!(past.until, 10);
    }
}
