//! The program from outside: help, usage, configuration and exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Output, Stdio};

const VERBS: [&str; 9] = ["serve", "ingest", "analytics", "send", "query", "check", "migrate", "demo", "config"];

fn vedette(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vedette"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VEDETTE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap()
}

/// Asserts the exit code and words of what is said, on whichever stream.
fn check(arguments: &[&str], environment: &[(&str, &str)], code: i32, words: &[&str]) {
    let output = vedette(arguments, environment);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: {word:?} is not in {said}");
    }
}

#[test]
fn every_verb_explains_itself_and_its_exit_codes() {
    check(&["--help"], &[], 0, &VERBS);
    for verb in VERBS {
        check(&[verb, "--help"], &[], 0, &["Usage: vedette", verb, "Exit codes"]);
    }
}

#[test]
fn bad_usage_is_named_and_exits_2() {
    check(&["serv"], &[], 2, &["serv"]);
    check(&["serve", "--listen", "nowhere"], &[], 2, &["--listen", "nowhere"]);
    check(&["send"], &[], 2, &["FILE"]);
    check(&["send", "--to", "ftp://host/", "-"], &[], 2, &["--to", "ftp"]);
    check(&["send", "--batch", "0", "-"], &[], 2, &["--batch"]);
    check(&["query", "--format", "parquet", "SELECT 1"], &[], 2, &["--output"]);
}

#[test]
fn bad_configuration_names_its_key_and_exits_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vedette.toml");
    std::fs::write(&file, "[ingest]\nlissten = '127.0.0.1:1'\n").unwrap();
    let file = file.to_str().unwrap();
    for verb in ["serve", "ingest", "analytics", "migrate", "config"] {
        check(&[verb, "--config", file], &[], 2, &["lissten", "line 2", "vedette.toml"]);
    }
    check(&["config"], &[("VEDETTE_CONFIG", file)], 2, &["lissten"]);
    check(&["config", "--config", "/nowhere.toml"], &[], 2, &["/nowhere.toml"]);
    check(&["config"], &[("VEDETTE_STORE__KINDD", "lake")], 2, &["VEDETTE_STORE__KINDD", "kindd"]);
    check(&["serve"], &[("VEDETTE_LOG__LEVEL", "a=b=c")], 2, &["log.level", "a=b=c"]);
    check(&["ingest"], &[], 2, &["journal.kind", "kafka"]);
}

#[test]
fn config_prints_what_is_in_effect() {
    let environment = [("VEDETTE_LOG__LEVEL", "debug"), ("VEDETTE_STORE__CLICKHOUSE__PASSWORD", "hunter2")];
    let output = vedette(&["config", "--data", "/somewhere"], &environment);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("hunter2"), "{text}");
    let tree: toml::Table = toml::from_str(&text).unwrap();
    assert_eq!(tree["data"].as_str(), Some("/somewhere"));
    assert_eq!(tree["log"]["level"].as_str(), Some("debug"));
    assert_eq!(tree["journal"]["embedded"]["path"].as_str(), Some("/somewhere/journal"));
    assert_eq!(tree["store"]["clickhouse"]["password"].as_str(), Some("***"));
}

#[test]
fn sending_to_nobody_fails_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ndjson");
    std::fs::write(&file, "{}\n").unwrap();
    let file = file.to_str().unwrap();
    // Port 9 is discard; nobody listens.
    check(&["send", "--backoff", "1ms", "--to", "http://127.0.0.1:9", file], &[], 1, &["given up", "4 retries"]);
}
