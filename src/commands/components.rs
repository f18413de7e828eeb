//! The components, built as the configuration says.

use std::sync::Arc;

use anyhow::Context;
use vedette_analytics::engine::{Engine, Options};
use vedette_analytics::store::Store;
use vedette_detections::Ruleset;
use vedette_journal::Journal;

use crate::config::{Config, ConfigError, JournalKind, StoreKind};

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

/// An engine over the rules, planned as a service does it.
pub async fn engine(set: &Ruleset) -> Result<Engine, ConfigError> {
    let options = Options { lists: set.lists.clone(), ..Options::default() };
    Engine::with(set.rules.clone(), options).await.map_err(|error| ConfigError::Flag(format!("detections: {error}")))
}

/// The rules to run and their lists. Expired exceptions and the like are logged.
pub fn ruleset(config: &Config) -> Result<Ruleset, ConfigError> {
    let set = config.detections.load().map_err(|errors| {
        let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
        ConfigError::Flag(lines.join("\n"))
    })?;
    set.notes.iter().for_each(|note| tracing::warn!("{note}"));
    Ok(set)
}
