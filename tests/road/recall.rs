//! Rules that look back remember across kill -9: the same findings as if nothing had happened.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vedette_detections::{CaseEvent, Rule, RuleKind, builtin, case_events};

use crate::deployment::Embedded;
use crate::program::{Program, Settings, http, until};

/// Rules of every kind that looks back on rows, and one that does not.
pub const RULES: [&str; 6] = [
    "secret_bulk_read",
    "exec_then_shell",
    "granted_then_deployed",
    "access_probed",
    "user_from_new_address",
    "pod_exec",
];

fn rules() -> Vec<Rule> {
    let all = builtin().unwrap();
    let one = |id: &&str| all.iter().find(|rule| rule.id == **id).unwrap_or_else(|| panic!("no rule {id}")).clone();
    RULES.iter().map(one).collect()
}

/// The firing cases of the rules, each as a cluster of its own, with the path to send it to.
pub fn events() -> Vec<(String, CaseEvent)> {
    let firing = |(cluster, rule): (usize, Rule)| {
        let case = rule.tests.iter().find(|test| !test.expect.is_empty()).unwrap();
        let events = case_events(case, &rule).unwrap();
        events.into_iter().map(move |event| (format!("/v1/{}/cluster-{cluster}", event.source), event))
    };
    rules().into_iter().enumerate().flat_map(firing).collect()
}

/// A place where these rules run, and no others: it starts at once.
fn place() -> Embedded {
    let mut place = Embedded::new();
    let folder = place.path().join("rules");
    std::fs::create_dir(&folder).unwrap();
    copy_rules(&folder);
    place.settings = std::mem::take(&mut place.settings)
        .with("ANALYTICS__LATENESS_SECONDS", 1)
        .with("DETECTIONS__BUILTIN", false)
        .with("DETECTIONS__PATHS", format!("['{}']", folder.display()));
    place
}

/// Puts the rules into a folder.
pub fn copy_rules(folder: &Path) {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/detections/rules");
    for area in std::fs::read_dir(shipped).unwrap() {
        for id in RULES {
            let file = area.as_ref().unwrap().path().join(format!("{id}.yaml"));
            if file.exists() {
                std::fs::copy(&file, folder.join(format!("{id}.yaml"))).unwrap();
            }
        }
    }
}

/// What is told in the end. New terms wait for time to pass.
fn told(settings: &Settings, serve: Program) -> Vec<String> {
    let waiting = "SELECT count(*) FROM alerts WHERE rule_id = 'user_from_new_address'";
    until("new terms are told", || settings.numbers(waiting) != [0]);
    serve.drain();
    settings.rows("SELECT rule_id, alert_id, count FROM alerts ORDER BY 1, 2")
}

/// Sends the events one by one; after these, once they are stored, the program is killed and started anew.
fn findings(kills: &[usize]) -> Vec<String> {
    let place = place();
    let mut serve = place.serve();
    for (nth, (path, event)) in events().into_iter().enumerate() {
        assert_eq!(serve.post(&path, event.bytes).0, 200);
        if kills.contains(&nth) {
            let stored = "SELECT (SELECT count(*) FROM audit) + (SELECT count(*) FROM falco)";
            until("events are stored", || place.settings.numbers(stored) == [nth as u64 + 1]);
            serve.kill();
            serve = place.serve();
        }
    }
    told(&place.settings, serve)
}

#[test]
fn rules_that_look_back_remember_across_kill_9() {
    let undisturbed = findings(&[]);
    let found = |rule: &&Rule| undisturbed.iter().any(|row| row.starts_with(&format!("{},", rule.id)));
    let rules = rules();
    assert!(rules.iter().all(|rule| found(&rule)), "{undisturbed:?}");
    assert!(rules.iter().any(|rule| rule.kind == RuleKind::NewTerms));
    let last = events().len() - 1;
    assert_eq!(findings(&[4, 13, 14, 15, last - 1]), undisturbed);

    // VEDETTE_TEST_TRIALS=100 for as many as one has time for.
    let trials = std::env::var("VEDETTE_TEST_TRIALS").ok().and_then(|count| count.parse().ok()).unwrap_or(2);
    for seed in 0..trials {
        assert_eq!(killed_at_random(seed), undisturbed, "seed {seed}");
    }
}

/// Sends the events while the program is killed again and again, at moments that nothing but chance chooses.
fn killed_at_random(seed: u64) -> Vec<String> {
    let place = place();
    let mut serve = place.serve();
    let address = serve.address();
    let sent = AtomicBool::new(false);
    let mut chance = Chance(seed);
    let serve = std::thread::scope(|scope| {
        scope.spawn(|| {
            for (path, event) in events() {
                // As a sender does: until it is taken.
                while http(reqwest::Method::POST, &format!("http://{address}{path}"), event.bytes.clone()).0 != 200 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            sent.store(true, Ordering::SeqCst);
        });
        while !sent.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(chance.below(700)));
            serve.kill();
            serve = place.serve();
        }
        serve
    });
    // The last of them may be stored or not.
    std::thread::sleep(Duration::from_millis(chance.below(1_500)));
    serve.kill();
    told(&place.settings, place.serve())
}

/// Numbers that look random and come again with their seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
