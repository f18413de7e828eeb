//! The store in ClickHouse, through its official client: Arrow in, Arrow out.

mod filter;
mod insert;
mod migrate;
mod provider;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use clickhouse::{Client, Compression};
use datafusion::catalog::TableProvider;
use futures::{Stream, TryStreamExt};
use serde::{Deserialize, Serialize};
use url::Url;
use vedette_schemas::{EventId, Table};

#[cfg(test)]
pub(crate) use provider::ClickHouseTable;

use super::{Store, StoreError, Write};

const NAME: &str = "clickhouse";

/// Where ClickHouse is.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// HTTP interface. Default `http://127.0.0.1:8123`.
    pub url: String,
    /// Database; created by a migration if it is missing. Default `vedette`.
    pub database: String,
    /// User. Default `default`.
    pub user: String,
    /// Password. Default empty.
    pub password: String,
    /// Longest wait for an insert, in seconds. Default 60.
    pub insert_timeout_seconds: u64,
    /// Longest a query may run, in seconds (`max_execution_time`). Default 60.
    pub query_timeout_seconds: u64,
    /// LZ4 over HTTP. Default true.
    pub compression: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8123".into(),
            database: "vedette".into(),
            user: "default".into(),
            password: String::new(),
            insert_timeout_seconds: 60,
            query_timeout_seconds: 60,
            compression: true,
        }
    }
}

impl Config {
    /// Names the first key whose value can't work, and why.
    pub fn check(&self) -> Result<(), String> {
        let is_http = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        match Url::parse(&self.url) {
            Ok(url) if is_http(&url) => {}
            _ => return Err(format!("url: {} is no URL of http or https", self.url)),
        }
        if self.database.is_empty() { Err("database: is empty".into()) } else { Ok(()) }
    }

    /// A store over this ClickHouse. Does not connect yet.
    pub fn open(&self) -> Arc<ClickHouse> {
        let compression = if self.compression { Compression::Lz4 } else { Compression::None };
        let server = Client::default()
            .with_url(&self.url)
            .with_user(&self.user)
            .with_password(&self.password)
            .with_compression(compression)
            .with_setting("output_format_arrow_string_as_string", "1")
            .with_setting("output_format_arrow_low_cardinality_as_dictionary", "0")
            .with_setting("output_format_arrow_compression_method", "none");
        let database = server.clone().with_database(&self.database);
        Arc::new(ClickHouse { server, database, config: self.clone() })
    }
}

/// The store.
pub struct ClickHouse {
    /// Without a database, which may not exist yet.
    server: Client,
    database: Client,
    config: Config,
}

impl ClickHouse {
    /// Runs a query as ClickHouse's own SQL, which can only read. Returns its rows as they come.
    pub async fn native(&self, sql: &str) -> Result<impl Stream<Item = Result<RecordBatch, StoreError>>, StoreError> {
        let rows = provider::stream(self.reader().await?, sql.to_owned());
        Ok(rows.map_err(|error| unavailable(&error)))
    }

    /// A client whose queries only read, and end in time.
    async fn reader(&self) -> Result<Client, StoreError> {
        let seconds = self.config.query_timeout_seconds.to_string();
        let client = self.database.clone().with_setting("max_execution_time", seconds);
        // An account that may only read may not change that setting either.
        let level = self.server.query("SELECT toUInt8(getSetting('readonly'))").fetch_one::<u8>().await;
        // 1 rather than 2: the query can't lift the time limit, nor reach other hosts by table functions.
        Ok(if level.map_err(classify)? > 0 { client } else { client.with_setting("readonly", "1") })
    }

    fn insert_timeout(&self) -> Duration {
        Duration::from_secs(self.config.insert_timeout_seconds)
    }
}

#[async_trait]
impl Store for ClickHouse {
    async fn migrate(&self) -> Result<(), StoreError> {
        migrate::migrate(&self.server, &self.database, &self.config.database).await
    }

    async fn write(&self, write: Write) -> Result<(), StoreError> {
        insert::insert(&self.database, self.insert_timeout(), write).await
    }

    async fn recent_ids(&self, table: Table, since: i64, limit: usize) -> Result<Vec<EventId>, StoreError> {
        let id = table.id();
        let sql = format!(
            "SELECT {id} FROM {} WHERE received_at >= fromUnixTimestamp64Micro({since}, 'UTC') \
             ORDER BY received_at DESC LIMIT {limit}",
            table.name()
        );
        let batches = provider::fetch(self.database.clone(), &sql).await.map_err(|error| unavailable(&error))?;
        let mut ids = Vec::new();
        for batch in batches {
            let column = cast(batch.column(0), &DataType::Utf8).map_err(|error| unavailable(&error))?;
            ids.extend(column.as_string::<i32>().iter().flatten().filter_map(EventId::parse));
        }
        ids.reverse();
        Ok(ids)
    }

    async fn provider(&self, table: Table) -> Result<Arc<dyn TableProvider>, StoreError> {
        Ok(Arc::new(provider::ClickHouseTable::new(self.reader().await?, table)))
    }

    /// Merges and expiry are ClickHouse's own work.
    async fn maintain(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn ready(&self) -> Result<(), StoreError> {
        let ping = self.server.query("SELECT 1").fetch_one::<u8>();
        match tokio::time::timeout(Duration::from_secs(5), ping).await {
            Ok(answer) => answer.map(|_| ()).map_err(classify),
            Err(_) => Err(unavailable(&"no answer within 5 s")),
        }
    }
}

fn unavailable(reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable { store: NAME, reason: reason.to_string() }
}

fn rejected(reason: impl Into<String>) -> StoreError {
    StoreError::Rejected { store: NAME, reason: reason.into() }
}

/// ClickHouse's codes that no repetition cures: unknown columns, tables and databases, syntax, types, rights, users.
const FINAL: [u32; 9] = [16, 47, 50, 53, 60, 62, 81, 497, 516];

fn classify(error: clickhouse::error::Error) -> StoreError {
    let text = error.to_string();
    let code = text.split("Code: ").nth(1).and_then(|rest| rest.split('.').next()?.trim().parse().ok());
    if code.is_some_and(|code: u32| FINAL.contains(&code)) { rejected(text) } else { unavailable(&text) }
}
