//! The condition of a sequence, planned over its steps' columns.

use std::sync::Arc;

use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::error::DataFusionError;

use super::never::impossible;
use super::sql::{told, volatile};
use crate::lists::Lists;
use crate::rule::Rule;

/// What is wrong with a sequence's `where`. `schemas` are those of its steps.
pub fn problems(rule: &Rule, schemas: &[DFSchemaRef], lists: &Arc<Lists>) -> Vec<String> {
    let Some(condition) = &rule.condition else { return Vec::new() };
    let found = || {
        let mut all = DFSchema::empty();
        for (step, schema) in rule.steps.iter().zip(schemas) {
            all = all.join(&DFSchema::try_from_qualified_schema(step.name.as_str(), schema.as_arrow())?)?;
        }
        let context = crate::sql::session_with_lists(lists.clone(), |config| config)?;
        let condition = context.state().create_logical_expr(condition, &all)?;
        let mut problems = volatile(&condition)?;
        if impossible(&condition) {
            problems.push("can never be true, so that nothing is ever found".into());
        }
        Ok(problems)
    };
    found().unwrap_or_else(|error: DataFusionError| vec![told(error)])
}
