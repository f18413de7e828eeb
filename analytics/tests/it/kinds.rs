//! Kinds of rules that look at more than one row: the same findings however events are batched and ordered.

use std::collections::BTreeSet;

use vedette_analytics::engine::{Engine, check};
use vedette_detections::{RuleKind, builtin};

#[tokio::test]
async fn the_packs_rules_of_every_kind_are_well() {
    let mut kinds = BTreeSet::new();
    for rule in builtin().unwrap().into_iter().filter(|rule| rule.kind != RuleKind::Match) {
        kinds.insert(rule.kind.name());
        for outcome in check::run(&rule).await.unwrap() {
            assert!(outcome.passed(), "{}: {outcome:#?}", rule.id);
        }
        Engine::new(vec![rule]).await.unwrap();
    }
    assert_eq!(kinds.len(), 4, "{kinds:?}");
}
