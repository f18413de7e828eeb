//! Steps that follow each other within a time: rows of each step are kept by subject, and joined when a subject has some of
//! every step.

use std::fmt::Write;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, plan_err};
use datafusion::prelude::SessionContext;
use vedette_detections::Rule;

use super::kept::{ByHash, Kept, Place, keys, named, texts, times};
use super::upper::Upper;
use super::{Clock, Hits, event_id};
use crate::engine::slot::{Filters, Slot, SlotTable};

pub struct Sequence {
    steps: Vec<Kept>,
    names: Vec<String>,
    group_by: Vec<String>,
    span: i64,
    upper: Upper,
    /// Subjects with new rows: the times of the oldest and the newest.
    touched: ByHash<(i64, i64)>,
}

impl Sequence {
    /// `schemas` are those of the steps' rows; `span` and `slack` in microseconds. `context` plans the join, and keeps nothing.
    pub async fn new(
        context: &SessionContext,
        rule: &Rule,
        schemas: Vec<SchemaRef>,
        span: i64,
        slack: i64,
    ) -> Result<Self> {
        let mut slots = Vec::new();
        for (step, schema) in rule.steps.iter().zip(&schemas) {
            let slot = Slot::default();
            let table = Arc::new(SlotTable::new(schema.clone(), slot.clone(), Filters::Plans));
            context.register_table(quoted(&step.name), table)?;
            slots.push(slot);
        }
        let sql = join(rule, &schemas, span, slack)?;
        let planned = context.sql(&sql).await;
        for step in &rule.steps {
            context.deregister_table(quoted(&step.name))?;
        }
        let plan = planned?.create_physical_plan().await?;
        Ok(Self {
            steps: schemas.into_iter().map(Kept::new).collect::<Result<_>>()?,
            names: rule.steps.iter().map(|step| step.name.clone()).collect(),
            group_by: rule.group_by.clone(),
            span: span + slack,
            upper: Upper { slots, plan },
            touched: ByHash::default(),
        })
    }

    pub fn push(&mut self, step: usize, rows: &RecordBatch) -> Result<()> {
        // A null is equal to nothing, as in any join.
        let (keys, complete) = keys(&named(rows, &self.group_by)?, rows.num_rows(), true)?;
        let times = times(rows, "event_time")?;
        let rows = arrow::compute::filter_record_batch(rows, &complete.clone().into())?;
        let (keys, times): (Vec<u64>, Vec<i64>) =
            keys.into_iter().zip(times).zip(complete).filter(|(_, complete)| *complete).map(|(row, _)| row).unzip();
        self.steps[step].push(&rows, &keys, &times)?;
        for (key, time) in keys.into_iter().zip(times) {
            let range = self.touched.entry(key).or_insert((time, time));
            *range = (range.0.min(time), range.1.max(time));
        }
        Ok(())
    }

    pub async fn advance(&mut self, context: &SessionContext, clock: &Clock) -> Result<Vec<Hits>> {
        let touched = std::mem::take(&mut self.touched);
        let mut places: Vec<Vec<Place>> = vec![Vec::new(); self.steps.len()];
        for (key, (from, to)) in touched {
            let near = |place: &&Place| (from - self.span..=to.saturating_add(self.span)).contains(&place.time);
            let rows: Vec<Vec<Place>> =
                self.steps.iter().map(|step| step.places(key).iter().filter(near).copied().collect()).collect();
            if rows.iter().all(|rows| !rows.is_empty()) {
                places.iter_mut().zip(rows).for_each(|(all, rows)| all.extend(rows));
            }
        }
        let mut hits = Vec::new();
        if places.iter().all(|places| !places.is_empty()) {
            let rows = self.steps.iter().zip(&places).map(|(step, places)| step.rows(places));
            for found in self.upper.run(context, rows.collect::<Result<_>>()?).await? {
                hits.push(self.hits(found)?);
            }
        }
        let before = clock.horizon().saturating_sub(self.span);
        self.steps.iter_mut().for_each(|step| step.forget_before(before));
        Ok(hits)
    }

    fn hits(&self, rows: RecordBatch) -> Result<Hits> {
        let mut evidence = vec![Vec::new(); rows.num_rows()];
        for name in &self.names {
            for (row, id) in texts(&rows, &format!("{name}_event_id"))?.iter().enumerate() {
                evidence[row].extend(event_id(id));
            }
        }
        Ok(Hits { rows, evidence })
    }

    pub fn bytes(&self) -> usize {
        self.steps.iter().map(Kept::bytes).sum()
    }

    /// Lets go of the oldest rows of the step that holds the most.
    pub fn shed(&mut self) -> Option<i64> {
        self.steps.iter_mut().max_by_key(|step| step.bytes())?.forget_oldest()
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The join of a rule's steps: each at or after the one before it, all within the span of the first.
fn join(rule: &Rule, schemas: &[SchemaRef], span: i64, slack: i64) -> Result<String> {
    let (Some(first), Some(last)) = (rule.steps.first(), rule.steps.last()) else {
        return plan_err!("a sequence needs steps");
    };
    let column = |step: &str, name: &str| format!("{}.{}", quoted(step), quoted(name));
    let own = |name: &str| rule.group_by.iter().any(|group| group == name);
    // Subject and time are the last step's; other columns are each step's own, and the first that has one lends its name.
    let mut selected = Vec::new();
    for name in rule.group_by.iter().map(String::as_str).chain(["event_time", "event_id", "received_at"]) {
        if schemas.last().is_some_and(|schema| schema.column_with_name(name).is_some()) {
            selected.push((column(&last.name, name), name.to_owned()));
        }
    }
    for (step, schema) in rule.steps.iter().zip(schemas) {
        for field in schema.fields().iter().filter(|field| !own(field.name())) {
            selected.push((column(&step.name, field.name()), format!("{}_{}", step.name, field.name())));
        }
    }
    for (step, schema) in rule.steps.iter().zip(schemas) {
        for field in schema.fields() {
            if !selected.iter().any(|(_, name)| name == field.name()) {
                selected.push((column(&step.name, field.name()), field.name().clone()));
            }
        }
    }
    let selected: Vec<String> = selected.iter().map(|(what, name)| format!("{what} AS {}", quoted(name))).collect();
    let mut sql = format!("SELECT {} FROM {}", selected.join(", "), quoted(&first.name));
    for (place, pair) in rule.steps.windows(2).enumerate() {
        let (before, step) = (&pair[0].name, &pair[1].name);
        let equal = rule.group_by.iter().map(|name| format!("{} = {}", column(&first.name, name), column(step, name)));
        let equal: Vec<String> = equal.collect();
        let time = |step: &str| column(step, "event_time");
        let _ = write!(
            sql,
            " JOIN {} ON {} AND {} >= {} - INTERVAL '{slack} microseconds' AND {} <= {} + INTERVAL '{span} microseconds' \
",
            quoted(step),
            equal.join(" AND "),
            time(step),
            time(before),
            time(step),
            time(&first.name),
        );
        // One event is one step.
        for earlier in &rule.steps[..=place] {
            let _ = write!(sql, " AND {} <> {}", column(step, "event_id"), column(&earlier.name, "event_id"));
        }
    }
    if let Some(condition) = &rule.condition {
        let _ = write!(sql, " WHERE {condition}");
    }
    // Of what ends with the same row, the same is first wherever it is looked at.
    sql += " ORDER BY event_time, event_id";
    for step in &rule.steps {
        let _ = write!(sql, ", {}, {}", column(&step.name, "event_time"), column(&step.name, "event_id"));
    }
    Ok(sql)
}
