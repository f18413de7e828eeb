//! Migrations: numbered, forward only, each noted in `schema_migrations`.

use clickhouse::Client;
use vedette_schemas::Table;
use vedette_schemas::notation::clickhouse::{MIGRATIONS, statements};

use super::{StoreError, classify, rejected};

const LEDGER: &str = "CREATE TABLE IF NOT EXISTS schema_migrations \
    (number UInt32, name String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3)) ENGINE = MergeTree ORDER BY number";

pub async fn migrate(server: &Client, database: &Client, name: &str) -> Result<(), StoreError> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(rejected(format!("store.clickhouse.database: {name:?} is not a plain name")));
    }
    execute(server, &format!("CREATE DATABASE IF NOT EXISTS {name}")).await?;
    execute(database, LEDGER).await?;
    let done: Vec<u32> = database.query("SELECT number FROM schema_migrations").fetch_all().await.map_err(classify)?;
    for (number, name, sql) in MIGRATIONS.iter().filter(|(number, _, _)| !done.contains(number)) {
        tracing::info!(number, name, "migrating ClickHouse");
        for statement in statements(sql) {
            execute(database, &statement).await?;
        }
        execute(database, &format!("INSERT INTO schema_migrations (number, name) VALUES ({number}, '{name}')")).await?;
    }
    for table in Table::ALL {
        check_columns(database, table).await?;
    }
    Ok(())
}

async fn execute(client: &Client, sql: &str) -> Result<(), StoreError> {
    // Raw, since `?` in the text is no placeholder.
    client.query_raw(sql).execute().await.map_err(classify)
}

/// ClickHouse drops Arrow columns that it doesn't know without a word: so it must know them all.
async fn check_columns(database: &Client, table: Table) -> Result<(), StoreError> {
    let sql = "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = ?";
    let known: Vec<String> = database.query(sql).bind(table.name()).fetch_all().await.map_err(classify)?;
    let missing = |name: &str| !known.iter().any(|known| known == name);
    let missing: Vec<&str> = table.columns().iter().map(|c| c.name).filter(|name| missing(name)).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(rejected(format!("table {} lacks columns {}", table.name(), missing.join(", ")))),
    }
}
