//! What makes the rules another set, and what is refused of them.

use super::*;

const RULE: &str = "id: own
title: t
description: d
severity: low
response: [look]
sql: |
  SELECT cluster, event_id, event_time, user_name FROM audit WHERE stage = 'ResponseComplete'
summary: '{user_name} did it'
";

/// An overlay with these files, and none of the built-in rules.
fn overlay(files: &[(&str, &str)]) -> (tempfile::TempDir, Config) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(folder.path(), name, text);
    }
    let config = Config { builtin: false, overlay: Some(folder.path().to_owned()), ..Config::default() };
    (folder, config)
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn said(folder: &Path, config: &Config) -> Vec<String> {
    let errors = config.load().unwrap_err();
    errors.iter().map(|error| error.to_string().replace(&folder.display().to_string(), "")).collect()
}

#[test]
fn the_fingerprint_knows_every_name_and_whatever_is_read() {
    let (folder, config) = overlay(&[("rules/own.yaml", RULE), ("lists/a.txt", "x")]);
    let mut known = vec![config.fingerprint()];
    assert_eq!(config.fingerprint(), known[0]);
    let mut changed = |name: &str| {
        let now = config.fingerprint();
        assert!(!known.contains(&now), "{name}");
        known.push(now);
    };
    for name in
        ["lists/a.txt~", "notes", "rules/x.yamll", "rules/x.yaml", "lists/b.txt", "overrides.yml", "exeptions/e"]
    {
        write(folder.path(), name, "");
        changed(name);
    }
    fs::remove_file(folder.path().join("notes")).unwrap();
    changed("less notes");
    write(folder.path(), "lists/b.txt", "y");
    changed("lists/b.txt");
    fs::create_dir(folder.path().join("empty")).unwrap();
    changed("empty");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.path().join("gone"), folder.path().join("exceptions")).unwrap();
        changed("exceptions");
    }
    // Others' business.
    write(folder.path(), ".git/index", "");
    write(folder.path(), "events/new.json", "{}");
    let with_events = config.fingerprint();
    write(folder.path(), "events/new.json", "{\"a\": 1}");
    write(folder.path(), ".git/index", "x");
    assert_eq!(config.fingerprint(), with_events);
}

#[test]
fn rules_whose_findings_would_be_wrong_or_lost_are_refused_with_their_place() {
    let (folder, config) = overlay(&[("rules/own.yaml", RULE)]);
    assert_eq!(config.load().unwrap().rules.len(), 1);
    let new_terms = "summary: s\nkind: new_terms\nwindow: 30d\ngroup_by: [cluster, user_name]";
    let absence = "summary: s\nkind: absence\nwindow: 1h\ngroup_by: [cluster, usr_name]";
    let step = "summary: s\nkind: sequence\nwindow: 1h\ngroup_by: [cluster]\nsteps:\n  - name: one\n    sql: SELECT cluster, \
                event_id, event_time FROM audit WHERE stage = 'ResponseComplete'";
    let summary = "summary: '{user_name} did it'";
    let sql = RULE.lines().skip_while(|line| !line.starts_with("sql")).take(2).collect::<Vec<_>>().join("\n");
    for (old, new, want) in [
        (
            "summary:",
            "group_by: [cluster, usr_name]\nsummary:",
            ":6: rule own: sql: does not select usr_name, which group_by",
        ),
        ("event_id, ", "", ":6: rule own: sql: does not select event_id"),
        ("severity: low", "severity: low\nrisk: 200", ":5: rule own: risk: 100 is the most"),
        ("{user_name}", "{user_nam}", ":8: rule own: summary: {user_nam} is not selected"),
        ("user_name FROM", "user_nam FROM", ":6: rule own: sql: "),
        ("stage =", "now() > event_time AND stage =", ":6: rule own: sql: now() depends on when it runs"),
        ("stage =", "verb = NULL AND stage =", "never be true"),
        ("stage =", "in_list('robots', user_name) AND stage =", ":6: rule own: sql: "),
        (summary, "summary: s\nkind: scheduled\nschedule: 0 6 * * *\ngroup_by: [usr_name]", "does not select usr_name"),
        (summary, "summary: s\nkind: scheduled\nschedule: bogus", ":10: rule own: schedule: "),
        (summary, absence, "does not select usr_name"),
        (summary, new_terms, ": rule own: terms: a rule of kind new_terms needs it"),
        (summary, "summary: s\nschedule: bogus", ":9: rule own: schedule: a rule of kind match has no use for it"),
    ] {
        assert!(RULE.contains(old), "{old}");
        write(folder.path(), "rules/own.yaml", &RULE.replace(old, new));
        let said = said(folder.path(), &config);
        let found = said.iter().any(|line| line.starts_with("/rules/own.yaml:") && line.contains(want));
        assert!(found, "{new}: {said:?} has no {want:?}");
        write(folder.path(), "overrides.yaml", "own: {enabled: false}");
        assert!(config.load().is_ok(), "what does not run may be wrong");
        fs::remove_file(folder.path().join("overrides.yaml")).unwrap();
    }
    write(folder.path(), "rules/own.yaml", &RULE.replace(&sql, step).replace(summary, ""));
    let said = said(folder.path(), &config);
    assert_eq!(said, ["/rules/own.yaml:10: rule own: steps: a sequence has two at least"]);
}

#[test]
fn what_is_advice_keeps_nobody_from_running_a_rule() {
    // No tests, no response, a file of another name, no condition on the stage.
    let rule = RULE.replace("[look]", "[]").replace("stage = 'ResponseComplete'", "verb = 'get'");
    let (_folder, config) = overlay(&[("rules/other.yaml", &rule)]);
    let set = config.load().unwrap();
    let problems = crate::lint(&set.rules[0], &set.lists);
    assert!(problems.len() >= 5 && problems.iter().all(|problem| !problem.fault), "{problems:?}");
}

#[test]
fn rules_are_seen_as_written_and_as_they_run() {
    let exception = "- {rule: own, where: user_name = 'x', reason: r, expires: never}\n";
    let (folder, config) = overlay(&[("rules/own.yaml", RULE), ("exceptions/e.yaml", exception)]);
    let all = config.load_unfit(Vec::new()).unwrap();
    assert!(!all.written[0].sql.contains("'x'") && all.set.rules[0].sql.contains("'x'"));
    // In place of a configured one.
    let mut other = all.written[0].clone();
    other.title = "another".into();
    let all = config.load_unfit(vec![other]).unwrap();
    assert_eq!((all.written.len(), all.set.rules.len()), (1, 1));
    assert!(all.set.rules[0].title == "another" && all.set.rules[0].sql.contains("'x'"));
    // What is wrong with it is not said here.
    write(folder.path(), "rules/own.yaml", &RULE.replace("severity: low", "severity: low\nrisk: 200"));
    assert!(config.load_unfit(Vec::new()).is_ok() && config.load().is_err());
}
