//! What an overlay may say, and what is wrong with one.

use super::*;

const RULE: &str = "
id: reads
title: t
description: d
severity: high
response: [look]
sql: SELECT cluster, event_id, event_time, user_name FROM audit WHERE stage = 'ResponseComplete' OR stage IS NULL
summary: s
";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn rules() -> Vec<Rule> {
    let sequence = RULE.replace("id: reads", "id: steps\nkind: sequence\nwindow: 1h\ngroup_by: [cluster]");
    let sql = sequence.lines().find(|line| line.starts_with("sql: ")).unwrap().to_owned();
    let step = |name: &str| format!("  - {{name: {name}, sql: \"{}\"}}", sql.trim_start_matches("sql: "));
    let sequence =
        sequence.replace(&sql, &format!("steps:\n{}\n{}\nwhere: a.user_name = b.user_name", step("a"), step("b")));
    let report = RULE.replace("id: reads", "id: daily\nkind: scheduled\nschedule: 0 6 * * *");
    [RULE, &sequence, &report].iter().map(|text| serde_saphyr::from_str(text).unwrap()).collect()
}

fn applied(files: &[(&str, &str)]) -> Result<Ruleset, Vec<String>> {
    let folder = folder(files);
    let said = |errors: Vec<LoadError>| {
        let shown = |error: LoadError| error.to_string().replace(&folder.path().display().to_string(), "");
        errors.into_iter().map(shown).collect::<Vec<_>>()
    };
    Overlay::load(folder.path()).and_then(|overlay| overlay.apply(rules(), &["off".into()])).map_err(said)
}

#[test]
fn exceptions_are_written_into_the_sql_of_every_kind() {
    let exceptions = "
- {rule: reads, where: \"user_name = 'ci' OR user_agent LIKE 'x%'\", reason: a robot, expires: 2100-01-31}
- {rule: steps, where: b.user_name = 'ci', reason: a robot, expires: never}
- {rule: daily, where: user_name = 'ci', reason: a robot, expires: '2100-01-31T12:00:00+01:00'}
- {rule: \"off\", where: user_name = 'ci', reason: a rule that is off, expires: never}
";
    let set = applied(&[("exceptions/ci.yaml", exceptions), (".git/x", ""), ("README.md", "")]).unwrap();
    assert_eq!(
        set.rules[0].sql,
        "SELECT cluster, event_id, event_time, user_name FROM audit WHERE (stage = 'ResponseComplete' OR stage IS NULL) \
         AND ((user_name = 'ci' OR user_agent LIKE 'x%') AND event_time < CAST('2100-02-01T00:00:00.000000Z' AS TIMESTAMP \
         WITH TIME ZONE)) IS NOT TRUE"
    );
    assert_eq!(
        set.rules[1].condition.as_deref(),
        Some("(a.user_name = b.user_name) AND ((b.user_name = 'ci')) IS NOT TRUE")
    );
    assert!(set.rules[2].sql.ends_with(
        ") AS findings WHERE ((user_name = 'ci') AND period_end() <= CAST('2100-01-31T11:00:00.000000Z' AS TIMESTAMP WITH TIME \
         ZONE)) IS NOT TRUE"
    ));
    assert_eq!(set.notes, Vec::<String>::new());
}

#[test]
fn overrides_lists_and_rules_of_ones_own() {
    let own = RULE.replace("id: reads", "id: own").replace("stage IS NULL", "in_list('robots', user_name)");
    let set = applied(&[
        ("lists/robots.txt", "# our robots\nci\n\nbuild-*  # any of them\n10.0.0.0/8\n"),
        ("rules/area/own.yaml", &own),
        (
            "overrides.yaml",
            "reads: {severity: low, risk: 7, group_by: [cluster, user_name], suppress: 1h, reason: noisy}\nsteps: {enabled: false}\n",
        ),
        (
            "exceptions/e.yaml",
            "- {rule: daily, where: \"in_list('robots', user_name)\", reason: r, expires: 2001-01-01}\n",
        ),
    ])
    .unwrap();
    let reads = &set.rules[0];
    assert_eq!(
        (reads.severity, reads.risk, reads.suppress.unwrap().to_string()),
        (Severity::Low, Some(7), "1h".into())
    );
    assert_eq!(reads.group_by, ["cluster", "user_name"]);
    assert_eq!(set.rules.iter().map(|rule| rule.id.as_str()).collect::<Vec<_>>(), ["reads", "daily"]);
    assert_eq!(set.lists.names().collect::<Vec<_>>(), ["robots"]);
    let [note] = &set.notes[..] else { panic!("{:?}", set.notes) };
    assert!(note.contains("exceptions/e.yaml:1:") && note.contains("for daily has expired"), "{note}");
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let one = |file: &str, text: &str| {
        let errors = applied(&[(file, text)]).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.into_iter().next().unwrap()
    };
    let exception = |rule: &str, condition: &str, rest: &str| {
        one("exceptions/e.yaml", &format!("\n- rule: {rule}\n  where: \"{condition}\"\n  {rest}\n"))
    };
    let good = "reason: r\n  expires: never";
    for (said, want) in [
        (
            exception("reeds", "user_name = 'x'", good),
            "/exceptions/e.yaml:2:9: there is no rule reeds; did you mean reads?",
        ),
        (exception("reads", "user_nam = 'x'", good), "/exceptions/e.yaml:3:10: where, for reads: "),
        (exception("reads", "user_nam = 'x'", good), "user_name"),
        (exception("reads", "user_name = 'x') OR (1 = 1", good), "for reads: sql parser error: Expected"),
        (exception("reads", "true", good), "e.yaml:3:10: where, for reads: names no column"),
        (exception("steps", "1 = 1", good), "e.yaml:3:10: where, for steps: names no column"),
        (exception("daily", "TRUE", good), "for daily: names no column"),
        (
            exception("reads", "event_time < now()", good),
            "e.yaml:3:10: where, for reads: now() depends on when it runs",
        ),
        (exception("steps", "b.event_time < CURRENT_TIMESTAMP", good), "for steps: current_timestamp() depends on"),
        (exception("daily", "random() < 0.5 AND user_name = 'x'", good), "for daily: random() depends on when"),
        (exception("reads", "user_name IN (SELECT user_name FROM audit)", good), "for reads: no subqueries"),
        (exception("steps", "EXISTS (SELECT 1 FROM audit WHERE name = b.name)", good), "for steps: no subqueries"),
        (exception("reads", "user_name = 'x' OR cluster = (SELECT 'a')", good), "for reads: no subqueries"),
        (exception("reads", "count(*) > 1 AND user_name = 'x'", good), "e.yaml:3:10: where, for reads: "),
        (exception("steps", "b.user_name", good), "e.yaml:3:10: where, for steps: where: "),
        (exception("steps", "no_such_function(b.user_name)", good), "for steps: where: "),
        (exception("reads", "in_list('robots', user_name)", good), "no list \"robots\""),
        (exception("reads", "user_name", good), "for reads: "),
        (exception("steps", "user_name = 'x'", good), "no column user_name of a step; did you mean"),
        (exception("steps", "b.user_nam = 'x'", good), "no column b.user_nam of a step; did you mean b.user_name"),
        (exception("daily", "verb = 'x'", good), "for daily: "),
        (exception("reads", "user_name = 'x'", "reason: ' '\n  expires: never"), "e.yaml:4:11: reason: empty"),
        (exception("reads", "user_name = 'x'", "reason: r"), "expires"),
        (exception("reads", "user_name = 'x'", "reason: r\n  expires: soon"), "\"soon\" is not a day"),
        (
            one("overrides.yaml", "reds: {enabled: false}"),
            "/overrides.yaml:1:7: reds: there is no rule reds; did you mean reads?",
        ),
        (one("overrides.yaml", "reads: {risk: 101}"), "/overrides.yaml:1:8: reads: risk: 100 is the most"),
        (
            one("overrides.yaml", "\nreads: {suppress: 1h}"),
            "/overrides.yaml:2:8: reads: suppress: of what subject? group_by",
        ),
        (one("overrides.yaml", "reads: {group_by: [cluster, usr_name]}"), "reads: sql: does not select usr_name"),
        (one("overrides.yaml", "reads: {group_by: [user_name]}"), "reads: group_by: cluster must be among them"),
        (
            one("overrides.yaml", "\"off\": {enabled: true}"),
            "/overrides.yaml:1:8: off: enabled here, but off by detections.disabled",
        ),
        (one("overrides.yaml", "reads: {severety: low}"), "severety"),
        (one("lists/robots.txt", "# ours\nci\n\n10.0.0.0/33"), "/lists/robots.txt:4: list robots: "),
        (one("lists/robots.txt", "ci\n10.4.0/24\n"), "/lists/robots.txt:2: list robots: \"10.4.0/24\" is neither"),
        (one("rules/x.yamll", RULE), "/rules/x.yamll: nothing reads it: rules are files that end in .yaml"),
        (one("lists/robots.yaml", "- x"), "/lists/robots.yaml: nothing reads it: files here end in .txt"),
        (one("exeptions/e.yaml", ""), "/exeptions: nothing reads it: an overlay has"),
        (one("exeptions/e.yaml", ""), "did you mean exceptions?"),
        (one("rules/bad.yaml", "id: ["), "/rules/bad.yaml:"),
    ] {
        assert!(said.contains(want), "{said:?} has no {want:?}");
    }
    assert!(Overlay::load(Path::new("/no/such/overlay")).is_err());
}

#[test]
fn lists_are_read_whatever_editor_wrote_them() {
    let text = "\u{feff}10.0.0.1\r\nci\t# builds\r\n\t#nobody\r\na#b\r\n10.2.0.0/16\u{a0}# office\r\n";
    let set = applied(&[("lists/robots.txt", text)]).unwrap();
    let robots = set.lists.get("robots").unwrap();
    for (value, inside) in [
        ("10.0.0.1", true),
        ("ci", true),
        ("a#b", true),
        ("10.2.3.4", true),
        ("#nobody", false),
        ("ci\t# builds", false),
    ] {
        assert_eq!(robots.contains(value), inside, "{value}");
    }
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_not_nothing() {
    for name in ["rules", "lists", "exceptions", "overrides.yaml", "lists/robots.txt", "rules/a.yaml", "rules/area"] {
        let folder = folder(&[("rules/own.yaml", &RULE.replace("id: reads", "id: own")), ("lists/a.txt", "x")]);
        let link = folder.path().join(name);
        let there = fs::symlink_metadata(&link).is_ok();
        if there {
            fs::remove_dir_all(&link).unwrap();
        }
        std::os::unix::fs::symlink(folder.path().join("gone"), &link).unwrap();
        let errors = Overlay::load(folder.path()).unwrap_err();
        assert_eq!(errors.len(), 1, "{name}: {errors:?}");
        assert!(errors[0].to_string().starts_with(&link.display().to_string()), "{name}: {errors:?}");
    }
}

#[test]
fn what_is_wrong_with_a_rule_is_not_its_exceptions_fault() {
    let mut wrong: Vec<Rule> = rules();
    wrong[0].sql = wrong[0].sql.replace("user_name", "user_nam");
    let exception = "- {rule: reads, where: user_name = 'x', reason: r, expires: never}\n";
    let folder = folder(&[("exceptions/e.yaml", exception), ("overrides.yaml", "reads: {severity: low}\n")]);
    assert!(Overlay::load(folder.path()).unwrap().apply(wrong, &[]).is_ok());
}

#[test]
fn a_rule_may_have_many_exceptions() {
    let line = |rule: &str, number: usize| {
        let column = if rule == "steps" { "b.user_name" } else { "user_name" };
        format!(
            "- {{rule: {rule}, where: \"{column} = 'u{number}' OR {column} = 'v'\", reason: r, expires: 2100-01-01}}\n"
        )
    };
    let lines: String = (0..60).flat_map(|number| ["reads", "steps", "daily"].map(|rule| line(rule, number))).collect();
    let set = applied(&[("exceptions/e.yaml", &lines)]).unwrap();
    assert!(set.rules[0].sql.contains("'u59'") && set.rules[1].condition.as_ref().unwrap().contains("'u59'"));
    assert!(set.rules[2].sql.contains("'u59'") && set.rules[2].sql.matches("SELECT *").count() == 1);
    // Which of many is wrong is told all the same.
    let lines = lines + "- {rule: reads, where: user_nam = 'x', reason: r, expires: never}\n";
    let errors = applied(&[("exceptions/e.yaml", &lines)]).unwrap_err();
    assert!(errors.len() == 1 && errors[0].contains("e.yaml:181:"), "{errors:?}");
}
