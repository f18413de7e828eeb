//! `vedette query`: one dialect of SQL over whichever store is configured, once or at a prompt.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arrow::datatypes::Schema;
use clap::{Args, ValueEnum};
use vedette_analytics::store::Store;
use vedette_detections::Lists;

use super::{Common, components};
use crate::config::{Config, ConfigError, StoreKind};

mod format;
mod prompt;

use format::Output;

const AFTER: &str =
    "Tables: audit, containers, role_rules, role_subjects, falco, alerts, runs. The SQL is DataFusion's, over either
store; columns of JSON text open with json_get_str(column, 'key', ...) and the like. Only reading is possible, within 1 GiB
of memory for sorting and grouping (what can goes on to disk) and the time of --timeout.

  vedette query \"SELECT event_time, user_name, verb, resource, name FROM audit WHERE resource = 'secrets' LIMIT 20\"

Exit codes: 0 success, 1 failure, 2 bad usage or configuration.";

#[derive(Args)]
#[command(after_help = AFTER)]
pub struct Query {
    /// The query; without it a prompt opens, or statements are read from standard input, each up to its semicolon
    #[arg(value_name = "SQL")]
    sql: Option<String>,
    /// How rows are written
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The file to write to, instead of standard output
    #[arg(long, short, value_name = "FILE", required_if_eq("format", "parquet"))]
    output: Option<PathBuf>,
    /// Rows that a table shows at most; the other formats write them all
    #[arg(long, value_name = "N", default_value_t = 1000)]
    rows: usize,
    /// A statement is given up after this long
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = super::duration)]
    timeout: Duration,
    /// Sends the text to ClickHouse as it stands, in ClickHouse's own dialect
    #[arg(long, requires = "sql")]
    native: bool,
    #[command(flatten)]
    common: Common,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One JSON object a line
    Json,
    Csv,
    Parquet,
    /// The events as they were received, one JSON object a line: `SELECT * FROM audit …` or `… FROM falco …`
    Events,
}

impl Query {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.common.load()?;
        super::start_log(&config)?;
        let output = Output { format: self.format, file: self.output, rows: self.rows };
        let limit = self.timeout;
        if self.native {
            if config.store.kind != StoreKind::Clickhouse {
                return Err(ConfigError::Flag("--native: store.kind is not clickhouse".into()).into());
            }
            let clickhouse = config.store.clickhouse.open();
            let sql = self.sql.unwrap_or_default();
            let answer = async {
                // The rows bring their schema.
                let rows = std::pin::pin!(clickhouse.native(&sql).await?);
                output.write(Arc::new(Schema::empty()), rows).await
            };
            return in_time(limit, answer).await;
        }
        let lake = &config.store.lake;
        if config.store.kind == StoreKind::Lake && lake.is_missing() {
            anyhow::bail!("{}: no lake is there; --data names the folder of `vedette serve`", lake.url);
        }
        let store = components::store(&config).await?;
        let source = Source { store, lists: lists(&config) };
        match self.sql {
            Some(sql) => in_time(limit, run_one(&source, &sql, &output)).await,
            None if std::io::stdin().is_terminal() => prompt::run(source, output, limit).await,
            None => {
                let script = std::io::read_to_string(std::io::stdin()).context("can't read standard input")?;
                prompt::run_script(source, output, limit, &script).await
            }
        }
    }
}

/// What statements are answered from.
#[derive(Clone)]
struct Source {
    store: Arc<dyn Store>,
    lists: Arc<Lists>,
}

/// The overlay's lists. Whoever looks into an incident is not kept from it by a list that can't be read.
fn lists(config: &Config) -> Arc<Lists> {
    let lists = config.detections.lists();
    lists.unwrap_or_else(|errors| {
        errors.iter().for_each(|error| tracing::warn!("there are no lists: {error}"));
        Arc::default()
    })
}

async fn in_time<T>(limit: Duration, statement: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let in_time = tokio::time::timeout(limit, statement).await;
    in_time.unwrap_or_else(|_| Err(anyhow::anyhow!("given up after {limit:?}; --timeout allows more")))
}

/// Runs one statement and writes its rows.
async fn run_one(source: &Source, sql: &str, output: &Output) -> anyhow::Result<()> {
    // A session for each statement: a table's provider is the table as of now.
    let Source { store, lists } = source.clone();
    let session = vedette_analytics::query::session(store, lists).await.context("can't open the store")?;
    let frame = vedette_analytics::query::plan(&session, sql).await?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    output.write(schema, frame.execute_stream().await?).await
}
