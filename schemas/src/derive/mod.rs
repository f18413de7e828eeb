//! The derived tables: containers, policy rules and subjects out of a batch of audit events, once for all rules.

mod body;
mod cells;
mod container;
mod role;
mod source;
mod tolerant;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use arrow::record_batch::RecordBatch;

use crate::decode::mend_surrogates;
use crate::table::Table;
use cells::Rows;
use source::{Object, Source};

/// The rows that a batch of audit events gives to each derived table.
#[derive(Clone, Debug)]
pub struct Derived {
    pub containers: RecordBatch,
    pub role_rules: RecordBatch,
    pub role_subjects: RecordBatch,
}

impl Derived {
    /// Each with its table.
    pub fn tables(self) -> [(Table, RecordBatch); 3] {
        [
            (Table::Containers, self.containers),
            (Table::RoleRules, self.role_rules),
            (Table::RoleSubjects, self.role_subjects),
        ]
    }
}

/// A batch of audit events by its table, and what is derived from it.
///
/// # Panics
///
/// If the batch is not in the audit table's schema.
pub fn tables(audit: RecordBatch) -> BTreeMap<Table, RecordBatch> {
    let derived = derive(&audit).tables();
    derived.into_iter().chain([(Table::Audit, audit)]).collect()
}

/// Reads the objects written by the events of `audit`, a batch in the audit table's schema.
///
/// An event counts if its verb is create, update or patch and its resource is a pod, a pod template or RBAC. The body is
/// the response's object, which shows what admission made of it; else the request's. Bodies that are another object (the
/// Status of a refused write, a JSON Patch) give no rows, and fields of the wrong type count as absent.
///
/// # Panics
///
/// If the batch is not in the audit table's schema.
pub fn derive(audit: &RecordBatch) -> Derived {
    let mut containers = Rows::new(Table::Containers);
    let mut role_rules = Rows::new(Table::RoleRules);
    let mut role_subjects = Rows::new(Table::RoleSubjects);
    if let Some(source) = Source::of(audit) {
        for mut write in source.writes() {
            let texts = write.bodies.map(|(_, text)| text.map(mend_surrogates));
            for ((_, body), text) in write.bodies.iter_mut().zip(&texts) {
                *body = text.as_deref();
            }
            match write.object {
                Object::Pods(holder) => container::append(&write, holder, &mut containers),
                Object::Role(kind) => role::append_rules(&write, kind, &mut role_rules),
                Object::Binding(kind) => role::append_subjects(&write, kind, &mut role_subjects),
            }
        }
    }
    Derived {
        containers: containers.finish(audit),
        role_rules: role_rules.finish(audit),
        role_subjects: role_subjects.finish(audit),
    }
}
