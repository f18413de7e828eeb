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
        // SQL knows a function in any case. What only looks like it is made ready anew for nothing, no more.
        let names_it = |sql: &str| sql.to_ascii_lowercase().contains("in_list");
        let looks_into_lists = |rule: &Rule| {
            rule.condition.as_deref().is_some_and(names_it) || rule.selects().iter().any(|(_, sql)| names_it(sql))
        };
        let same = |rule: &Rule| {
            before.get(rule.id.as_str()).is_some_and(|old| **old == *rule) && !(other_lists && looks_into_lists(rule))
        };
        self.rules.iter().filter(|rule| !same(rule)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &str = "{id: a, title: t, description: d, severity: low, summary: s";

    fn set(rule: &str, entry: &str) -> Ruleset {
        let mut lists = Lists::default();
        lists.insert("admins", vec![entry.into()]).unwrap();
        let rules = vec![serde_saphyr::from_str(&format!("{FIELDS}, {rule}}}")).unwrap()];
        Ruleset { rules, lists: Arc::new(lists), notes: Vec::new() }
    }

    #[test]
    fn rules_that_look_into_a_list_change_with_it_however_they_spell_it() {
        for (rule, changes) in [
            ("sql: \"SELECT 1 FROM audit WHERE in_list('admins', user_name)\"", true),
            ("sql: \"SELECT 1 FROM audit WHERE IN_LIST('admins', user_name)\"", true),
            ("sql: \"SELECT 1 FROM audit GROUP BY cluster HAVING NOT In_List('admins', user_name)\"", true),
            ("sql: 'SELECT 1 FROM audit WHERE \"in_list\" (''admins'', user_name)'", true),
            ("kind: sequence, where: \"NOT IN_LIST('admins', b.user_name)\"", true),
            ("kind: sequence, steps: [{name: a, sql: \"SELECT 1 FROM audit WHERE IN_LIST('admins', name)\"}]", true),
            ("kind: absence, sql: SELECT 1, expects: \"SELECT 1 FROM audit WHERE IN_LIST('admins', name)\"", true),
            ("sql: SELECT 1 FROM audit WHERE verb IN ('list')", false),
        ] {
            let changed = set(rule, "eve").changed_since(&set(rule, "mallory"));
            assert_eq!(!changed.is_empty(), changes, "{rule}");
            assert!(set(rule, "eve").changed_since(&set(rule, "eve")).is_empty(), "{rule}");
        }
    }
}
