//! From the journal to findings and rows: the loop that decodes, evaluates, stores, and only then moves offsets.

mod alerts;
mod config;
mod decode;
mod flush;
mod seen;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;
use vedette_detections::Rule;
use vedette_journal::{Consumer, Delivered, Journal, JournalError, Polled, Positions, Record, Source, Topic};
use vedette_schemas::{EventId, Table};

use crate::engine::{Engine, EngineError, Finding};
use crate::store::{Store, StoreError};
pub use config::Config;
use flush::{Flush, Pending};
use seen::{Ahead, Seen};

#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("decoding stopped: {0}")]
    Decode(String),
}

/// The stage between the journal and the store. One process runs one; several share the work as a consumer group.
pub struct Pipeline {
    config: Config,
    journal: Arc<dyn Journal>,
    store: Arc<dyn Store>,
    engine: Engine,
    events: Seen,
    alerts: Seen,
    ahead: Ahead,
    /// What the store holds of events received since then is known. The end of time when nothing is: at the start, and when
    /// partitions were assigned.
    known_since: i64,
    pending: Pending,
    flush: Option<Flush>,
    /// Positions of what is stored, which the journal did not take yet.
    uncommitted: Positions,
    on_finding: Option<UnboundedSender<Finding>>,
}

impl Pipeline {
    /// Plans the rules. Errors name the rule.
    pub async fn new(
        config: Config,
        journal: Arc<dyn Journal>,
        store: Arc<dyn Store>,
        rules: Vec<Rule>,
    ) -> Result<Self, PipelineError> {
        let engine = Engine::new(rules).await?;
        let events = Seen::new(config.seen_events);
        let alerts = Seen::new(config.seen_alerts);
        let pending = Pending::new(journal.id());
        Ok(Self {
            config,
            journal,
            store,
            engine,
            events,
            alerts,
            ahead: Ahead::new(),
            known_since: i64::MAX,
            pending,
            flush: None,
            uncommitted: Positions::new(),
            on_finding: None,
        })
    }

    /// Runs until the token is cancelled, then reads on for a while, and stores and commits what it holds. `on_finding` sees
    /// each finding once the alert topic has it.
    pub async fn run(
        mut self,
        shutdown: CancellationToken,
        on_finding: Option<UnboundedSender<Finding>>,
    ) -> Result<(), PipelineError> {
        self.on_finding = on_finding;
        self.store.migrate().await?;
        let mut consumer = self.journal.subscribe(&self.config.group, &[Topic::Audit, Topic::Falco]).await?;
        tracing::info!(rules = self.engine.len(), journal = %self.journal.id(), "detection runs");
        let mut lag_checked = Instant::now();
        while !shutdown.is_cancelled() {
            self.step(consumer.as_mut()).await?;
            if lag_checked.elapsed() > Duration::from_secs(5) {
                match consumer.lag().await {
                    Ok(records) => metrics::gauge!("vedette_journal_lag_records").set(records as f64),
                    Err(error) => tracing::warn!(%error, "the journal does not say how much is left to read"),
                }
                lag_checked = Instant::now();
            }
        }
        let deadline = Instant::now() + CATCH_UP;
        while self.step(consumer.as_mut()).await? && Instant::now() < deadline {}
        self.settle(consumer.as_mut()).await
    }

    /// Deals with what one poll brings; false if that is nothing.
    async fn step(&mut self, consumer: &mut dyn Consumer) -> Result<bool, PipelineError> {
        let polled = match consumer.poll(self.config.limits()).await {
            Ok(polled) => polled,
            Err(error @ (JournalError::Closed | JournalError::Lost(_))) => return Err(error.into()),
            Err(error) => {
                // What is held is stored all the same, and what can't be read now may be read later.
                tracing::error!(%error, "the journal can't be read; trying again");
                metrics::counter!("vedette_journal_read_errors_total").increment(1);
                tokio::time::sleep(AFTER_FAILED_POLL).await;
                Polled::Idle
            }
        };
        let idle = matches!(polled, Polled::Idle);
        match polled {
            Polled::Records(records) => self.take(records).await?,
            Polled::Assigned(_) => {
                self.known_since = i64::MAX;
                self.uncommitted.clear();
            }
            Polled::Revoking(_) => match tokio::time::timeout(HAND_OVER, self.settle(consumer)).await {
                Ok(settled) => settled?,
                Err(_) => {
                    tracing::warn!(
                        "the store takes too long to hand partitions over; their new owner starts from before"
                    );
                    self.forget();
                }
            },
            Polled::Idle => {}
        }
        self.turn(consumer).await?;
        Ok(!idle)
    }

    /// Decodes and evaluates one delivery; its findings are durable in the alert topic when this returns.
    async fn take(&mut self, records: Vec<Delivered>) -> Result<(), PipelineError> {
        self.seed(&records).await;
        self.pending.cover(&records);
        let mut decoded = decode::decode(records).await?;
        self.bury(std::mem::take(&mut decoded.dead)).await?;
        let fresh = decoded.only_fresh(&mut self.events, &self.ahead)?;
        let now = chrono::Utc::now().timestamp_micros();
        let mut findings = self.engine.evaluate(&fresh.tables, now).await;
        findings.retain(|finding| self.alerts.insert(finding.alert_id));
        for (cluster, events) in &fresh.counts {
            metrics::counter!("vedette_events_evaluated_total", "cluster" => cluster.to_string()).increment(*events);
        }
        let alerts = self.raise(findings).await?;
        self.pending.add(fresh, alerts);
        Ok(())
    }

    async fn raise(
        &mut self,
        findings: Vec<Finding>,
    ) -> Result<Option<arrow::record_batch::RecordBatch>, PipelineError> {
        if findings.is_empty() {
            return Ok(None);
        }
        let batch = alerts::batch(&findings).map_err(|e| PipelineError::Decode(e.to_string()))?;
        let records = alerts::records(&findings, &batch).map_err(|e| PipelineError::Decode(e.to_string()))?;
        self.append(Topic::Alerts, records).await?;
        for finding in findings {
            let seconds = (chrono::Utc::now().timestamp_micros() - finding.received_at) as f64 / 1e6;
            metrics::histogram!("vedette_finding_latency_seconds").record(seconds.max(0.0));
            metrics::counter!("vedette_findings_total", "severity" => finding.severity.name()).increment(1);
            if let Some(listener) = &self.on_finding {
                // A listener that went away is no reason to stop.
                let _ = listener.send(finding);
            }
        }
        Ok(Some(batch))
    }

    /// Keeps what could not be decoded, whole, with the reason.
    async fn bury(&self, dead: Vec<Record>) -> Result<(), PipelineError> {
        for record in &dead {
            let cluster = record.cluster.to_string();
            metrics::counter!("vedette_dead_letters_total", "cluster" => cluster, "source" => record.source.name(), "stage" => "decode").increment(1);
        }
        if dead.is_empty() { Ok(()) } else { self.append(Topic::DeadLetters, dead).await }
    }

    /// Appends until the journal takes it: what was received must not be lost because the journal is away.
    async fn append(&self, topic: Topic, records: Vec<Record>) -> Result<(), PipelineError> {
        let mut wait = Duration::from_millis(100);
        loop {
            match self.journal.append(topic, records.clone()).await {
                Ok(()) => return Ok(()),
                Err(JournalError::Closed) => return Err(JournalError::Closed.into()),
                Err(error) => {
                    tracing::error!(%topic, %error, "journal does not take records; trying again");
                    metrics::counter!("vedette_journal_append_errors_total", "topic" => topic.name()).increment(1);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(10));
                }
            }
        }
    }

    /// Learns what the store already holds of the records about to be evaluated, so that a redelivery changes nothing.
    async fn seed(&mut self, records: &[Delivered]) {
        let oldest = records.iter().map(|delivered| delivered.record.received_at).min().unwrap_or_default();
        // Another partition can begin with older records than the first one did.
        if oldest >= self.known_since {
            return;
        }
        let since = oldest - i64::from(self.config.seen_minutes) * 60_000_000;
        for table in [Table::Audit, Table::Falco, Table::Alerts] {
            let seen = if table == Table::Alerts { &mut self.alerts } else { &mut self.events };
            let ids = recent_ids(self.store.as_ref(), table, since, seen.capacity()).await;
            tracing::debug!(table = table.name(), ids = ids.len(), "known ids");
            ids.into_iter().for_each(|id| {
                seen.insert(id);
            });
        }
        for table in DERIVED {
            let ids = recent_ids(self.store.as_ref(), table, since, self.events.capacity()).await;
            let ahead = ids.into_iter().filter(|id| !self.events.contains(*id)).collect();
            self.ahead.insert(table, ahead);
        }
        self.known_since = since;
    }

    /// Starts a flush that is due and commits one that is done.
    async fn turn(&mut self, consumer: &mut dyn Consumer) -> Result<(), PipelineError> {
        let left_over = self.flush.is_none() && !self.uncommitted.is_empty();
        if left_over || self.flush.as_ref().is_some_and(Flush::is_finished) {
            self.commit(consumer).await?;
        }
        if self.pending.is_due(&self.config) {
            // One flush at a time: waiting here is what keeps memory bounded when the store is slow.
            self.commit(consumer).await?;
            self.flush = Some(self.pending.start(self.store.clone()));
        }
        Ok(())
    }

    /// Stores and commits all that is held.
    async fn settle(&mut self, consumer: &mut dyn Consumer) -> Result<(), PipelineError> {
        self.commit(consumer).await?;
        if !self.pending.is_empty() {
            self.flush = Some(self.pending.start(self.store.clone()));
        }
        self.commit(consumer).await
    }

    /// Lets go of all that is neither stored nor committed, as if it had never been read: someone else reads it again.
    fn forget(&mut self) {
        self.flush = None;
        self.uncommitted.clear();
        self.pending = Pending::new(self.journal.id());
        self.events = Seen::new(self.config.seen_events);
        self.alerts = Seen::new(self.config.seen_alerts);
        self.ahead = Ahead::new();
        self.known_since = i64::MAX;
    }

    async fn commit(&mut self, consumer: &mut dyn Consumer) -> Result<(), PipelineError> {
        if let Some(flush) = &mut self.flush {
            self.uncommitted.extend(flush.finish().await?);
            self.flush = None;
        }
        if self.uncommitted.is_empty() {
            return Ok(());
        }
        match consumer.commit(&self.uncommitted).await {
            Ok(()) => self.uncommitted.clear(),
            Err(JournalError::Closed) => return Err(JournalError::Closed.into()),
            // The next commit takes these positions along. What is read again in between is recognised.
            Err(error) => tracing::warn!(%error, "the journal does not take a position; it is committed with the next"),
        }
        Ok(())
    }
}

/// Asks until the store answers: to evaluate without knowing what it holds would raise findings again.
async fn recent_ids(store: &dyn Store, table: Table, since: i64, most: usize) -> Vec<EventId> {
    let mut wait = Duration::from_millis(200);
    loop {
        match store.recent_ids(table, since, most).await {
            Ok(ids) => return ids,
            Err(error) => {
                tracing::error!(table = table.name(), %error, "store does not say what it holds; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(30));
            }
        }
    }
}

/// How long partitions that another process takes over may wait for the store; the journal gives them up at 15 seconds.
const HAND_OVER: Duration = Duration::from_secs(12);

/// Between a poll that failed and the next.
const AFTER_FAILED_POLL: Duration = Duration::from_secs(1);

/// How long the journal is read on after the signal to stop, so that what was accepted is stored. The journal keeps the rest.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Tables whose rows are derived from audit events.
const DERIVED: [Table; 3] = [Table::Containers, Table::RoleRules, Table::RoleSubjects];

/// How many events each cluster has in a batch.
type Counts = BTreeMap<Arc<str>, u64>;

/// The source that a topic's records are decoded as.
fn source(topic: Topic) -> Option<Source> {
    match topic {
        Topic::Audit => Some(Source::Audit),
        Topic::Falco => Some(Source::Falco),
        Topic::Alerts | Topic::DeadLetters => None,
    }
}
