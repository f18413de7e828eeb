//! A sequence's `where`, planned over the rows of its steps.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;

use super::never::never;
use super::sql::{told, volatile};
use crate::lists::Lists;
use crate::rule::Rule;

/// What is wrong with the condition, if anything is. `schemas` are those of each step's rows.
pub fn problem(rule: &Rule, schemas: Vec<SchemaRef>, lists: &Arc<Lists>) -> Option<String> {
    let condition = rule.condition.as_deref()?;
    examine(rule, condition, schemas, lists).unwrap_or_else(|error| Some(told(error)))
}

fn examine(
    rule: &Rule,
    condition: &str,
    schemas: Vec<SchemaRef>,
    lists: &Arc<Lists>,
) -> Result<Option<String>, DataFusionError> {
    let context = crate::sql::session_with_lists(lists.clone(), |config| config)?;
    for (step, schema) in rule.steps.iter().zip(schemas) {
        let name = TableReference::bare(step.name.as_str());
        context.register_table(name, Arc::new(MemTable::try_new(schema, vec![vec![]])?))?;
    }
    let steps: Vec<String> = rule.steps.iter().map(|step| format!("\"{}\"", step.name)).collect();
    let sql = format!("SELECT 1 FROM {} WHERE {condition}", steps.join(" CROSS JOIN "));
    let asked = futures::executor::block_on(context.state().create_logical_plan(&sql))?;
    if let Some(problem) = asked.inputs().iter().flat_map(|node| node.expressions()).find_map(|e| first(&e)) {
        return Ok(Some(problem));
    }
    let optimized = context.state().optimize(&asked)?;
    Ok(never(&asked, &optimized).then(|| "can never be true, so that nothing is ever found".into()))
}

fn first(expr: &datafusion::logical_expr::Expr) -> Option<String> {
    volatile(expr).unwrap_or_default().into_iter().next()
}
