//! New rules while the pipeline runs: planned and taught beside the engine that is at work, then swapped in between two batches.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use futures::TryFutureExt;
use futures::future::try_join;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use vedette_detections::{Rule, Ruleset};
use vedette_schemas::{EventId, Table};

use super::{PipelineError, recent_ids};
use crate::engine::{Apart, Engine, Finding, Newest, Options, Part, Stored, Tables, reach};
use crate::store::Store;

/// Where new rules come from: the newest set, or why there is none that can be used.
pub type Reloads = watch::Receiver<Result<Arc<Ruleset>, Arc<str>>>;

/// A reload under way.
pub struct Reload {
    pub set: Arc<Ruleset>,
    /// Events that the changed rules are fed, and must not read from the store as well.
    apart: Apart,
    feed: UnboundedSender<Tables>,
    task: JoinHandle<Result<Ready, String>>,
}

/// What there is to do.
pub struct Work {
    pub set: Arc<Ruleset>,
    pub options: Options,
    pub store: Arc<dyn Store>,
    /// How far each cluster's stored events have come, if that is known.
    pub newest: Option<Newest>,
    /// How many findings are remembered.
    pub known_alerts: usize,
    /// How long the store may lack events that were evaluated before.
    pub wait: Duration,
}

/// New rules, ready to take over.
pub struct Ready {
    /// Where rules that look back run beside the others: what takes the place of the others' engine.
    pub filters: Option<Engine>,
    /// All of them; those that keep rows have none yet.
    pub engine: Engine,
    /// Those that are new or changed and keep rows, which know what they look back on, up to what is left in `feed`.
    pub learned: Engine,
    /// The ids of all that are new or changed.
    pub changed: HashSet<String>,
    pub feed: UnboundedReceiver<Tables>,
    /// What these found on the way.
    pub findings: Vec<Finding>,
    /// Findings that the store has.
    pub known: Vec<EventId>,
}

impl Reload {
    /// Starts with what is evaluated and not stored yet.
    pub fn start(old: &Ruleset, work: Work, unstored: impl Iterator<Item = Tables>) -> Self {
        let (feed, fed) = unbounded_channel();
        let apart = Apart::default();
        let set = work.set.clone();
        let work = build(work, set.changed_since(old), apart.clone(), fed);
        let runtime = Handle::current();
        // Planning computes for as long as it takes, which the runtime's own threads are not for.
        let task = tokio::task::spawn_blocking(move || runtime.block_on(work));
        let reload = Self { set, apart, feed, task };
        unstored.for_each(|tables| reload.feed(&tables));
        reload
    }

    /// Passes on what is about to be evaluated.
    pub fn feed(&self, tables: &Tables) {
        for table in [Table::Audit, Table::Falco] {
            tables.get(&table).into_iter().for_each(|batch| self.apart.add(batch));
        }
        // Whoever has stopped to listen has failed, and says so when it is asked.
        let _ = self.feed.send(tables.clone());
    }

    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// The outcome, of a reload that is finished; the error says why its rules can't be used.
    pub async fn finish(&mut self) -> Result<Result<Ready, String>, PipelineError> {
        (&mut self.task).await.map_err(|panic| PipelineError::Decode(format!("reloading stopped: {panic}")))
    }
}

async fn build(
    Work { set, options, store, newest, known_alerts, wait }: Work,
    changed: Vec<Rule>,
    apart: Apart,
    mut feed: UnboundedReceiver<Tables>,
) -> Result<Ready, String> {
    let options = Options { lists: set.lists.clone(), ..options };
    let ids = changed.iter().map(|rule| rule.id.clone()).collect();
    let keeping = changed.into_iter().filter(|rule| reach(rule).is_some()).collect();
    let planning = beside(all(set.rules.clone(), options.clone()));
    let learning = learn(keeping, options, &store, newest, &apart, wait);
    let ((mut engine, filters), (mut learned, mut findings)) = try_join(planning, learning).await?;
    let now = chrono::Utc::now().timestamp_micros();
    let mut known = Vec::new();
    if let Some(oldest) = learned.open_since() {
        known = recent_ids(store.as_ref(), Table::Alerts, oldest, known_alerts).await;
    }
    let mut cold = true;
    loop {
        let batches = fed(&mut feed);
        for tables in &batches {
            findings.extend(learned.evaluate(tables, now).await);
            if std::mem::take(&mut cold) {
                // Every condition is asked about texts once; better here than while events wait. A rule that fails at it
                // fails again, and is taken out, when it is at work.
                let _ = engine.select(tables).await;
            }
        }
        if batches.is_empty() {
            break;
        }
    }
    Ok(Ready { filters, engine, learned, changed: ids, feed, findings, known })
}

/// Plans all rules: as they take over, and, where rules that look back run beside the others, what takes the place of the others'
/// engine.
async fn all(rules: Vec<Rule>, options: Options) -> Result<(Engine, Option<Engine>), String> {
    let filters = match options.part {
        Part::Groups => Some(planned(rules.clone(), Options { part: Part::Filters, ..options.clone() }).await?),
        Part::All | Part::Filters => None,
    };
    let engine = planned(rules, options).await?;
    Ok((engine, filters))
}

/// Plans the rules that keep rows and teaches them what the store holds. Returns with them what they found.
async fn learn(
    rules: Vec<Rule>,
    options: Options,
    store: &Arc<dyn Store>,
    newest: Option<Newest>,
    apart: &Apart,
    wait: Duration,
) -> Result<(Engine, Vec<Finding>), String> {
    if rules.is_empty() {
        return Ok((planned(rules, options).await?, Vec::new()));
    }
    tokio::time::sleep(wait).await;
    let now = chrono::Utc::now().timestamp_micros();
    let untold = |error| format!("the store does not say what rules look back on: {error}");
    let stored = Stored::now(store, newest, &options.lists, now).map_err(untold);
    let (mut learned, stored) = try_join(beside(planned(rules, options.clone())), stored).await?;
    let mut findings = Vec::new();
    if learned.looks_back() {
        findings = learned.learn_apart(store, stored, now, apart).await.map_err(untold)?;
    }
    Ok((learned, findings))
}

async fn planned(rules: Vec<Rule>, options: Options) -> Result<Engine, String> {
    Engine::with(rules, options).await.map_err(|error| error.to_string())
}

/// Runs what computes for long beside all else, on a thread that is not the runtime's own.
async fn beside<T: Send + 'static>(
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<T, String> {
    let runtime = Handle::current();
    let task = tokio::task::spawn_blocking(move || runtime.block_on(work));
    task.await.unwrap_or_else(|panic| Err(format!("planning stopped: {panic}")))
}

/// About so many rows that were fed are evaluated at once.
const ROWS: usize = 8_192;

/// What was fed meanwhile, some of it at a time and as few batches: each batch costs what conditions and windows cost at least.
/// Nothing when all of it was taken.
fn fed(feed: &mut UnboundedReceiver<Tables>) -> Vec<Tables> {
    let (mut taken, mut rows) = (Vec::new(), 0);
    while rows < ROWS
        && let Ok(tables) = feed.try_recv()
    {
        rows += tables.values().map(RecordBatch::num_rows).sum::<usize>();
        taken.push(tables);
    }
    match united(&taken) {
        Ok(tables) if !taken.is_empty() => vec![tables],
        _ => taken,
    }
}

/// The rows of several deliveries as one.
fn united(deliveries: &[Tables]) -> Result<Tables, ArrowError> {
    let tables: BTreeSet<Table> = deliveries.iter().flat_map(Tables::keys).copied().collect();
    let of = |table: Table| {
        let batches: Vec<&RecordBatch> = deliveries.iter().filter_map(|tables| tables.get(&table)).collect();
        let schema = table.schema();
        match batches.iter().all(|batch| batch.schema() == schema) {
            true => Ok((table, concat_batches(&schema, batches)?)),
            false => Err(ArrowError::SchemaError(format!("not a batch of {}", table.name()))),
        }
    };
    tables.into_iter().map(of).collect()
}

impl Ready {
    /// Takes over from the engine at work: what has not changed keeps what it keeps. Returns what those that have learned have found.
    pub async fn take_over(mut self, at_work: &mut Engine, now: i64) -> Vec<Finding> {
        loop {
            let batches = fed(&mut self.feed);
            for tables in &batches {
                self.findings.extend(self.learned.evaluate(tables, now).await);
            }
            if batches.is_empty() {
                break;
            }
        }
        self.engine.inherit(&mut self.learned, |id| self.changed.contains(id));
        self.engine.inherit(at_work, |id| !self.changed.contains(id));
        std::mem::swap(at_work, &mut self.engine);
        // Hundreds of plans take a while to let go of.
        tokio::task::spawn_blocking(move || drop((self.engine, self.learned)));
        self.findings
    }
}

#[cfg(test)]
mod tests {
    use vedette_schemas::AuditDecoder;

    use super::*;

    fn delivery(number: usize) -> Tables {
        let mut decoder = AuditDecoder::new();
        let event = format!(r#"{{"auditID":"{number}","stage":"ResponseComplete","verb":"verb-{number}"}}"#);
        decoder.push("prod", 1, event.as_bytes()).unwrap();
        Tables::from([(Table::Audit, decoder.finish())])
    }

    #[test]
    fn what_was_fed_comes_once_and_together() {
        let (sender, mut feed) = unbounded_channel();
        (0..20).for_each(|number| sender.send(delivery(number)).unwrap());
        let mut rows = Vec::new();
        loop {
            let batches = fed(&mut feed);
            rows.extend(batches.iter().map(|tables| tables[&Table::Audit].num_rows()));
            if batches.is_empty() {
                break;
            }
        }
        assert_eq!(rows, [20]);
    }

    #[test]
    fn rows_that_do_not_fit_together_come_apart() {
        let (sender, mut feed) = unbounded_channel();
        let Some((_, audit)) = delivery(0).pop_first() else { unreachable!() };
        let odd = Tables::from([(Table::Audit, audit.project(&[0]).unwrap())]);
        sender.send(delivery(1)).unwrap();
        sender.send(odd).unwrap();
        assert_eq!(fed(&mut feed).len(), 2);
        assert!(fed(&mut feed).is_empty());
    }
}
