//! Rules that look back remember across kill -9: the same findings as if nothing had happened.

use vedette_detections::{CaseEvent, builtin, case_events};

use crate::deployment::Embedded;
use crate::program::until;

const FINDINGS: &str = "SELECT rule_id, alert_id, count FROM alerts \
    WHERE rule_id IN ('secret_bulk_read', 'exec_then_shell', 'granted_then_deployed') ORDER BY 1, 2";

/// The firing cases of some rules, one after the other.
fn events() -> Vec<CaseEvent> {
    let rules = builtin().unwrap();
    let firing = ["secret_bulk_read", "exec_then_shell", "granted_then_deployed"].iter().flat_map(|id| {
        let rule = rules.iter().find(|rule| rule.id == *id).unwrap();
        case_events(&rule.tests[0], rule).unwrap()
    });
    firing.collect()
}

/// Sends the events one by one; after these, once they are stored, the program is killed and started anew.
fn findings(kills: &[usize]) -> Vec<String> {
    let place = Embedded::new();
    let mut serve = place.serve();
    for (nth, event) in events().into_iter().enumerate() {
        let body = String::from_utf8(event.bytes).unwrap();
        assert_eq!(serve.post(&format!("/v1/{}/prod", event.source), body).0, 200);
        if kills.contains(&nth) {
            let stored = "SELECT (SELECT count(*) FROM audit) + (SELECT count(*) FROM falco)";
            until("events are stored", || place.settings.numbers(stored) == [nth as u64 + 1]);
            serve.kill();
            serve = place.serve();
        }
    }
    serve.drain();
    place.settings.rows(FINDINGS)
}

#[test]
fn rules_that_look_back_remember_across_kill_9() {
    let undisturbed = findings(&[]);
    assert_eq!(undisturbed.len(), 3, "{undisturbed:?}");
    let last = events().len() - 1;
    assert_eq!(findings(&[4, 13, 14, 15, last - 1]), undisturbed);
}
