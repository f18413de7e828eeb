//! From the journal to findings and rows: the loop that decodes, evaluates, stores, and only then moves offsets.

mod alerts;
mod config;
mod decode;
mod flush;
mod progress;
mod reload;
mod rules;
mod seen;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vedette_detections::Ruleset;
use vedette_journal::{
    Consumer, Delivered, Journal, JournalError, Partition, Polled, Positions, Record, Source, Topic,
};
use vedette_schemas::{EventId, Table};

use crate::engine::{Engine, EngineError, Finding, Newest, Part};
use crate::store::{Store, StoreError};
pub(crate) use alerts::{announce, records};
pub use alerts::{batch, rows};
pub use config::Config;
use decode::Fresh;
use flush::{Flush, Pending};
use reload::Reload;
pub use reload::Reloads;
use seen::Ahead;
pub(crate) use seen::Seen;
use shared::Sharing;

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
    /// The rules that run, for whoever else wants to know.
    live: watch::Sender<Arc<Ruleset>>,
    reloads: Option<Reloads>,
    reload: Option<Reload>,
    /// Runs all rules, or, where several processes share the work, those that keep nothing.
    engine: Engine,
    sharing: Option<Sharing>,
    /// Whether the engine knows what the store holds of what rules look back on.
    learned: bool,
    /// When time was last passed on to rules that wait, and repeats were told.
    passed: Instant,
    /// When it was last said how much is left to read.
    lag_said: Instant,
    events: Seen,
    alerts: Seen,
    ahead: Ahead,
    /// What the store holds of events received since then is known. The end of time when nothing is: at the start, and when
    /// partitions were assigned.
    known_since: i64,
    pending: Pending,
    flush: Option<Flush>,
    /// How far the events have come that are stored, or are in the flush under way; `None` when only the store knows.
    stored: Option<Newest>,
    /// Positions of what is stored, which the journal did not take yet.
    uncommitted: Positions,
    on_finding: Option<UnboundedSender<Finding>>,
    /// Whether this process holds the partition whose holder runs the schedule.
    elected: watch::Sender<bool>,
}

impl Pipeline {
    /// Plans the rules. Errors name the rule.
    pub async fn new(
        config: Config,
        journal: Arc<dyn Journal>,
        store: Arc<dyn Store>,
        set: Arc<Ruleset>,
    ) -> Result<Self, PipelineError> {
        let sharing = journal.is_shared().then(Sharing::new);
        let part = if sharing.is_some() { Part::Filters } else { Part::All };
        let engine = rules::planned(&config, &set, part).await?;
        let events = Seen::new(config.seen_events);
        let alerts = Seen::new(config.seen_alerts);
        let pending = Pending::new(journal.id());
        Ok(Self {
            config,
            journal,
            store,
            live: watch::Sender::new(set),
            reloads: None,
            reload: None,
            engine,
            learned: sharing.is_some(),
            sharing,
            passed: Instant::now(),
            lag_said: Instant::now(),
            events,
            alerts,
            ahead: Ahead::new(),
            known_since: i64::MAX,
            pending,
            flush: None,
            stored: None,
            uncommitted: Positions::new(),
            on_finding: None,
            elected: watch::Sender::new(false),
        })
    }

    /// Takes new rules from there while it runs.
    pub fn following(mut self, reloads: Reloads) -> Self {
        self.reloads = Some(reloads);
        self
    }

    /// The rules that run.
    pub fn live(&self) -> watch::Receiver<Arc<Ruleset>> {
        self.live.subscribe()
    }

    /// Whether this process is the one of its group that runs the schedule.
    pub fn elected(&self) -> watch::Receiver<bool> {
        self.elected.subscribe()
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
        let shared = self.sharing.iter().map(|_| Topic::Shared);
        let topics: Vec<Topic> = [Topic::Audit, Topic::Falco].into_iter().chain(shared).collect();
        let mut consumer = self.journal.subscribe(&self.config.group, &topics).await?;
        tracing::info!(rules = self.engine.len(), journal = %self.journal.id(), "detection runs");
        while !shutdown.is_cancelled() {
            self.step(consumer.as_mut()).await?;
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
        self.say_lag(consumer).await;
        self.elect(&polled);
        match polled {
            Polled::Records(records) => self.take(records).await?,
            Polled::Assigned(partitions) => {
                self.learned = false;
                self.postpone_reload();
                self.known_since = i64::MAX;
                self.uncommitted.clear();
                self.assigned(&partitions).await?;
            }
            Polled::Revoking(_) => {
                match tokio::time::timeout(HAND_OVER, self.settle(consumer)).await {
                    Ok(settled) => settled?,
                    Err(_) => {
                        tracing::warn!(
                            "the store takes too long to hand partitions over; their new owner starts from before"
                        );
                        self.forget();
                    }
                }
                self.revoked();
            }
            Polled::Idle => {
                self.catch_up(consumer).await;
                self.pass(None).await?;
            }
        }
        self.turn(consumer).await?;
        self.renew().await?;
        Ok(!idle)
    }

    /// Says every few seconds how much is left to read, right after a poll: what is read makes this process tell its progress
    /// through the journal, which is no lag.
    async fn say_lag(&mut self, consumer: &mut dyn Consumer) {
        if self.lag_said.elapsed() < EVERY_LAG {
            return;
        }
        self.lag_said = Instant::now();
        match consumer.lag().await {
            Ok(records) => metrics::gauge!("vedette_journal_lag_records").set(records as f64),
            Err(error) => tracing::warn!(%error, "the journal does not say how much is left to read"),
        }
    }

    fn elect(&self, polled: &Polled) {
        let (Polled::Assigned(partitions) | Polled::Revoking(partitions)) = polled else { return };
        if partitions.contains(&ELECTING) {
            self.elected.send_replace(matches!(polled, Polled::Assigned(_)));
        }
    }

    /// Decodes and evaluates one delivery; its findings are durable in the alert topic when this returns.
    async fn take(&mut self, records: Vec<Delivered>) -> Result<(), PipelineError> {
        self.learn().await?;
        self.seed(&records).await;
        self.pending.cover(&records);
        let (shared, own): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|delivered| delivered.partition.topic == Topic::Shared);
        let oldest = own.iter().map(|delivered| delivered.record.received_at).min();
        if !own.is_empty() {
            self.take_own(own).await?;
        }
        if !shared.is_empty() {
            self.take_shared(shared).await?;
        }
        self.pass(oldest).await
    }

    async fn take_own(&mut self, records: Vec<Delivered>) -> Result<(), PipelineError> {
        let sharing = self.sharing.is_some();
        let originals = records.iter().filter(|_| sharing).map(|delivered| delivered.record.clone()).collect();
        let mut decoded = decode::decode(records).await?;
        self.bury(std::mem::take(&mut decoded.dead)).await?;
        let fresh = decoded.only_fresh(&mut self.events, &self.ahead)?;
        let now = chrono::Utc::now().timestamp_micros();
        if let Some(reload) = self.reload.as_ref().filter(|_| !sharing) {
            reload.feed(&fresh.tables);
        }
        let mut findings = self.engine.evaluate(&fresh.tables, now).await;
        self.share(originals).await?;
        findings.retain(|finding| self.alerts.insert(finding.alert_id));
        for (table, events) in &fresh.again {
            metrics::counter!("vedette_events_duplicate_total", "table" => table.name()).increment(*events);
        }
        for (cluster, events) in &fresh.counts {
            metrics::counter!("vedette_events_evaluated_total", "cluster" => cluster.to_string()).increment(*events);
        }
        let alerts = self.raise(findings).await?;
        self.pending.add(fresh, alerts);
        Ok(())
    }

    /// Lets time go on for rules that wait, once what is read is as good as new, or tells who runs them; `oldest` is the receipt of
    /// the oldest event just read, in microseconds since 1970, and `None` if there was none.
    async fn pass(&mut self, oldest: Option<i64>) -> Result<(), PipelineError> {
        if self.passed.elapsed() < EVERY_PASS {
            return Ok(());
        }
        let now = chrono::Utc::now().timestamp_micros();
        if self.sharing.is_some() {
            self.passed = Instant::now();
            return self.tell_progress(oldest).await;
        }
        if oldest.is_some_and(|oldest| oldest < now - UP_TO_DATE) {
            return Ok(());
        }
        self.passed = Instant::now();
        self.learn().await?;
        let findings = self.engine.go_on(now, now).await;
        self.tell(findings).await
    }

    /// Raises findings that no delivery has brought, as far as they are news.
    async fn tell(&mut self, mut findings: Vec<Finding>) -> Result<(), PipelineError> {
        findings.retain(|finding| self.alerts.insert(finding.alert_id));
        if let Some(alerts) = self.raise(findings).await? {
            self.pending.add(Fresh::default(), Some(alerts));
        }
        Ok(())
    }

    /// Tells how often what was found before has been found again.
    async fn tell_repeats(&mut self) -> Result<(), PipelineError> {
        let repeats = self.keeping().repeats();
        if repeats.is_empty() {
            return Ok(());
        }
        metrics::counter!("vedette_findings_repeated_total").increment(repeats.len() as u64);
        let alerts = self.publish(&repeats).await?;
        self.pending.add(Fresh::default(), Some(alerts));
        Ok(())
    }

    async fn raise(&mut self, findings: Vec<Finding>) -> Result<Option<RecordBatch>, PipelineError> {
        if findings.is_empty() {
            return Ok(None);
        }
        let batch = self.publish(&findings).await?;
        for finding in &findings {
            let seconds = (chrono::Utc::now().timestamp_micros() - finding.received_at) as f64 / 1e6;
            metrics::histogram!("vedette_finding_latency_seconds").record(seconds.max(0.0));
        }
        announce(findings, self.on_finding.as_ref());
        Ok(Some(batch))
    }

    /// Appends findings to the alert topic. Returns them as rows.
    async fn publish(&self, findings: &[Finding]) -> Result<RecordBatch, PipelineError> {
        let batch = alerts::batch(findings).map_err(|e| PipelineError::Decode(e.to_string()))?;
        let records = alerts::records(findings).map_err(|e| PipelineError::Decode(e.to_string()))?;
        self.append(Topic::Alerts, records).await?;
        Ok(batch)
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
        let since = self.before(oldest);
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

    /// So long before a receipt, in microseconds since 1970, that what belongs to it is not missed.
    fn before(&self, received_at: i64) -> i64 {
        received_at - i64::from(self.config.seen_minutes) * 60_000_000
    }

    /// Lets go of all that is neither stored nor committed, as if it had never been read: someone else reads it again.
    fn forget(&mut self) {
        self.flush = None;
        self.uncommitted.clear();
        self.pending = Pending::new(self.journal.id());
        self.events = Seen::new(self.config.seen_events);
        self.alerts = Seen::new(self.config.seen_alerts);
        self.ahead = Ahead::new();
        self.learned = false;
        self.postpone_reload();
        self.known_since = i64::MAX;
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

/// Who holds this partition runs the schedule: a consumer group gives it to one process at a time.
const ELECTING: Partition = Partition { topic: Topic::Audit, number: 0 };

/// How often it is said how much is left to read.
const EVERY_LAG: Duration = Duration::from_secs(5);

/// How often time is passed on to rules that wait.
const EVERY_PASS: Duration = Duration::from_secs(1);

/// Records received so lately are as good as new: nothing much older is still to be read. In microseconds.
const UP_TO_DATE: i64 = 5_000_000;

/// Between a poll that failed and the next.
const AFTER_FAILED_POLL: Duration = Duration::from_secs(1);

/// How long the journal is read on after the signal to stop, so that what was accepted is stored. The journal keeps the rest.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Tables whose rows are derived from audit events.
const DERIVED: [Table; 3] = [Table::Containers, Table::RoleRules, Table::RoleSubjects];

/// How many events each cluster has in a batch.
type Counts = BTreeMap<Arc<str>, u64>;

/// The source that a topic's records are decoded as; `None` if they say it themselves.
fn source(topic: Topic) -> Option<Source> {
    match topic {
        Topic::Audit => Some(Source::Audit),
        Topic::Falco => Some(Source::Falco),
        Topic::Alerts | Topic::DeadLetters | Topic::Shared => None,
    }
}
