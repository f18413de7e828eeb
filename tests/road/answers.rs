//! Same events, same answers: every query gives the same rows over the lake and over ClickHouse. Needs the services.

use vedette_detections::{RuleKind, builtin};
use vedette_schemas::Table;

use crate::deployment::{Embedded, Staged};
use crate::load::{self, Sender};
use crate::program::{Program, until};

/// Tables that are compared whole, and an order of their rows that is certain.
const WHOLE: [(Table, &str); 6] = [
    (Table::Audit, "event_id"),
    (Table::Falco, "event_id"),
    (Table::Alerts, "alert_id"),
    (Table::Containers, "event_id, container_kind, container_name, image"),
    (Table::RoleRules, "event_id, rule_index"),
    (Table::RoleSubjects, "event_id, subject_index"),
];

/// Each with a fixed order of rows. When an event was received differs from run to run, so nobody asks for that.
const QUERIES: &[&str] = &[
    "SELECT count(*) FROM audit",
    // Times and days.
    "SELECT event_id FROM audit WHERE event_time >= '2026-03-01T00:00:00.100Z' AND event_time < '2026-03-01T00:00:00.300Z' ORDER BY 1",
    "SELECT count(*) FROM audit WHERE event_time BETWEEN timestamp '2026-03-01 00:00:00.2' AND timestamp '2026-03-01 00:00:01.123456'",
    "SELECT count(*), min(event_time), max(event_time) FROM audit WHERE event_time > to_timestamp('2026-03-01T00:00:00.5Z')",
    "SELECT event_id FROM audit WHERE stage_timestamp = (SELECT max(stage_timestamp) FROM audit WHERE verb = 'get')",
    "SELECT event_id, event_time FROM audit WHERE event_time < '1970-01-01T00:00:00Z' OR event_time > '2200-01-01T00:00:00Z' ORDER BY 1",
    "SELECT count(*) FROM audit WHERE day >= '2026-01-01' AND day <> date '2026-01-01' AND day IS NOT NULL",
    "SELECT count(*) FROM audit WHERE event_time > now() - interval '100 years' AND received_at > now() - interval '1 day'",
    "SELECT date_trunc('second', event_time) AS second, count(*) FROM audit GROUP BY 1 ORDER BY 1",
    // Comparisons on each kind of column, with their nulls.
    "SELECT count(*) FROM audit WHERE verb <> 'get'",
    "SELECT count(*) FROM audit WHERE subresource <> 'status'",
    "SELECT count(*) FROM audit WHERE NOT (subresource = 'status' OR namespace = 'default')",
    "SELECT event_id FROM audit WHERE name > 'k' AND name <= 'prometheus' ORDER BY 1",
    "SELECT count(*) FROM audit WHERE namespace < 'f'",
    "SELECT count(*) FROM audit WHERE response_code >= 400 AND response_code <> 404",
    "SELECT count(*) FROM audit WHERE response_code = 200 OR response_code = -1 OR response_code > 2147483646",
    "SELECT count(*) FROM audit WHERE NOT response_code BETWEEN 200 AND 299",
    "SELECT count(*) FROM containers WHERE privileged",
    "SELECT count(*) FROM containers WHERE privileged = false OR host_network IS NULL",
    "SELECT count(*) FROM containers WHERE NOT allow_privilege_escalation",
    "SELECT count(*) FROM containers WHERE run_as_user > 0 AND run_as_user < 9223372036854775807",
    "SELECT process_pid, user_uid FROM falco WHERE process_pid >= 4194304000 ORDER BY 1",
    // IN, LIKE and nulls.
    "SELECT count(*) FROM audit WHERE verb IN ('create', 'delete', 'patch')",
    "SELECT count(*) FROM audit WHERE subresource NOT IN ('exec', 'log', 'status')",
    "SELECT count(*) FROM audit WHERE response_code IN (201, 403, 404, 409)",
    "SELECT count(*) FROM audit WHERE namespace IN ('default', NULL)",
    "SELECT count(*) FROM audit WHERE user_name LIKE 'system:serviceaccount:%'",
    "SELECT count(*) FROM audit WHERE user_name NOT LIKE 'system:%'",
    "SELECT event_id, name FROM audit WHERE name LIKE '_' OR name LIKE '%o''b%' ORDER BY 1",
    "SELECT count(*) FROM audit WHERE request_uri LIKE '%\\%%' OR request_uri LIKE '%(%' OR request_uri LIKE '%[.]%'",
    "SELECT count(*) FROM audit WHERE user_agent ILIKE 'KUBE%'",
    "SELECT event_id, name FROM audit WHERE name IN ('o''brien \\ \"x\"', 'zwei\nzeilen', '', 'tab\tulator', 'grün ☃') ORDER BY 1",
    "SELECT count(*) FROM audit WHERE name IS NULL AND namespace IS NOT NULL",
    "SELECT count(*) FROM audit WHERE user_agent = '' OR name = ''",
    "SELECT event_id FROM audit WHERE regexp_like(request_uri, 'exec\\?command=') ORDER BY 1",
    // Lists.
    "SELECT count(*) FROM audit WHERE array_has(user_groups, 'system:masters')",
    "SELECT count(*) FROM audit WHERE 'system:nodes' = ANY(user_groups)",
    "SELECT event_id, user_groups, source_ips FROM audit WHERE cardinality(source_ips) > 1 OR user_groups[2] = 'system:nodes' ORDER BY 1",
    "SELECT member, count(*) FROM (SELECT unnest(user_groups) AS member FROM audit) GROUP BY 1 ORDER BY 1",
    "SELECT event_id, rule_index FROM role_rules WHERE array_has(verbs, '*') ORDER BY 1, 2",
    // JSON.
    "SELECT json_get_str(annotations, 'authorization.k8s.io/decision') AS decision, count(*) FROM audit GROUP BY 1 ORDER BY 1",
    "SELECT event_id, request_object->'metadata'->>'name' AS name FROM audit WHERE request_object IS NOT NULL ORDER BY 1",
    "SELECT count(*) FROM audit WHERE json_contains(request_object, 'spec') AND json_length(request_object) > 2",
    "SELECT alert_id, json_get_str(details, 'event_id'), json_get_str(details, 'verb'), json_get_int(details, 'response_code') FROM alerts ORDER BY 1",
    // Joins and aggregates.
    "SELECT a.user_name, c.image, count(*) FROM audit a JOIN containers c ON a.event_id = c.event_id WHERE c.container_kind = 'container' GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT c.privileged, count(DISTINCT a.event_id) FROM audit a LEFT JOIN containers c USING (event_id) GROUP BY 1 ORDER BY 1",
    "SELECT l.rule_id, a.verb, count(*) FROM alerts l JOIN audit a ON l.evidence[1] = a.event_id GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT verb, namespace, count(*), min(response_code), max(response_code), sum(response_code), avg(response_code) FROM audit GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT user_name, count(*) AS n FROM audit GROUP BY user_name HAVING count(*) > 20 ORDER BY n DESC, user_name",
    "SELECT count(DISTINCT user_name), count(DISTINCT namespace), count(namespace), count(*) FROM audit",
    "SELECT event_id, verb FROM audit WHERE resource = 'secrets' ORDER BY event_id LIMIT 5 OFFSET 3",
    "SELECT count(*) FROM audit WHERE event_id IN (SELECT event_id FROM containers WHERE host_network)",
    "SELECT severity, rule_id, count(*) FROM alerts WHERE severity IN ('high', 'critical') GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT verb, event_id FROM (SELECT verb, event_id, row_number() OVER (PARTITION BY verb ORDER BY event_id) AS n FROM audit) WHERE n = 1 ORDER BY 1",
    "SELECT rule AS what, priority AS how FROM falco UNION ALL SELECT rule_id, severity FROM alerts ORDER BY 1, 2",
];

/// What the generator does not make: text that wants escaping, times at the ends, empty text beside null.
const ODD_EVENTS: &[&str] = &[
    r#"{"kind":"Event","requestReceivedTimestamp":"2026-03-01T12:00:00.000001Z","auditID":"1","verb":"get","objectRef":{"name":"o'brien \\ \"x\"","namespace":""},"userAgent":""}"#,
    r#"{"kind":"Event","requestReceivedTimestamp":"2026-03-01T12:00:00.000001Z","auditID":"2","verb":"get","objectRef":{"name":"zwei\nzeilen"},"sourceIPs":["a","b'c","10.0.0.1"]}"#,
    r#"{"kind":"Event","requestReceivedTimestamp":"2026-03-01T12:00:00.000001Z","auditID":"3","verb":"get","objectRef":{"name":"grün ☃"},"user":{"groups":["", "tab\t","☃"]}}"#,
    r#"{"kind":"Event","requestReceivedTimestamp":"2026-03-01T12:00:00.000001Z","auditID":"4","verb":"get","objectRef":{"name":"☃"},"requestURI":"/a%20b/(c)/[.]_"}"#,
    r#"{"kind":"Event","requestReceivedTimestamp":"2026-03-01T12:00:00.000001Z","auditID":"5","verb":"get","objectRef":{"name":""},"responseStatus":{"code":-1}}"#,
    r#"{"kind":"Event","requestReceivedTimestamp":"2026-03-01T12:00:00.000001Z","auditID":"6","verb":"get","objectRef":{"name":"tab\tulator"},"responseStatus":{"code":2147483647}}"#,
    r#"{"kind":"Event","requestReceivedTimestamp":"2026-03-01T12:00:00.000001Z","auditID":"7","verb":"get","stageTimestamp":"0001-01-01T00:00:00.000000Z"}"#,
    r#"{"kind":"Event","requestReceivedTimestamp":"2026-03-01T12:00:00.000001Z","auditID":"8","verb":"get","stageTimestamp":"9999-12-31T23:59:59.999999Z"}"#,
    r#"{"kind":"Event","auditID":"9","verb":"get","stageTimestamp":"1969-12-31T23:59:59.999999Z","requestReceivedTimestamp":"1815-06-18T11:35:00.000001Z"}"#,
    r#"{"kind":"Event","requestReceivedTimestamp":"2026-03-01T12:00:00.000001Z","auditID":"11","stage":"ResponseComplete","verb":"create","objectRef":{"resource":"pods","apiVersion":"v1"},"responseStatus":{"code":201},"responseObject":{"kind":"Pod","spec":{"securityContext":{"runAsUser":9223372036854775806},"containers":[{"name":"a","command":["a b","c'd",""]},{"name":"b","securityContext":{"runAsUser":1000}}]}}}"#,
    r#"{"kind":"Event","requestReceivedTimestamp":"2026-03-01T12:00:00.000001Z","auditID":"10","verb":"get","stageTimestamp":"2299-12-31T23:59:59.999999Z","annotations":{"a":"\u0000","b":"'"}}"#,
];

const FALCO_EVENTS: &[&str] = &[
    r#"{"hostname":"worker-2","output":"A shell 'was' spawned","priority":"Notice","rule":"Terminal shell in container","source":"syscall","tags":["container","T1059"],"time":"2026-03-01T10:00:00.123456789Z","output_fields":{"container.id":"3ad7b26ded6d","container.name":"shell","container.image.repository":"docker.io/library/alpine","container.image.tag":"3.20","evt.time":1772359200123456789,"k8s.ns.name":"kube-system","k8s.pod.name":"node-debugger","user.name":"root","user.uid":0,"evt.type":"execve","proc.name":"bash","proc.cmdline":"bash -c \"id\"","proc.pid":9223372036854775807,"proc.tty":34816}}"#,
    r#"{"hostname":"worker-3","output":"B","priority":"Critical","rule":"Drop and execute","source":"syscall","tags":[],"time":"2026-03-01T10:00:01Z","output_fields":{"user.uid":4294967295,"proc.pid":4194304001,"fd.name":"10.0.0.1:1->10.0.0.2:2"}}"#,
    r#"{"output":"C","priority":"Debug","rule":"C","time":"2026-03-01T10:00:02Z","output_fields":null}"#,
];

#[test]
fn lake_and_clickhouse_give_the_same_answers() {
    let (Some(mut staged), mut embedded) = (Staged::new(), Embedded::new()) else { return };
    // The recorded events are hours out of order: what rules that look back say of them depends on how they are batched.
    let looking_back = builtin().unwrap().into_iter().filter(|rule| rule.kind != RuleKind::Match).map(|rule| rule.id);
    let disabled = format!("{:?}", looking_back.collect::<Vec<_>>());
    embedded.settings = embedded.settings.with("DETECTIONS__DISABLED", &disabled);
    staged.settings = staged.settings.with("DETECTIONS__DISABLED", &disabled);
    let folder = tempfile::tempdir().unwrap();
    let part = load::parts(folder.path(), 31, 1, 1500).remove(0);
    let (serve, ingest, analytics) = (embedded.serve(), staged.ingest(), staged.analytics());

    let mut sent = (0, 0);
    for receiver in [&serve, &ingest] {
        Sender::start(&part, receiver.address(), 100_000).finish();
        sent = send_others(receiver);
    }
    for settings in [&embedded.settings, &staged.settings] {
        let all_are_there =
            |table: &str, count: u64| settings.numbers(&format!("SELECT count(*) FROM {table}")) == [count];
        until("every event is stored", || {
            all_are_there("audit", part.events + sent.0) && all_are_there("falco", sent.1)
        });
    }
    for program in [serve, ingest, analytics] {
        program.drain();
    }

    let mut problems = Vec::new();
    let whole: Vec<String> = WHOLE.iter().map(|(table, order)| whole(*table, order)).collect();
    let queries: Vec<&str> = whole.iter().map(String::as_str).chain(QUERIES.iter().copied()).collect();
    for sql in &queries {
        let answers = [&embedded.settings, &staged.settings].map(|settings| {
            let output = settings.run(&["query", "--format", "json", sql]);
            let answer = if output.status.success() { output.stdout } else { output.stderr };
            (output.status.success(), String::from_utf8(answer).unwrap())
        });
        let [(lake_succeeds, lake), (clickhouse_succeeds, clickhouse)] = answers;
        if !lake_succeeds || !clickhouse_succeeds || lake != clickhouse {
            let different = lake.lines().zip(clickhouse.lines()).find(|(lake, clickhouse)| lake != clickhouse);
            let (lake, clickhouse) = different.unwrap_or((&lake, &clickhouse));
            problems.push(format!("{sql}\n  lake:       {lake}\n  clickhouse: {clickhouse}"));
        } else if lake.trim().is_empty() || lake == "{\"count(*)\":0}\n" {
            problems.push(format!("{sql}\n  nothing is compared: the answer is {lake:?}"));
        }
    }
    assert!(problems.is_empty(), "{} of {} queries:\n{}", problems.len(), queries.len(), problems.join("\n"));
}

/// Every column of a table but those that say when a run was.
fn whole(table: Table, order: &str) -> String {
    let columns = table.columns().iter().map(|column| column.name);
    let columns: Vec<&str> =
        columns.filter(|name| !["day", "received_at", "raised_at", "details"].contains(name)).collect();
    format!("SELECT {} FROM {} ORDER BY {order}", columns.join(", "), table.name())
}

/// Recorded events and odd ones; how many audit and Falco events they are.
fn send_others(receiver: &Program) -> (u64, u64) {
    let (mut audit, mut falco) = (to_strings(ODD_EVENTS), to_strings(FALCO_EVENTS));
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/detections/events")).unwrap() {
        let path = entry.unwrap().path();
        let is_falco = path.file_name().unwrap().to_string_lossy().starts_with("falco_");
        let events = if is_falco { &mut falco } else { &mut audit };
        events.push(std::fs::read_to_string(path).unwrap());
    }
    for (path, events) in [("/v1/audit/default", &audit), ("/v1/falco/default", &falco)] {
        for event in events {
            assert_eq!(receiver.post(path, event.as_str()).0, 200);
        }
    }
    assert_eq!(receiver.metric("vedette_dead_letters_total", &[]), 0.0);
    (audit.len() as u64, falco.len() as u64)
}

fn to_strings(events: &[&str]) -> Vec<String> {
    events.iter().map(|event| (*event).to_owned()).collect()
}
