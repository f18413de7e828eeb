//! The program from outside: help, usage, configuration and exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Output, Stdio};

const VERBS: [&str; 2] = ["send", "config"];

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
    check(&["send"], &[], 2, &["FILE"]);
    check(&["send", "--to", "ftp://host/", "-"], &[], 2, &["--to", "ftp"]);
    check(&["send", "--batch", "0", "-"], &[], 2, &["--batch"]);
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
