//! The rules that the pipeline runs: what they learn at a start, and how others take their place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vedette_detections::Ruleset;
use vedette_schemas::Table;

use super::reload::{Ready, Reload, Work};
use super::{Config, Pipeline, PipelineError, recent_ids};
use crate::engine::{Engine, EngineError, Options, Part};

impl Pipeline {
    /// Learns from the store what rules look back on: after a start, and when partitions came from another process.
    pub(super) async fn learn(&mut self) -> Result<(), PipelineError> {
        if self.learned {
            return Ok(());
        }
        let mut wait = Duration::from_millis(200);
        let started = Instant::now();
        let findings = loop {
            if !self.keeping().is_new() {
                *self.keeping() = planned(&self.config, &self.live_set(), self.part()).await?;
            }
            let (store, now) = (self.store.clone(), chrono::Utc::now().timestamp_micros());
            match self.keeping().learn(&store, now).await {
                Ok(findings) => break findings,
                Err(error) => {
                    tracing::error!(%error, "store does not say what rules look back on; trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(30));
                }
            }
        };
        self.learned = true;
        self.stored = self.come();
        let seconds = started.elapsed().as_secs_f64();
        metrics::gauge!("vedette_rules_learned_seconds").set(seconds);
        tracing::info!(seconds, "rules know what they look back on");
        // What was found before a stop is known by its id.
        let mut oldest = self.keeping().open_since();
        if let Some(owner) = self.sharing.as_mut().and_then(|sharing| sharing.owner.as_mut()) {
            let now = chrono::Utc::now().timestamp_micros();
            owner.learned_at = now;
            // What waits for time is found later, whoever told of it before.
            oldest = oldest.min(Some(now)).or(Some(now)).map(|oldest| oldest.min(now - owner.engine.reach_back()));
        }
        if let Some(oldest) = oldest {
            let known = recent_ids(self.store.as_ref(), Table::Alerts, oldest, self.alerts.capacity()).await;
            for id in known {
                self.alerts.insert(id);
            }
        }
        self.tell(findings).await
    }

    /// Goes on with new rules once they are ready, and begins to make them ready when there are any.
    pub(super) async fn renew(&mut self) -> Result<(), PipelineError> {
        if let Some(reload) = self.reload.as_mut().filter(|reload| reload.is_finished()) {
            let (outcome, set) = (reload.finish().await?, reload.set.clone());
            self.reload = None;
            match outcome {
                Ok(ready) => self.swap(ready, set).await?,
                Err(reason) => refused(&reason),
            }
        }
        // What a flush under way stores can't be told from what was stored before, so new rules wait for its end.
        let Some(reloads) = self.reloads.as_mut().filter(|_| self.reload.is_none() && self.flush.is_none()) else {
            return Ok(());
        };
        if !reloads.has_changed().unwrap_or_default() {
            return Ok(());
        }
        let set = match reloads.borrow_and_update().clone() {
            Ok(set) => set,
            Err(reason) => {
                refused(&reason);
                return Ok(());
            }
        };
        if self.learned {
            let (old, store, known) = (self.live_set(), self.store.clone(), self.alerts.capacity());
            let (part, options) = (self.part(), self.config.engine());
            let (options, newest) = (Options { part, ..options }, self.stored.clone());
            let work = Work { set, options, store, newest, known_alerts: known, wait: Duration::ZERO };
            self.reload = Some(match part {
                Part::All => Reload::start(&old, work, self.pending.tables()),
                // What is evaluated here is stored elsewhere, a while later.
                Part::Groups => Reload::start(&old, Work { wait: self.until_stored(), ..work }, std::iter::empty()),
                Part::Filters => Reload::start(&old, work, std::iter::empty()),
            });
            return Ok(());
        }
        // Before anything is evaluated there is nothing to take over.
        match self.plan_anew(&set).await {
            Ok(()) => self.renewed(set),
            Err(error) => refused(&error.to_string()),
        }
        Ok(())
    }

    async fn plan_anew(&mut self, set: &Ruleset) -> Result<(), EngineError> {
        let part = if self.sharing.is_some() { Part::Filters } else { Part::All };
        let engine = planned(&self.config, set, part).await?;
        if self.part() == Part::Groups {
            *self.keeping() = planned(&self.config, set, Part::Groups).await?;
        }
        self.engine = engine;
        Ok(())
    }

    /// How long it takes at most, if nothing is wrong, until other processes have stored what they passed on.
    fn until_stored(&self) -> Duration {
        Duration::from_secs(self.config.flush_seconds) + STORING
    }

    async fn swap(&mut self, mut ready: Ready, set: Arc<Ruleset>) -> Result<(), PipelineError> {
        let started = Instant::now();
        if let Some(mut filters) = ready.filters.take() {
            filters.inherit(&mut self.engine, |id| !ready.changed.contains(id));
            self.engine = filters;
        }
        for id in &ready.known {
            self.alerts.insert(*id);
        }
        let now = chrono::Utc::now().timestamp_micros();
        let findings = ready.take_over(self.keeping(), now).await;
        if let Some(owner) = self.sharing.as_mut().and_then(|sharing| sharing.owner.as_mut()) {
            owner.learned_at = now;
        }
        metrics::histogram!("vedette_rules_swap_seconds").record(started.elapsed().as_secs_f64());
        self.renewed(set);
        self.tell(findings).await
    }

    fn renewed(&mut self, set: Arc<Ruleset>) {
        tracing::info!(rules = self.engine.len(), "new rules are live");
        metrics::counter!("vedette_rules_reloaded_total").increment(1);
        metrics::gauge!("vedette_rules_refused").set(0.0);
        self.live.send_replace(set);
    }

    /// Gives up a reload under way, to begin it anew once what rules look back on is learned.
    pub(super) fn postpone_reload(&mut self) {
        if let (Some(reloads), Some(_)) = (&mut self.reloads, self.reload.take()) {
            reloads.mark_changed();
        }
    }

    pub(super) fn live_set(&self) -> Arc<Ruleset> {
        self.live.borrow().clone()
    }
}

/// What a store takes for a write, generously.
const STORING: Duration = Duration::from_secs(30);

pub(super) async fn planned(config: &Config, set: &Ruleset, part: Part) -> Result<Engine, EngineError> {
    let options = Options { part, lists: set.lists.clone(), ..config.engine() };
    Engine::with(set.rules.clone(), options).await
}

/// Says that new rules can't be used, and that the ones before go on.
fn refused(reason: &str) {
    tracing::error!(reason, "new rules can't be used; the ones before go on");
    metrics::counter!("vedette_rules_refused_total").increment(1);
    metrics::gauge!("vedette_rules_refused").set(1.0);
}
