//! The sections that belong to the whole program, not to one component.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Which journal, and the settings of each.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// `embedded` (segment files in the data folder) or `kafka`.
    pub kind: JournalKind,
    pub embedded: vedette_journal::embedded::Config,
    pub kafka: vedette_journal::kafka::Config,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JournalKind {
    #[default]
    Embedded,
    Kafka,
}

/// Which store, and the settings of each.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// `lake` (Delta tables in the data folder or an object store) or `clickhouse`.
    pub kind: StoreKind,
    pub lake: vedette_analytics::store::lake::Config,
    pub clickhouse: vedette_analytics::store::clickhouse::Config,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    #[default]
    Lake,
    Clickhouse,
}

/// `/livez`, `/readyz` and `/metrics` of `vedette analytics`; the other verbs serve them beside the receivers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Operating {
    /// Address and port to listen at.
    pub listen: SocketAddr,
}

impl Default for Operating {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8081)) }
    }
}

/// Vedette's own log.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` for people, `json` for machines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,vedette_ingest=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        // deltalake and DataFusion say at info what only their developers need.
        Self { format: LogFormat::Text, level: "warn,vedette=info".into() }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}
