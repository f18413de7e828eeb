//! The rules that run together, and the lists that they look into.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::lists::Lists;
use crate::rule::Rule;

/// Rules with their lists: what is live at one time.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    pub rules: Vec<Rule>,
    pub lists: Arc<Lists>,
    /// What whoever runs them should know, such as exceptions that have expired.
    pub notes: Vec<String>,
}

impl Ruleset {
    /// The rules that are not in `old` as they are here, or look into a list that is another there.
    pub fn changed_since(&self, old: &Ruleset) -> Vec<Rule> {
        let before: BTreeMap<&str, &Rule> = old.rules.iter().map(|rule| (rule.id.as_str(), rule)).collect();
        let other_lists = self.lists != old.lists;
        let looks_into_lists = |rule: &Rule| {
            let condition = rule.condition.as_deref().unwrap_or_default();
            rule.selects().iter().any(|(_, sql)| sql.contains("in_list")) || condition.contains("in_list")
        };
        let same = |rule: &Rule| {
            before.get(rule.id.as_str()).is_some_and(|old| **old == *rule) && !(other_lists && looks_into_lists(rule))
        };
        self.rules.iter().filter(|rule| !same(rule)).cloned().collect()
    }
}
