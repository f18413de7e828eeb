//! Runs SQL expressions as rules and queries run them, for the tests of the functions.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::Array;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;

use crate::lists::Lists;

/// What expressions without tables share.
static SESSION: LazyLock<SessionContext> = LazyLock::new(session);

/// A session with two lists.
pub fn session() -> SessionContext {
    let mut lists = Lists::default();
    lists.insert("trusted_sources", vec!["10.0.0.0/8".into(), "*.example.com".into()]).unwrap();
    lists.insert("admins", vec!["olga".into()]).unwrap();
    crate::sql::session_with_lists(Arc::new(lists), |config| config.with_target_partitions(1)).unwrap()
}

/// The first column of a query, as text.
pub fn column(context: &SessionContext, sql: &str) -> Result<Vec<String>, String> {
    let batches = futures::executor::block_on(async { context.sql(sql).await?.collect().await });
    let mut texts = Vec::new();
    for batch in batches.map_err(|error| error.strip_backtrace())? {
        let column = batch.column(0);
        for row in 0..batch.num_rows() {
            let null = column.is_null(row);
            texts.push(if null { "null".into() } else { array_value_to_string(column, row).unwrap() });
        }
    }
    Ok(texts)
}

/// The value of an expression, as text.
pub fn evaluate(expression: &str) -> Result<String, String> {
    column(&SESSION, &format!("SELECT {expression}")).map(|rows| rows.join("\n"))
}

/// Asserts the value of each expression.
#[track_caller]
pub fn check(cases: &[(&str, &str)]) {
    for (expression, expected) in cases {
        assert_eq!(evaluate(expression).as_deref(), Ok(*expected), "{expression}");
    }
}

/// Asserts that the expression is refused with these words when it is planned.
#[track_caller]
pub fn refused(expression: &str, words: &[&str]) {
    let planned = futures::executor::block_on(SESSION.sql(&format!("SELECT {expression}")));
    let error = planned.err().unwrap_or_else(|| panic!("{expression} is planned")).strip_backtrace();
    for word in words {
        assert!(error.contains(word), "{expression}: {word:?} is not in {error}");
    }
}
