//! People's SQL over the store, read-only.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{DataFrame, SessionContext};
use vedette_detections::Lists;
use vedette_detections::sql::session_with_lists;
use vedette_schemas::Table;

use crate::store::{Store, StoreError};

#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Sql(#[from] DataFusionError),
}

/// A session over the store's tables as they are now, with the lists that `in_list` looks into.
pub async fn session(store: Arc<dyn Store>, lists: Arc<Lists>) -> Result<SessionContext, QueryError> {
    let context = session_with_lists(lists, |config| config.with_information_schema(true))?;
    for table in Table::ALL {
        context.register_table(table.name(), store.provider(table).await?)?;
    }
    Ok(context)
}

/// Plans a query that reads. Statements, DDL and DML are refused.
pub async fn plan(context: &SessionContext, sql: &str) -> Result<DataFrame, QueryError> {
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    Ok(context.sql_with_options(sql, read_only).await?)
}
