//! Where several processes share the work: which events are passed on, and that whoever runs the rules needs no others.

use std::collections::BTreeSet;

use vedette_analytics::engine::{Engine, Options, Part};
use vedette_detections::{Rule, builtin};

use crate::kinds::{END, counted, decode, history, lake};

/// A rule of each kind, two over derived tables and Falco's events among them.
const RULES: [&str; 5] = [
    "secret_bulk_read",
    "exec_then_shell",
    "granted_then_deployed",
    "user_from_new_address",
    "namespace_without_network_policy",
];

fn rule(id: &str) -> Rule {
    builtin().unwrap().into_iter().find(|rule| rule.id == id).unwrap()
}

async fn engine(rules: Vec<Rule>, part: Part) -> Engine {
    Engine::with(rules, Options { part, ..Options::default() }).await.unwrap()
}

#[tokio::test]
async fn events_that_are_passed_on_are_all_that_rules_need_and_not_all() {
    let rules: Vec<Rule> = RULES.into_iter().chain(["pod_exec"]).map(rule).collect();
    let mut events: Vec<_> = rules.iter().flat_map(history).collect();
    events.sort_by_key(|event| event.at);
    let mut whole = engine(rules.clone(), Part::All).await;
    let mut filters = engine(rules.clone(), Part::Filters).await;
    let mut groups = engine(rules, Part::Groups).await;
    assert_eq!((filters.len(), groups.len()), (RULES.len() + 1, RULES.len()));
    let (mut expected, mut found, mut passed_on) = (Vec::new(), Vec::new(), 0);
    for event in &events {
        let (tables, now) = (decode(std::slice::from_ref(event)), event.at.unwrap());
        expected.extend(whole.evaluate(&tables, now).await);
        found.extend(filters.evaluate(&tables, now).await);
        if !filters.wanted().is_empty() {
            passed_on += 1;
            found.extend(groups.evaluate(&tables, now).await);
        }
    }
    for (engine, told) in [(&mut whole, &mut expected), (&mut groups, &mut found)] {
        told.extend(engine.pass(END, END).await);
        told.extend(engine.repeats());
    }
    let expected = counted(&expected);
    assert_eq!(counted(&found), expected);
    assert!(!expected.is_empty() && passed_on > 0 && passed_on < events.len(), "{passed_on} of {}", events.len());
}

#[tokio::test]
async fn an_event_from_the_store_is_left_out_when_it_comes_again() {
    let mut rule = rule("secret_bulk_read");
    rule.sql = "SELECT cluster, user_name, count(*) AS secrets FROM audit \
                WHERE stage = 'ResponseComplete' AND resource = 'secrets' GROUP BY cluster, user_name HAVING count(*) >= 5"
        .into();
    let events = &history(&rule)[..4];
    let now = events.iter().filter_map(|event| event.at).max().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), events).await;
    let mut groups = engine(vec![rule], Part::Groups).await;
    assert!(groups.learn(&store, now).await.unwrap().is_empty(), "four are too few");
    assert!(groups.evaluate(&decode(events), now).await.is_empty(), "they are the same four");
    groups.forget_learned();
    let found = groups.evaluate(&decode(events), now).await;
    assert_eq!(
        found.iter().map(|finding| finding.rule_id.as_str()).collect::<BTreeSet<_>>(),
        ["secret_bulk_read"].into()
    );
}
