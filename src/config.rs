//! The effective configuration: defaults, under one TOML file, under `VEDETTE_…` environment variables, under flags.
//!
//! An environment variable is `VEDETTE_` and the key's path in capitals, with two underscores for each dot:
//! `journal.kafka.brokers` is `VEDETTE_JOURNAL__KAFKA__BROKERS`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

mod overlay;
mod sections;

pub use sections::{Journal, JournalKind, Log, LogFormat, Operating, Store, StoreKind};

/// Everything that Vedette can be told, one section for each component.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The folder of everything kept on this machine: `journal/` and `lake/`.
    pub data: PathBuf,
    /// The receivers.
    pub ingest: vedette_ingest::Config,
    /// The durable log between the stages.
    pub journal: Journal,
    /// Where events and findings are kept.
    pub store: Store,
    /// What is looked for.
    pub detections: vedette_detections::Config,
    /// The engine.
    pub analytics: vedette_analytics::pipeline::Config,
    /// Where `analytics` is asked how it fares.
    pub operating: Operating,
    /// Vedette's own log, on standard error.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("data"),
            ingest: Default::default(),
            journal: Default::default(),
            store: Default::default(),
            detections: Default::default(),
            analytics: Default::default(),
            operating: Default::default(),
            log: Default::default(),
        }
    }
}

/// A configuration that can't be used. Each message names the file, the variable or the flag, and the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read the configuration {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("configuration {path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("environment variable {name}: {reason}")]
    Variable { name: String, reason: String },
    #[error("{0}")]
    Flag(String),
    #[error("configuration {0}")]
    Value(String),
}

/// A flag's value for a key: the flag as typed, the key's path, the value.
pub struct Flag {
    pub name: &'static str,
    pub path: &'static [&'static str],
    pub value: Value,
}

impl Config {
    /// Builds the effective configuration; `environment` is the process's, or a test's.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: Vec<Flag>,
    ) -> Result<Self, ConfigError> {
        let mut tree = match file {
            Some(path) => read_file(path)?,
            None => Table::new(),
        };
        let mut variables: Vec<_> = environment.filter(|(name, _)| overlay::is_ours(name)).collect();
        variables.sort();
        for (name, text) in variables {
            tree = overlay::variable(tree, &name, &text)?;
        }
        for flag in flags {
            let mut next = tree.clone();
            overlay::put(&mut next, flag.path, flag.value);
            overlay::parse(&next).map_err(|reason| ConfigError::Flag(format!("{}: {reason}", flag.name)))?;
            tree = next;
        }
        place(&mut tree);
        // Nothing can fail here that has not failed above; the error is passed on all the same.
        let config = overlay::parse(&tree).map_err(ConfigError::Flag)?;
        config.check()?;
        Ok(config)
    }

    /// Values of the right type that nothing can work with. The receivers check theirs, with the files they name.
    fn check(&self) -> Result<(), ConfigError> {
        let sections = [
            ("analytics", self.analytics.check()),
            ("journal.kafka", self.journal.kafka.check()),
            ("store.lake", self.store.lake.check()),
            ("store.clickhouse", self.store.clickhouse.check()),
        ];
        for (section, result) in sections {
            result.map_err(|problem| ConfigError::Value(format!("{section}.{problem}")))?;
        }
        Ok(())
    }

    /// The configuration as TOML, with every secret masked.
    pub fn to_masked_toml(&self) -> Result<String, toml::ser::Error> {
        let mut tree = Table::try_from(self)?;
        mask(&mut tree);
        toml::to_string_pretty(&tree)
    }

    /// The configuration file to read: the flag's, else `VEDETTE_CONFIG`'s.
    pub fn file(flag: Option<PathBuf>) -> Option<PathBuf> {
        flag.or_else(|| std::env::var_os("VEDETTE_CONFIG").map(PathBuf::from))
    }
}

/// Parses the file as a whole first, since those messages carry line and column.
fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let file_error = |error: toml::de::Error| ConfigError::File { path: path.to_owned(), reason: error.to_string() };
    toml::from_str::<Config>(&text).map_err(file_error)?;
    toml::from_str(&text).map_err(file_error)
}

fn mask(tree: &mut Table) {
    for (key, value) in tree.iter_mut() {
        mask_value(value, is_secret(key));
    }
}

/// Empty values stay visible: whether a secret is set at all is worth knowing.
fn mask_value(value: &mut Value, secret: bool) {
    match value {
        Value::Table(inner) => mask(inner),
        Value::Array(items) => items.iter_mut().for_each(|item| mask_value(item, secret)),
        Value::String(text) if secret && !text.is_empty() => "***".clone_into(text),
        Value::String(text) => mask_password_in_url(text),
        _ => {}
    }
}

/// `scheme://user:password@host` to `scheme://user:***@host`.
fn mask_password_in_url(text: &mut String) {
    let Some(start) = text.find("://").map(|at| at + 3) else { return };
    let authority = text[start..].split('/').next().unwrap_or_default();
    let Some(user) = authority.rfind('@') else { return };
    if let Some(colon) = authority[..user].find(':') {
        text.replace_range(start + colon + 1..start + user, "***");
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    // Also of librdkafka's settings and of the object stores' options.
    let words =
        ["password", "secret", "token", "hash", "sha256", "credential", "_key", ".pem", "jaas", "oauthbearer.config"];
    // Paths of secrets are no secrets.
    let paths = ["_file", "_path", "location"];
    words.iter().any(|word| key.contains(word)) && !paths.iter().any(|path| key.ends_with(path))
}

/// What lives in the data folder unless it is told to live elsewhere.
fn place(tree: &mut Table) {
    let data = tree.get("data").and_then(Value::as_str).map_or_else(|| Config::default().data, PathBuf::from);
    for (path, folder) in [(["journal", "embedded", "path"], "journal"), (["store", "lake", "url"], "lake")] {
        if overlay::get(tree, &path).is_none() {
            overlay::put(tree, &path, Value::String(data.join(folder).display().to_string()));
        }
    }
}

#[cfg(test)]
mod tests;
