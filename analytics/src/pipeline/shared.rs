//! Where several processes share the work: each passes on the events that rules look back on, and one of them, the owner of the
//! topic they go to, runs these rules.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use vedette_journal::{Consumer, Delivered, Partition, Record, Source, Topic};
use vedette_schemas::EventId;

use super::progress::{Least, Progress, Teller};
use super::rules::planned;
use super::seen::{Ahead, Seen};
use super::{Pipeline, PipelineError, decode};
use crate::engine::{Engine, Finding, Part};

/// Who holds this partition runs the rules that look back.
const OWNING: Partition = Partition { topic: Topic::Shared, number: 0 };

/// So long after partitions were assigned, silence means that there is nothing to read, whatever the journal says of what is
/// left: of the owner's, new records come all the time.
const SETTLED: Duration = Duration::from_secs(30);

/// From its receipt to those who read it an event takes less, as a rule. In microseconds.
const ON_ITS_WAY: i64 = 1_000_000;

/// This process's share.
pub struct Sharing {
    teller: Teller,
    assigned: Instant,
    /// Whether silence means that everything was read, and not that reading has yet to begin.
    caught_up: bool,
    pub owner: Option<Owner>,
}

/// What the owner runs.
pub struct Owner {
    pub engine: Engine,
    /// Events that came already: what was passed on before a crash is passed on again.
    seen: Seen,
    least: Least,
    /// When the engine last read from the store, in microseconds since 1970.
    pub learned_at: i64,
}

impl Sharing {
    pub fn new() -> Self {
        Self { teller: Teller::default(), assigned: Instant::now(), caught_up: false, owner: None }
    }
}

/// The records of these events, each once.
fn wanted(records: Vec<Record>, mut wanted: HashSet<EventId>) -> Vec<Record> {
    records.into_iter().filter(|record| wanted.remove(&record.id)).collect()
}

impl Pipeline {
    /// The engine that keeps what rules look back on.
    pub(super) fn keeping(&mut self) -> &mut Engine {
        match self.sharing.as_mut().and_then(|sharing| sharing.owner.as_mut()) {
            Some(owner) => &mut owner.engine,
            None => &mut self.engine,
        }
    }

    /// What part of the work the engine of `keeping` does.
    pub(super) fn part(&self) -> Part {
        match &self.sharing {
            None => Part::All,
            Some(Sharing { owner: None, .. }) => Part::Filters,
            Some(Sharing { owner: Some(_), .. }) => Part::Groups,
        }
    }

    /// Begins with other partitions.
    pub(super) async fn assigned(&mut self, partitions: &[Partition]) -> Result<(), PipelineError> {
        if self.sharing.is_none() {
            return Ok(());
        }
        let owner = if partitions.contains(&OWNING) { Some(self.new_owner().await?) } else { None };
        let mut sharing = Sharing { owner, ..Sharing::new() };
        sharing.teller.hold(partitions);
        // Only the owner has something to learn.
        self.learned = sharing.owner.is_none();
        metrics::gauge!("vedette_rules_shared_owner").set(if sharing.owner.is_some() { 1.0 } else { 0.0 });
        self.sharing = Some(sharing);
        Ok(())
    }

    async fn new_owner(&self) -> Result<Owner, PipelineError> {
        let engine = planned(&self.config, &self.live_set(), Part::Groups).await?;
        let least = Least::new(self.partitions(Topic::Audit).await, self.partitions(Topic::Falco).await);
        tracing::info!(rules = engine.len(), "this process runs the rules that look back");
        Ok(Owner { engine, seen: Seen::new(self.config.seen_events), least, learned_at: i64::MAX })
    }

    /// Asks until the journal answers: without all partitions time would go on too soon.
    async fn partitions(&self, topic: Topic) -> i32 {
        let mut wait = Duration::from_millis(200);
        loop {
            match self.journal.partitions(topic).await {
                Ok(partitions) => return partitions,
                Err(error) => {
                    tracing::error!(%topic, %error, "journal does not say how many partitions there are; trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(10));
                }
            }
        }
    }

    /// Lets go of what comes with partitions.
    pub(super) fn revoked(&mut self) {
        if self.sharing.is_some() {
            self.postpone_reload();
            self.sharing = Some(Sharing::new());
            metrics::gauge!("vedette_rules_shared_owner").set(0.0);
            metrics::gauge!("vedette_rule_state_bytes").set(0.0);
            metrics::gauge!("vedette_findings_open").set(0.0);
        }
    }

    /// Passes on the events of the batch just evaluated that rules look back on; durable when this returns.
    pub(super) async fn share(&mut self, records: Vec<Record>) -> Result<(), PipelineError> {
        let records = wanted(records, self.engine.wanted());
        if records.is_empty() {
            return Ok(());
        }
        for record in &records {
            let cluster = record.cluster.to_string();
            metrics::counter!("vedette_events_shared_total", "cluster" => cluster).increment(1);
        }
        self.append(Topic::Shared, records).await
    }

    /// Evaluates what was passed on, and lets time go on as far as all have read. Its events are stored where they came in.
    pub(super) async fn take_shared(&mut self, records: Vec<Delivered>) -> Result<(), PipelineError> {
        let of_process = |delivered: &Delivered| delivered.record.source == Source::Vedette;
        let (told, events): (Vec<_>, Vec<_>) = records.into_iter().partition(of_process);
        let mut decoded = decode::decode(events).await?;
        let mut dead = std::mem::take(&mut decoded.dead);
        let mut progress = Vec::new();
        for Delivered { record, .. } in told {
            match Progress::parse(&record) {
                Ok(told) => progress.push(told),
                Err(reason) => dead.push(Record { reason: Some(reason), ..record }),
            }
        }
        self.bury(dead).await?;
        let now = chrono::Utc::now().timestamp_micros();
        let Some(owner) = self.sharing.as_mut().and_then(|sharing| sharing.owner.as_mut()) else {
            tracing::error!("events that another process looks back on came here");
            return Ok(());
        };
        let fresh = decoded.only_fresh(&mut owner.seen, &Ahead::new())?;
        let mut findings = Vec::new();
        if !fresh.tables.is_empty() {
            if let Some(reload) = &self.reload {
                reload.feed(&fresh.tables);
            }
            findings = owner.engine.evaluate(&fresh.tables, now).await;
        }
        for told in &progress {
            owner.least.take(told);
            told.clusters
                .iter()
                .for_each(|(cluster, newest, received)| owner.engine.reach(cluster, *newest, *received));
        }
        if let Some(read) = owner.least.get().filter(|_| !progress.is_empty()) {
            findings.extend(owner.engine.go_on(read, now).await);
            // What was received before the store was read has come by now, if it comes.
            if read > owner.learned_at {
                owner.engine.forget_learned();
            }
        }
        self.tell_found(findings).await
    }

    /// Raises what is news. What the owner before has told keeps the times with which it did.
    async fn tell_found(&mut self, findings: Vec<Finding>) -> Result<(), PipelineError> {
        let known = findings.iter().filter(|finding| self.alerts.contains(finding.alert_id));
        if let Some(oldest) = known.map(|finding| finding.received_at).min() {
            let (store, since) = (self.store.clone(), self.before(oldest));
            if let Err(error) = self.keeping().adopt(&store, since).await {
                tracing::warn!(%error, "the store does not say when findings were raised; they are told with new times");
            }
        }
        self.tell(findings).await
    }

    /// Tells the owner how far this process has read; `oldest` is the receipt of the oldest event just read, `None` if there was
    /// none.
    pub(super) async fn tell_progress(&mut self, oldest: Option<i64>) -> Result<(), PipelineError> {
        let now = chrono::Utc::now().timestamp_micros();
        let Some(sharing) = &mut self.sharing else { return Ok(()) };
        let read = oldest.or(sharing.caught_up.then_some(now)).map(|read| read.min(now - ON_ITS_WAY));
        match sharing.teller.tell(read, self.engine.come(), now) {
            Some(record) => self.append(Topic::Shared, vec![record]).await,
            None => Ok(()),
        }
    }

    /// Nothing came: finds out whether that is because everything was read.
    pub(super) async fn catch_up(&mut self, consumer: &mut dyn Consumer) {
        let Some(sharing) = self.sharing.as_mut().filter(|sharing| !sharing.caught_up) else { return };
        let settled = sharing.assigned.elapsed() > SETTLED;
        sharing.caught_up = settled || consumer.lag().await.is_ok_and(|records| records == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_passed_on_once_and_whole() {
        let record = |payload: &'static str| Record::new("c".into(), Source::Audit, 1, payload.into());
        let (one, two) = (record("1"), record("2"));
        let records = vec![one.clone(), two.clone(), one.clone()];
        assert_eq!(wanted(records, HashSet::from([one.id])), [one]);
        assert_eq!(wanted(vec![two], HashSet::new()), []);
    }
}
