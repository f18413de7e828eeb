//! What a store holds, as one run must agree with another: the ids of every table's rows, each as often as it is there.

use std::collections::BTreeMap;

use crate::program::Settings;

/// A table, and what says which of its rows are which.
const IDS: [(&str, &str); 6] = [
    ("audit", "event_id"),
    ("falco", "event_id"),
    ("alerts", "alert_id"),
    (
        "containers",
        "event_id || ' ' || container_kind || ' ' || coalesce(container_name, '') || ' ' || coalesce(image, '')",
    ),
    ("role_rules", "event_id || ' ' || CAST(rule_index AS TEXT)"),
    ("role_subjects", "event_id || ' ' || CAST(subject_index AS TEXT)"),
];

/// For each table how often each id is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts(BTreeMap<&'static str, BTreeMap<String, u64>>);

impl Facts {
    /// Asks the program.
    pub fn of(settings: &Settings) -> Self {
        Self::ask(|table, id| settings.rows(&format!("SELECT {id} AS id FROM {table}")))
    }

    /// Asks with a function that answers the ids of a table's rows.
    pub fn ask(ids: impl Fn(&str, &str) -> Vec<String>) -> Self {
        let table = |(table, id): (&'static str, &'static str)| {
            let mut counts = BTreeMap::new();
            ids(table, id).into_iter().for_each(|id| *counts.entry(id).or_default() += 1);
            (table, counts)
        };
        Self(IDS.into_iter().map(table).collect())
    }

    pub fn rows(&self, table: &str) -> u64 {
        self.0[table].values().sum()
    }

    /// Asserts that every table has the rows of the other run, each once.
    #[track_caller]
    pub fn agree(&self, undisturbed: &Facts) {
        let mut differences = Vec::new();
        for (table, here) in &self.0 {
            let there = &undisturbed.0[table];
            let repeated = here.iter().filter(|(id, count)| there.get(*id).is_some_and(|once| *count > once)).count();
            let missing = there.keys().filter(|id| !here.contains_key(*id)).count();
            let strange = here.keys().filter(|id| !there.contains_key(*id)).count();
            if repeated + missing + strange > 0 {
                differences.push(format!(
                    "{table}: {missing} missing, {repeated} repeated, {strange} strange of {}",
                    there.len()
                ));
            }
        }
        assert!(differences.is_empty(), "{differences:#?}");
    }

    /// Asserts that no id of these tables is there twice.
    #[track_caller]
    pub fn are_unique(&self, tables: &[&str]) {
        for table in tables {
            let twice: Vec<_> = self.0[table].iter().filter(|(_, count)| **count > 1).collect();
            assert!(twice.is_empty(), "{table}: {} ids more than once, such as {:?}", twice.len(), twice[0]);
        }
    }
}
