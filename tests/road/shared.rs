//! Two analytics processes share the work: rules that look back find what one process alone finds, also when either is killed.
//! Needs the services.

use std::path::Path;
use std::time::Instant;

use vedette_detections::CaseEvent;

use crate::deployment::{Embedded, Staged};
use crate::program::{PATIENCE, Program, Settings, until};
use crate::recall::{self, copy_rules};

/// A rule without a state of its own, but with a subject, and one that waits for time to pass.
const OWN: [(&str, &str); 2] = [("grouped", GROUPED), ("unanswered", UNANSWERED)];

const GROUPED: &str = "
id: grouped
title: Somebody ran commands in pods
description: One finding a user and day.
severity: low
group_by: [cluster, user_name]
sql: |
  SELECT cluster, event_id, event_time, received_at, user_name FROM audit
  WHERE stage = 'ResponseStarted' AND subresource = 'exec'
summary: '{user_name} ran commands'
tests: []
";

const UNANSWERED: &str = "
id: unanswered
title: Somebody ran a command in a pod and deleted nothing afterwards
description: Two seconds are too short for anybody.
severity: low
kind: absence
window: 2s
group_by: [cluster, user_name]
sql: |
  SELECT cluster, event_id, event_time, received_at, user_name FROM audit
  WHERE stage = 'ResponseStarted' AND subresource = 'exec'
expects: |
  SELECT cluster, event_id, event_time, received_at, user_name FROM audit
  WHERE stage = 'ResponseComplete' AND verb = 'delete'
summary: '{user_name} ran a command'
tests: []
";

/// Times that one user runs a command, each an event of its own.
const COMMANDS: usize = 30;

/// The rules alone, and as little waiting as they bear.
fn with_rules(settings: Settings, folder: &Path) -> Settings {
    let folder = folder.join("rules");
    std::fs::create_dir(&folder).unwrap();
    copy_rules(&folder);
    for (id, text) in OWN {
        std::fs::write(folder.join(format!("{id}.yaml")), text).unwrap();
    }
    settings
        .with("ANALYTICS__LATENESS_SECONDS", 1)
        .with("DETECTIONS__BUILTIN", false)
        .with("DETECTIONS__PATHS", format!("['{}']", folder.display()))
}

/// The rules' firing cases, and commands of one user before, between and after them.
fn events() -> Vec<(String, CaseEvent)> {
    let mut events = recall::events();
    let (_, command) = events.iter().find(|(_, event)| event.base == "exec_started").unwrap().clone();
    let step = events.len() / COMMANDS + 1;
    for nth in 0..COMMANDS {
        events.insert((nth * (step + 1)).min(events.len()), another(&command, nth));
    }
    events
}

/// The nth command of the user.
fn another(command: &CaseEvent, nth: usize) -> (String, CaseEvent) {
    let mut event = command.clone();
    let mut body: serde_json::Value = serde_json::from_slice(&event.bytes).unwrap();
    body["auditID"] = format!("command-{nth}").into();
    event.bytes = serde_json::to_vec(&body).unwrap();
    ("/v1/audit/commands".into(), event)
}

const FOUND: &str = "SELECT rule_id, alert_id, count FROM alerts ORDER BY 1, 2";
const STORED: &str = "SELECT (SELECT count() FROM audit) + (SELECT count() FROM falco)";

/// What one process finds.
fn found_alone() -> Vec<String> {
    let mut place = Embedded::new();
    place.settings = with_rules(std::mem::take(&mut place.settings), place.path());
    let serve = place.serve();
    for (path, event) in events() {
        assert_eq!(serve.post(&path, event.bytes).0, 200);
    }
    for (rule, clusters) in [("user_from_new_address", 1), ("unanswered", 3)] {
        let told = format!("SELECT count(*) FROM alerts WHERE rule_id = '{rule}'");
        until("what waits for time is told", || place.settings.numbers(&told) == [clusters]);
    }
    serve.drain();
    place.settings.rows(FOUND)
}

#[track_caller]
fn agree(found: &[String], alone: &[String]) {
    let without = |all: &[String], others: &[String]| -> Vec<String> {
        all.iter().filter(|row| !others.contains(row)).cloned().collect()
    };
    let (more, missing) = (without(found, alone), without(alone, found));
    assert!(found == alone, "found besides: {more:?}; missing: {missing:?}");
}

/// Two processes of one group.
struct Pair<'a> {
    place: &'a Staged,
    processes: [Option<Program>; 2],
}

impl<'a> Pair<'a> {
    fn start(place: &'a Staged) -> Self {
        let mut pair = Self { place, processes: [None, None] };
        pair.begin(0);
        pair.begin(1);
        pair
    }

    /// Starts one, and waits until it has its share.
    fn begin(&mut self, which: usize) {
        let process = self.program(which);
        until("the process has a share", || process.get("/metrics").1.contains("vedette_rules_shared_owner"));
        self.processes[which] = Some(process);
    }

    /// Kills one, and starts it again. Who has what is decided anew while events come in.
    fn kill(&mut self, which: usize) {
        self.processes[which].take().unwrap().kill();
        self.processes[which] = Some(self.program(which));
    }

    fn program(&self, which: usize) -> Program {
        if which == 0 { self.place.analytics() } else { self.place.analytics_beside() }
    }

    fn sum(&self, metrics: &[&str]) -> f64 {
        let processes = self.processes.iter().flatten();
        processes.flat_map(|process| metrics.iter().map(|metric| process.metric(metric, &[]))).sum()
    }

    /// The one that runs the rules which look back.
    fn owner(&self) -> usize {
        until("one process is the owner", || self.sum(&["vedette_rules_shared_owner"]) == 1.0);
        let owns = |process: &Program| process.metric("vedette_rules_shared_owner", &[]) == 1.0;
        self.processes.iter().flatten().position(owns).unwrap()
    }

    /// What both have found once it is what it should be, or does not become so.
    fn found(self, expected: &[String]) -> Vec<String> {
        let started = Instant::now();
        while self.place.settings.rows(FOUND) != expected && started.elapsed() < PATIENCE {
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        let [one, two] = self.processes;
        one.unwrap().drain();
        two.unwrap().drain();
        self.place.settings.rows(FOUND)
    }
}

fn place() -> Option<Staged> {
    let mut place = Staged::new()?;
    place.settings = with_rules(std::mem::take(&mut place.settings), place.path());
    Some(place)
}

#[test]
fn two_processes_find_what_one_finds() {
    let Some(place) = place() else { return };
    let (ingest, pair) = (place.ingest(), Pair::start(&place));
    let events = events();
    let sent = events.len() as f64;
    for (path, event) in events {
        assert_eq!(ingest.post(&path, event.bytes).0, 200);
    }
    let evaluated = ["vedette_events_evaluated_total"];
    until("all are evaluated", || pair.sum(&evaluated) >= sent);
    for process in pair.processes.iter().flatten() {
        assert!(process.metric(evaluated[0], &[]) > 0.0, "events came in everywhere");
        assert!(process.metric("vedette_events_shared_total", &[]) > 0.0, "and were passed on");
    }
    let alone = found_alone();
    for rule in recall::RULES.into_iter().chain(OWN.map(|(id, _)| id)) {
        assert!(alone.iter().any(|row| row.starts_with(&format!("{rule},"))), "{rule}: {alone:?}");
    }
    agree(&pair.found(&alone), &alone);
    ingest.drain();
}

#[test]
fn kill_9_of_the_owner_and_of_the_other_changes_no_finding() {
    let Some(place) = place() else { return };
    let (ingest, mut pair) = (place.ingest(), Pair::start(&place));
    let events = events();
    let (third, two_thirds) = (events.len() / 3, events.len() * 2 / 3);
    for (nth, (path, event)) in events.into_iter().enumerate() {
        assert_eq!(ingest.post(&path, event.bytes).0, 200);
        if nth == third {
            // Evaluated, and perhaps not stored yet.
            let dealt_with = ["vedette_events_evaluated_total", "vedette_events_duplicate_total"];
            until("what was sent is evaluated", || pair.sum(&dealt_with) > nth as f64);
            pair.kill(pair.owner());
        } else if nth == two_thirds {
            until("some of it is stored", || place.services.number(STORED) as usize > third);
            pair.kill(1 - pair.owner());
        }
    }
    let alone = found_alone();
    agree(&pair.found(&alone), &alone);
    ingest.drain();
}

#[test]
fn a_new_rule_knows_what_both_have_stored_and_sees_what_comes_to_both() {
    let Some(place) = place() else { return };
    let file = place.path().join("rules/grouped.yaml");
    std::fs::remove_file(&file).unwrap();
    let (ingest, pair) = (place.ingest(), Pair::start(&place));
    let (_, command) = events().into_iter().find(|(_, event)| event.base == "exec_started").unwrap();
    let send = |numbers: std::ops::Range<usize>| {
        for (path, event) in numbers.map(|nth| another(&command, nth)) {
            assert_eq!(ingest.post(&path, event.bytes).0, 200);
        }
    };
    send(0..COMMANDS);
    until("all is stored", || place.services.number(STORED) as usize == COMMANDS);
    std::fs::write(&file, GROUPED).unwrap();
    let told = |count: usize| {
        let counted = "SELECT count FROM alerts WHERE rule_id = 'grouped'";
        until("the rule tells", || place.settings.rows(counted) == [count.to_string()]);
    };
    told(COMMANDS);
    send(COMMANDS..2 * COMMANDS);
    told(2 * COMMANDS);
    let [one, two] = pair.processes;
    one.unwrap().drain();
    two.unwrap().drain();
    assert_eq!(place.settings.rows("SELECT count FROM alerts WHERE rule_id = 'grouped'"), ["60"]);
    ingest.drain();
}
