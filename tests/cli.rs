//! The program from outside: help, usage, configuration and exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const VERBS: [&str; 11] =
    ["serve", "ingest", "analytics", "send", "query", "run", "check", "functions", "migrate", "demo", "config"];

/// The program, with none of the tester's own configuration.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vedette"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VEDETTE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn vedette(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    program().args(arguments).envs(environment.iter().copied()).output().unwrap()
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
fn statements_on_standard_input_are_run_and_the_first_that_fails_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    check(&["query", "--data", data, "SELECT 1"], &[], 1, &["no lake is there", "--data"]);
    assert!(folder.path().read_dir().unwrap().next().is_none(), "asking leaves nothing behind");
    check(&["migrate", "--data", data], &[], 0, &[]);
    let run = |script: &str| {
        let arguments = ["query", "--data", data, "--format", "csv"];
        let mut child = program().args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(run("SELECT 1 AS a;\nSELECT count(*) AS b\nFROM audit"), (Some(0), "a\n1\nb\n0\n".into()));
    assert_eq!(run("SELECT nonsense;\nSELECT 1"), (Some(1), String::new()));
    for sql in ["SELECT nonsense FROM audit", "SELECT upper(verb, 1) FROM audit", "SELECT 1 FROM nowhere", "SELECT 1 +"]
    {
        let output = vedette(&["query", "--data", data, sql], &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        let reason = said.trim_start_matches("vedette: ").trim_end();
        let (kind, _) = reason.split_once(": ").unwrap();
        assert_eq!((output.status.code(), said.matches(kind).count()), (Some(1), 1), "{said}");
    }
}

const OWN: &str = "id: own_reads
title: A secret was read
description: Somebody read a secret.
severity: low
response: [Ask them.]
sql: |
  SELECT cluster, event_id, event_time, received_at, user_name, namespace FROM audit
  WHERE stage = 'ResponseComplete' AND resource = 'secrets' AND verb = 'get'
summary: '{user_name} read a secret'
tests:
  - {name: fires, events: [{base: secret_get}], expect: [{}]}
  - {name: is quiet, events: [{base: secret_get, set: {verb: list}}]}
";

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn an_overlay_is_held_to_the_rules_and_cases_to_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let overlay = folder.path().to_str().unwrap();
    let rules = folder.path().join("rules");
    let rules = rules.to_str().unwrap();
    let all = ["check", "--overlay", overlay];
    let own = ["check", "--overlay", overlay, rules];
    write(folder.path(), "rules/own_reads.yaml", OWN);
    // Both leave out and change what cases expect.
    let exceptions = "- {rule: secret_read, where: namespace = 'shop', reason: r, expires: never}
- {rule: own_reads, where: namespace = 'shop', reason: r, expires: never}
";
    write(folder.path(), "exceptions/e.yaml", exceptions);
    write(folder.path(), "overrides.yaml", "secret_read: {group_by: [cluster, user_name], suppress: 1d}\n");
    check(&all, &[], 0, &[" 0 problems"]);
    check(&own, &[], 0, &["1 rules, 2 cases, 0 problems"]);
    check(&["check", rules], &[], 0, &["1 rules, 2 cases, 0 problems"]);
    // What is wrong with the overlay is said once, whatever else is looked at.
    write(folder.path(), "overrides.yaml", "own_reeds: {severity: low}\n");
    for arguments in [&all[..], &own] {
        check(
            arguments,
            &[],
            3,
            &["overrides.yaml:1:12: own_reeds: there is no rule own_reeds; did you mean own_reads?"],
        );
    }
    check(&own, &[], 3, &["1 rules, 2 cases, 1 problems"]);
    write(folder.path(), "overrides.yaml", "pod_exec: {enabled: true}\n");
    let disabled = [("VEDETTE_DETECTIONS__DISABLED", "[\"pod_exec\"]")];
    check(&own, &disabled, 3, &["overrides.yaml:1:11: pod_exec: enabled here, but off by detections.disabled"]);
}

#[test]
fn a_rule_that_can_not_run_is_named_once_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let overlay = folder.path().to_str().unwrap();
    let file = folder.path().join("rules/own_reads.yaml");
    let file = file.to_str().unwrap();
    let place = format!("{file}:6: rule own_reads: ");
    let environment = [("VEDETTE_DETECTIONS__OVERLAY", overlay)];
    write(folder.path(), "rules/own_reads.yaml", &OWN.replace("user_name, namespace", "user_nam, namespace"));
    check(&["check", file], &[], 3, &[&place, "1 rules, 0 cases, 1 problems"]);
    check(&["check", "--overlay", overlay, file], &[], 3, &[&place, "1 rules, 0 cases, 1 problems"]);
    check(&["rules"], &environment, 2, &[&place, "user_nam"]);
    let data = tempfile::tempdir().unwrap();
    let serve = ["serve", "--data", data.path().to_str().unwrap(), "--listen", "127.0.0.1:0"];
    check(&serve, &environment, 2, &[&place, "user_nam"]);
    // What the engine alone knows to be wrong.
    let windowed = OWN.replace("severity: low", "severity: low\nkind: window\nwindow: 5m");
    let windowed = windowed.replace(
        "event_id, event_time, received_at, user_name, namespace",
        "array_agg(name ORDER BY name) AS user_name",
    );
    write(folder.path(), "rules/own_reads.yaml", &windowed.replace("verb = 'get'", "verb = 'get' GROUP BY cluster"));
    check(&["rules"], &environment, 2, &[&format!("{file}:8: rule own_reads: ")]);
}

#[test]
fn rules_explain_takes_the_configuration_where_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "vedette.toml", "[detections]\ndisabled = ['pod_exec']\n");
    let file = folder.path().join("vedette.toml");
    let file = file.to_str().unwrap();
    for arguments in
        [["rules", "explain", "pod_exec", "--config", file], ["rules", "--config", file, "explain", "pod_exec"]]
    {
        check(&arguments, &[], 2, &["there is no rule pod_exec; did you mean pod_exec_refused?"]);
    }
}

#[test]
fn functions_are_listed_with_examples_and_misspelt_ones_guessed() {
    let all = ["Network\n  is_ip_address_in_range(address, prefix) -> boolean\n", "Images\n", "JSON\n  json_get_str("];
    check(&["functions"], &[], 0, &all);
    check(&["functions", "user_kind"], &[], 0, &["Users\n  user_kind(user_name) -> text\n", " -> service_account\n"]);
    check(&["functions", "->>"], &[], 0, &["->> 'nodeName' -> worker-1"]);
    let one = vedette(&["functions", "in_list"], &[]).stdout;
    assert_eq!(String::from_utf8(one).unwrap().lines().count(), 4);
    check(&["functions", "user_kin"], &[], 2, &["no function \"user_kin\"; did you mean user_kind?"]);
    check(&["functions", "nothing_like_it"], &[], 2, &["no function \"nothing_like_it\""]);
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

/// The rules that the attack of `demo` trips.
const STORY: [&str; 20] = [
    "privileged_pod_then_host_event",
    "exec_then_shell",
    "anonymous_request_allowed",
    "anonymous_request_refused",
    "permissions_listed",
    "secret_access_refused",
    "rbac_change_refused",
    "impersonation_refused",
    "secret_read",
    "impersonation_used",
    "impersonation_of_masters",
    "secret_list_cluster_wide",
    "rbac_changed",
    "cluster_admin_granted",
    "host_namespace",
    "host_path_sensitive",
    "privileged_container",
    "pod_exec",
    "shell_in_container",
    "sensitive_file_read",
];

/// Those who act in the attack, as the table calls them.
const ATTACKERS: [&str; 5] = [
    "system:anonymous",
    "sa:shop/checkout",
    "sa:ci/deployer as oidc:olga@example.com",
    "sa:ci/deployer as kubernetes-admin",
    "root",
];

/// A line of the table: severity, actor, rule. Cells of the demo's table begin where its header's do.
fn findings(said: &str) -> Vec<(&str, &str, &str)> {
    let header = said.lines().find(|line| line.starts_with("SEVERITY")).unwrap();
    let (actor, target) = (header.find("ACTOR").unwrap(), header.find("TARGET").unwrap());
    let severities = ["CRITICAL", "HIGH", "MEDIUM", "LOW", "INFO"];
    let lines = said.lines().filter(|line| severities.contains(&line.split(' ').next().unwrap()));
    lines.map(|line| (line[..actor].trim(), line[actor..target].trim(), line.rsplit(' ').next().unwrap())).collect()
}

#[test]
fn the_demo_shows_each_step_of_the_attack_and_little_else() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("demo");
    let began = Instant::now();
    let output = vedette(&["demo", "--pace", "10ms", "--data", data.to_str().unwrap()], &[]);
    assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));

    let findings = findings(&said);
    let (attack, rest): (Vec<_>, Vec<_>) = findings.iter().partition(|(_, actor, _)| ATTACKERS.contains(actor));
    let rules: BTreeSet<&str> = attack.iter().map(|(_, _, rule)| *rule).collect();
    assert_eq!(rules, BTreeSet::from(STORY), "{said}");
    for actor in ATTACKERS {
        assert!(attack.iter().any(|(_, name, _)| *name == actor), "{actor} is not in {said}");
    }
    assert!(rest.len() <= 8, "{rest:?}");
    assert!(rest.iter().all(|(severity, _, _)| ["LOW", "INFO"].contains(severity)), "{rest:?}");
    let lines: Vec<&str> = said.lines().filter(|line| STORY.iter().any(|rule| line.ends_with(rule))).collect();
    assert_eq!(lines.len(), lines.iter().collect::<BTreeSet<_>>().len(), "a finding is shown twice: {said}");
    assert!(
        said.lines().skip(1).take_while(|line| !line.starts_with("Try next")).all(|line| line.chars().count() <= 120),
        "{said}"
    );

    let query = said.lines().find(|line| line.contains(" query --data ")).unwrap();
    let answer = Command::new("sh").args(["-c", query]).stdin(Stdio::null()).output().unwrap();
    let answer = String::from_utf8(answer.stdout).unwrap();
    assert!(answer.ends_with(&format!("\n{} rows\n", findings.len())), "{query}: {answer}");

    let kubeconfig = said.split_once("this kubeconfig:\n").unwrap().1;
    let kubeconfig: Value = serde_saphyr::from_str(kubeconfig).unwrap();
    assert_eq!((kubeconfig["apiVersion"].as_str(), kubeconfig["kind"].as_str()), (Some("v1"), Some("Config")));
    let named = |list: &str, name: &Value| {
        let entries = kubeconfig[list].as_array().unwrap();
        entries.iter().find(|entry| entry["name"] == *name).unwrap_or_else(|| panic!("no {name} in {list}")).clone()
    };
    let context = &named("contexts", &kubeconfig["current-context"])["context"];
    assert!(named("users", &context["user"])["user"].is_object());
    let server = named("clusters", &context["cluster"])["cluster"]["server"].as_str().unwrap().to_owned();

    let curl = said.lines().find(|line| line.contains("--json")).unwrap();
    let (url, body) = curl.trim().strip_prefix("curl -s ").unwrap().split_once(" --json ").unwrap();
    assert_eq!(url, server);
    let serving = Serving::start(&data);
    let answer = serving.ask("POST", url.strip_prefix("http://127.0.0.1:8080").unwrap(), body.trim_matches('\''));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// `serve` on a folder, at a port of its own, until it is dropped.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(data: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let mut command = program();
        command.args(["serve", "--listen", &address, "--data"]).arg(data).stdout(Stdio::null()).stderr(Stdio::null());
        let serving = Self { child: command.spawn().unwrap(), address };
        for _ in 0..600 {
            if TcpStream::connect(&serving.address).is_ok() {
                return serving;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("nobody listens at {}", serving.address);
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (host, length) = (&self.address, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_compose_file_sets_keys_that_exist() {
    let compose = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docker/compose.yaml")).unwrap();
    let lines = compose.lines().filter_map(|line| line.trim().split_once(": "));
    let variables: Vec<_> = lines.filter(|(name, _)| name.starts_with("VEDETTE_")).collect();
    let output = vedette(&["config"], &variables);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree: toml::Table = toml::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap();
    assert_eq!(tree["journal"]["kind"].as_str(), Some("kafka"));
    assert_eq!(tree["journal"]["kafka"]["brokers"].as_str(), Some("kafka:9092"));
    assert_eq!(tree["store"]["kind"].as_str(), Some("clickhouse"));
    assert_eq!(tree["store"]["clickhouse"]["url"].as_str(), Some("http://clickhouse:8123"));
}
