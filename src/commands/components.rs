//! The components, built as the configuration says.

use std::sync::Arc;

use anyhow::{Context, bail};
use vedette_analytics::store::Store;
use vedette_detections::Rule;
use vedette_journal::Journal;

use super::ExitReason;
use crate::config::{Config, JournalKind, StoreKind};

/// The journal, opened or connected to.
pub async fn journal(config: &Config) -> anyhow::Result<Arc<dyn Journal>> {
    match config.journal.kind {
        JournalKind::Embedded => {
            let embedded = config.journal.embedded.clone();
            // Checking the last segments takes a while after a crash.
            let journal = tokio::task::spawn_blocking(move || embedded.open()).await?;
            Ok(journal.context("can't open the journal")?)
        }
        JournalKind::Kafka => {
            let journal = config.journal.kafka.open().await.context("can't connect the journal")?;
            Ok(journal)
        }
    }
}

/// The store, opened or connected to. Its tables may not exist yet.
pub async fn store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match config.store.kind {
        StoreKind::Lake => config.store.lake.open().await.context("can't open the lake")?,
        StoreKind::Clickhouse => config.store.clickhouse.open(),
    })
}

/// The rules to run: the built-in ones, those of the configured paths, without the disabled.
pub fn rules(config: &Config) -> anyhow::Result<Vec<Rule>> {
    let detections = &config.detections;
    let mut rules = if detections.builtin { vedette_detections::builtin()? } else { Vec::new() };
    for path in &detections.paths {
        match vedette_detections::load(path) {
            Ok(loaded) => rules.extend(loaded),
            Err(errors) => {
                let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
                bail!(anyhow::Error::new(ExitReason::Usage).context(format!("detections.paths: {}", lines.join("; "))));
            }
        }
    }
    for id in &detections.disabled {
        if !rules.iter().any(|rule| &rule.id == id) {
            bail!(anyhow::Error::new(ExitReason::Usage).context(format!("detections.disabled: there is no rule {id}")));
        }
    }
    rules.retain(|rule| !detections.disabled.contains(&rule.id));
    let mut ids: Vec<_> = rules.iter().map(|rule| rule.id.as_str()).collect();
    ids.sort_unstable();
    if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!(
            anyhow::Error::new(ExitReason::Usage)
                .context(format!("detections.paths: rule {} is there twice", twice[0]))
        );
    }
    Ok(rules)
}
