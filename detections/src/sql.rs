//! The SQL that rules and queries speak: DataFusion's, read as PostgreSQL's dialect, with the JSON functions and our own.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::config::Dialect;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;

use crate::balance::Balance;
use crate::functions;
use crate::lists::Lists;

/// The parser's dialect. The generic one takes `cluster`, which every table has, for a keyword.
pub const PARSER: PostgreSqlDialect = PostgreSqlDialect {};

/// Bytes that sorting and grouping may hold in a session. What can be spilled to disk is, beyond it; the rest fails.
const MEMORY: usize = 1 << 30;

/// Gives a session `period_start()` and `period_end()`, which say for what time a scheduled rule runs: from the first to before
/// the second, in microseconds since 1970.
pub fn register_period(context: &SessionContext, start: i64, end: i64) {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    for (name, micros) in [("period_start", start), ("period_end", end)] {
        let value = ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())));
        let answer = Arc::new(move |_: &[ColumnarValue]| Ok(value.clone()));
        context.register_udf(create_udf(name, Vec::new(), utc.clone(), Volatility::Immutable, answer));
    }
}

/// A session without tables.
pub fn session() -> Result<SessionContext, DataFusionError> {
    session_with(|config| config.with_target_partitions(1))
}

/// A session without tables, with settings of its own.
pub fn session_with(settings: impl FnOnce(SessionConfig) -> SessionConfig) -> Result<SessionContext, DataFusionError> {
    session_with_lists(Arc::default(), settings)
}

/// A session without tables, with settings of its own and the lists that `in_list` looks into.
pub fn session_with_lists(
    lists: Arc<Lists>,
    settings: impl FnOnce(SessionConfig) -> SessionConfig,
) -> Result<SessionContext, DataFusionError> {
    // The optimizer's leaf pushdown pulls JSON extraction below the filters, on to every row.
    let mut config = SessionConfig::new().set_bool("datafusion.optimizer.enable_leaf_expression_pushdown", false);
    config.options_mut().sql_parser.dialect = Dialect::PostgreSQL;
    let memory = RuntimeEnvBuilder::new().with_memory_limit(MEMORY, 1.0).build_arc()?;
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![Arc::new(Balance)];
    rules.extend(Analyzer::new().rules);
    let state = SessionStateBuilder::new()
        .with_config(settings(config))
        .with_runtime_env(memory)
        .with_default_features()
        .with_analyzer_rules(rules);
    let mut context = SessionContext::new_with_state(state.build());
    datafusion_functions_json::register_all(&mut context)?;
    functions::register(&context, &lists);
    Ok(context)
}
