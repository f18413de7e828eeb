//! A sequence's `where`, planned over the rows of its steps.

use std::sync::Arc;

use datafusion::common::{DFSchemaRef, TableReference};
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;

use super::never::never;
use super::sql::{told, volatile};
use crate::lists::Lists;
use crate::rule::Rule;

/// What is wrong with the condition, if a rule has one. `schemas` are those of each step's rows.
pub fn problems(rule: &Rule, schemas: &[DFSchemaRef], lists: &Arc<Lists>) -> Vec<String> {
    let Some(condition) = rule.condition.as_deref() else { return Vec::new() };
    examine(rule, condition, schemas, lists).unwrap_or_else(|error| vec![told(error)])
}

fn examine(
    rule: &Rule,
    condition: &str,
    schemas: &[DFSchemaRef],
    lists: &Arc<Lists>,
) -> Result<Vec<String>, DataFusionError> {
    let context = crate::sql::session_with_lists(lists.clone(), |config| config)?;
    for (step, schema) in rule.steps.iter().zip(schemas) {
        let name = TableReference::bare(step.name.as_str());
        let rows = MemTable::try_new(Arc::new(schema.as_arrow().clone()), vec![vec![]])?;
        context.register_table(name, Arc::new(rows))?;
    }
    let steps: Vec<String> = rule.steps.iter().map(|step| format!("\"{}\"", step.name)).collect();
    let sql = format!("SELECT 1 FROM {} WHERE {condition}", steps.join(" CROSS JOIN "));
    // Planning over tables in memory never waits, so that no runtime is needed.
    let asked = futures::executor::block_on(context.state().create_logical_plan(&sql))?;
    let mut problems = Vec::new();
    for part in asked.inputs().iter().flat_map(|node| node.expressions()) {
        problems.extend(volatile(&part)?);
    }
    if never(&asked, &context.state().optimize(&asked)?) {
        problems.push("can never be true, so that nothing is ever found".into());
    }
    Ok(problems)
}
