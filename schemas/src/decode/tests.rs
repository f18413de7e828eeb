//! Decoding as data: what an event becomes, and that it comes back.

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::rebuild::{rebuild_audit, rebuild_falco};
use crate::table::Table;

const RECEIVED: i64 = 1_772_326_800_000_000;

fn audit_batch(event: &str) -> RecordBatch {
    let mut decoder = AuditDecoder::new();
    let id = decoder.push("prod", RECEIVED, event.as_bytes()).unwrap();
    assert_eq!(id, EventId::of("prod", event.as_bytes()));
    assert_eq!(decoder.len(), 1);
    let batch = decoder.finish();
    assert!(decoder.is_empty());
    assert_eq!(batch.schema(), Table::Audit.schema());
    batch
}

fn falco_batch(event: &str) -> RecordBatch {
    let mut decoder = FalcoDecoder::new();
    decoder.push("prod", RECEIVED, event.as_bytes()).unwrap();
    decoder.finish()
}

/// A column of the first row as text; lists with commas.
fn cell(batch: &RecordBatch, column: &str) -> Option<String> {
    let array = batch.column_by_name(column).unwrap();
    if let DataType::List(_) = array.data_type() {
        let list = array.as_list::<i32>().value(0);
        return Some(list.as_string::<i32>().iter().flatten().collect::<Vec<_>>().join(","));
    }
    let array = cast(array, &DataType::Utf8).unwrap();
    array.is_valid(0).then(|| array.as_string::<i32>().value(0).to_owned())
}

fn assert_cells(batch: &RecordBatch, cells: &[(&str, &str)]) {
    for (column, expected) in cells {
        let expected = (*expected != "NULL").then(|| (*expected).to_owned());
        assert_eq!(cell(batch, column), expected, "{column}");
    }
}

/// Decodes an audit event, compares columns, and expects the event back.
#[track_caller]
fn check(event: &str, cells: &[(&str, &str)]) {
    let batch = audit_batch(event);
    assert_cells(&batch, cells);
    let original: serde_json::Value = serde_json::from_str(event).unwrap();
    assert_eq!(rebuild_audit(&batch, 0).unwrap(), original, "rest: {:?}", cell(&batch, "rest"));
}

/// A JSON text without the white space outside its strings.
pub fn compacted(text: &str) -> String {
    let (mut string, mut escaped) = (false, false);
    let kept = |character: &char| {
        let quote = *character == '"' && !escaped;
        escaped = *character == '\\' && !escaped;
        string ^= quote;
        string || !matches!(character, ' ' | '\t' | '\n' | '\r')
    };
    text.chars().filter(kept).collect()
}

#[track_caller]
fn check_falco(event: &str, cells: &[(&str, &str)]) {
    let batch = falco_batch(event);
    assert_cells(&batch, cells);
    let original: serde_json::Value = serde_json::from_str(event).unwrap();
    assert_eq!(rebuild_falco(&batch, 0).unwrap(), original, "rest: {:?}", cell(&batch, "rest"));
}

#[track_caller]
fn refuse(payload: &[u8], message: &str) {
    let mut decoder = AuditDecoder::new();
    assert_eq!(decoder.push("prod", RECEIVED, payload).unwrap_err().to_string(), message);
    assert!(decoder.is_empty());
    decoder.push("prod", RECEIVED, b"{\"verb\":\"get\"}").unwrap();
    assert_eq!(decoder.finish().num_rows(), 1);
}

#[test]
fn a_full_event_fills_its_columns() {
    let event = include_str!("../../fixtures/audit-exec.json");
    check(
        event,
        &[
            ("cluster", "prod"),
            ("day", "2026-03-01"),
            ("event_time", "2026-03-01T01:00:00.120Z"),
            ("verb", "create"),
            ("user_name", "alice"),
            ("user_groups", "devs,system:authenticated"),
            ("user_extra", r#"{"scopes.example.com":["a"]}"#),
            ("impersonated_user_name", "system:admin"),
            ("impersonated_user_groups", "system:masters"),
            ("impersonation_constraint", "impersonate:user-info"),
            ("source_ips", "203.0.113.9,10.0.0.7"),
            ("source_ip", "10.0.0.7"),
            ("resource", "pods"),
            ("subresource", "exec"),
            ("response_code", "101"),
            ("decision", "allow"),
            ("decision_reason", "RBAC: allowed by \"edit\""),
            ("request_object", r#"{"kind":"PodExecOptions", "command":["sh"]}"#),
            ("response_object", "NULL"),
            ("rest", r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","responseStatus":{"metadata":{}}}"#),
        ],
    );
}

#[test]
fn oddities_stay_in_rest() {
    check(r#"{"verb":"get"}"#, &[("rest", "NULL"), ("source_ip", "NULL"), ("user_groups", "")]);
    check(r#"{"verb":"get","user":{},"sourceIPs":[]}"#, &[("rest", r#"{"user":{},"sourceIPs":[]}"#)]);
    check(r#"{"verb":"get","user":{"uid":null,"foo":1}}"#, &[("rest", r#"{"user":{"uid":null,"foo":1}}"#)]);
    check(r#"{"verb":"get","user":[1],"objectRef":"x"}"#, &[("user_name", "NULL")]);
    check(r#"{"verb":5,"stage":"Panic","responseStatus":{"code":4294967296}}"#, &[("response_code", "NULL")]);
    check(r#"{"verb":"get","responseStatus":{"code":-0}}"#, &[("response_code", "0")]);
    check(r#"{"verb":"get","sourceIPs":["a",5,"b"]}"#, &[("source_ips", "a,b"), ("source_ip", "b")]);
    check(r#"{"verb":"patch","requestObject":[{"op":"add"}],"responseObject":null}"#, &[("response_object", "NULL")]);
    check(r#"{"verb":"get","annotations":{"authorization.k8s.io/decision":7}}"#, &[("decision", "NULL")]);
    check(r#"{"verb":"get","annotations":["x"],"x":18446744073709551616,"y":{}}"#, &[("annotations", "NULL")]);
    check(r#"{"v\u0065rb":"g\u0065t","userAgent":"\ud83d\ude00\u0000"}"#, &[("verb", "get"), ("user_agent", "😀\0")]);
}

#[test]
fn times_fall_through() {
    let stage = "\"stageTimestamp\"";
    check(
        &format!(r#"{{"verb":"a",{stage}:null,"requestReceivedTimestamp":"2026-01-02T03:04:05.000006Z"}}"#),
        &[("event_time", "2026-01-02T03:04:05.000006Z"), ("rest", r#"{"stageTimestamp":null}"#)],
    );
    check(
        &format!(r#"{{"verb":"a",{stage}:"2026-01-02T03:04:05Z"}}"#),
        &[("stage_timestamp", "2026-01-02T03:04:05Z"), ("rest", r#"{"stageTimestamp":"2026-01-02T03:04:05Z"}"#)],
    );
    let received = ("event_time", "2026-03-01T01:00:00Z");
    check(&format!(r#"{{"verb":"a",{stage}:"0001-01-01T00:00:00.000000Z"}}"#), &[received]);
    check(&format!(r#"{{"verb":"a",{stage}:"10000-01-01T00:00:00Z"}}"#), &[received, ("stage_timestamp", "NULL")]);
    check(
        r#"{"verb":"a","timestamp":"2019-05-06T07:08:09Z","metadata":{}}"#,
        &[("event_time", "2019-05-06T07:08:09Z")],
    );
}

#[test]
fn ambiguous_events_are_kept_whole() {
    check(
        r#"{"verb":"get","verb":"list"}"#,
        &[("verb", "list"), ("rest", r#"{"@event":{"verb":"get","verb":"list"}}"#)],
    );
    check(r#"{"verb":"get","verb":null}"#, &[("verb", "NULL")]);
    check(r#"{"verb":"a","user":{"username":"x"},"user":{"uid":"1"}}"#, &[("user_name", "NULL"), ("user_uid", "1")]);
    check(r#"{"verb":"a","user":{"f":1,"f":2}}"#, &[("rest", r#"{"@event":{"verb":"a","user":{"f":1,"f":2}}}"#)]);
    check(" {\"@event\":1,\"verb\":\"a\"}\n", &[("rest", r#"{"@event":{"@event":1,"verb":"a"}}"#)]);
    let many: String = (0..100).map(|i| format!(",\"k{i}\":{i}")).collect();
    check(&format!("{{\"verb\":\"a\"{many}}}"), &[("verb", "a")]);
}

#[test]
fn what_is_no_event_is_refused() {
    refuse(b"", "invalid JSON at byte 0: unexpected end");
    refuse(b"[]", "not a JSON object");
    refuse(b"\"verb\"", "not a JSON object");
    refuse(b"{\"a\":1}", "not an audit event: no auditID, verb, stage or requestURI");
    refuse(b"{\"verb\":\"get\"", "invalid JSON at byte 13: unexpected end");
    refuse(b"{\"verb\":\"get\"} x", "invalid JSON at byte 15: trailing characters");
    refuse(b"{\"verb\":\"get\",\"requestObject\":{\"a\":tru}}", "invalid JSON at byte 35: expected a value");
    refuse(b"{\"verb\":\"\xff\"}", "invalid UTF-8 at byte 9");
    let bomb = format!("{{\"verb\":\"get\",\"requestObject\":{}", "{\"a\":".repeat(1_000_000));
    assert!(matches!(AuditDecoder::new().push("c", 0, bomb.as_bytes()), Err(DecodeError::Json { .. })));
    assert_eq!(FalcoDecoder::new().push("c", 0, b"{\"verb\":1}"), Err(DecodeError::NotFalco));
}

#[test]
fn a_body_that_serde_json_cannot_hold_is_still_a_row() {
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for body in [deep.as_str(), r#""\ud800""#, "1e999"] {
        let batch = audit_batch(&format!("{{\"verb\":\"patch\",\"requestObject\":{body}}}"));
        assert_eq!(cell(&batch, "request_object").as_deref(), Some(body));
        assert!(rebuild_audit(&batch, 0).is_err());
    }
}

#[test]
fn rows_keep_to_themselves() {
    let mut decoder = AuditDecoder::with_capacity(4);
    for event in [r#"{"verb":"get","x":1}"#, r#"{"stage":"Panic","sourceIPs":["::1"]}"#, r#"{"verb":"get"}"#] {
        decoder.push("prod", RECEIVED, event.as_bytes()).unwrap();
        assert!(decoder.push("prod", RECEIVED, br#"{"verb":"watch","y":2"#).is_err());
    }
    let batch = decoder.finish();
    let events: Vec<_> = (0..3).map(|row| rebuild_audit(&batch, row).unwrap()).collect();
    assert_eq!(
        events,
        [json!({"verb":"get","x":1}), json!({"stage":"Panic","sourceIPs":["::1"]}), json!({"verb":"get"})]
    );
    assert!(rebuild_audit(&batch, 3).is_err());
}

/// Decodes events that stand in one text, a line each; `share` says whether the decoder gets to know the text.
fn decoded_lines(text: &Bytes, share: bool) -> RecordBatch {
    let mut decoder = AuditDecoder::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let (id, text) = (EventId(number as u128), share.then_some(text));
        decoder.push_as(Received { id, cluster: "prod", at: RECEIVED, payload: line, text }).unwrap();
    }
    decoder.finish()
}

#[test]
fn columns_refer_to_a_large_text_that_events_are_part_of() {
    let event = |number: usize| {
        let body = json!({ "data": { "name": format!("\"{number}\"\n"), "text": "x".repeat(number % 90) } });
        let event = json!({
            "auditID": number.to_string(), "verb": "create", "user": { "username": format!("a\\{number}"), "groups": ["b"] },
            "strange": number, "requestObject": body, "requestURI": format!("/{number}")
        });
        // Some with white space around them, some with white space within, which another reader takes.
        match number % 3 {
            0 => event.to_string(),
            1 => format!(" {event}\t"),
            _ => event.to_string().replacen(':', ": ", 1),
        }
    };
    for (count, is_large) in [(600, true), (3, false)] {
        let text = Bytes::from((0..count).map(event).collect::<Vec<_>>().join("\n"));
        let (shared, copied) = (decoded_lines(&text, true), decoded_lines(&text, false));
        assert_eq!(shared, copied);
        let bodies = shared.column_by_name("request_object").unwrap().as_string_view();
        assert_eq!(bodies.data_buffers().iter().any(|buffer| buffer.as_ptr() == text.as_ptr()), is_large);
    }
}

#[test]
fn a_store_may_give_other_text_types_back() {
    let event = include_str!("../../fixtures/audit-exec.json");
    let batch = audit_batch(event);
    let original: serde_json::Value = serde_json::from_str(event).unwrap();
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    for text in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View, dictionary] {
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns()).map(|(field, array)| {
            let is_text = matches!(array.data_type(), DataType::Utf8View | DataType::Dictionary(_, _));
            let array = if is_text { cast(array, &text).unwrap() } else { array.clone() };
            (field.name().clone(), array)
        });
        let stored = RecordBatch::try_from_iter(columns).unwrap();
        assert_eq!(rebuild_audit(&stored, 0).unwrap(), original, "{text}");
    }
}

#[test]
fn falco_events() {
    check_falco(
        include_str!("../../fixtures/falco-shell.json"),
        &[
            ("event_time", "2026-03-01T01:00:00.123456Z"),
            ("rule", "Terminal shell in container"),
            ("priority", "Notice"),
            ("tags", "container,shell"),
            ("namespace", "shop"),
            ("pod", "NULL"),
            ("container_name", "web"),
            ("process_pid", "4242"),
            ("terminal", "34816"),
            ("user_uid", "0"),
        ],
    );
    check_falco(
        r#"{"rule":"r","priority":4,"output_fields":{"evt.time":1507591916746609046}}"#,
        &[("event_time", "2017-10-09T23:31:56.746609Z"), ("priority", "NULL")],
    );
    check_falco(
        r#"{"output":"x","output_fields":null,"tags":null,"uuid":"u","time":"nonsense"}"#,
        &[("event_time", "2026-03-01T01:00:00Z"), ("tags", "")],
    );
    check_falco(
        r#"{"rule":"r","output_fields":{"user.uid":"1000","proc.tty":1.5,"proc.name":["a"],"proc.name":"b"}}"#,
        &[("user_uid", "1000"), ("terminal", "NULL"), ("process_name", "b")],
    );
}

/// Values of every kind, as JSON text: numbers beyond any type, escapes, times, lists, duplicate keys.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("{}".to_owned()),
        Just("[]".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| format!("{n}7")),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        any::<String>().prop_map(|s| json!(s).to_string()),
        any::<u16>().prop_map(|c| format!("\"\\u{:04x}\\ud83d\\ude00\"", if c & 0xf800 == 0xd800 { 0 } else { c })),
        (-1i64..=300_000_000_000_000_000).prop_map(|t| format!(
            "\"{}\"",
            String::from_utf8_lossy(&time::format(t).unwrap_or(*b"000000000000000000000000000"))
        )),
        Just("\"2024-02-30T00:00:00.000000Z\"".to_owned()),
        Just("[\"a\",\"b\"]".to_owned()),
        Just("200".to_owned()),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(", "))),
            members(inner, INNER_KEYS),
        ]
    })
}

const INNER_KEYS: &[&str] = &[
    "username",
    "uid",
    "groups",
    "extra",
    "resource",
    "name",
    "namespace",
    "code",
    "status",
    "message",
    "impersonationConstraint",
    "authorization.k8s.io/decision",
    "authorization.k8s.io\\/reason",
    "evt.time",
    "proc.name",
    "proc.pid",
    "@event",
    "x",
    "",
];

const EVENT_KEYS: &[&str] = &[
    "kind",
    "apiVersion",
    "level",
    "auditID",
    "stage",
    "requestURI",
    "verb",
    "v\\u0065rb",
    "user",
    "impersonatedUser",
    "authenticationMetadata",
    "sourceIPs",
    "userAgent",
    "objectRef",
    "responseStatus",
    "requestObject",
    "responseObject",
    "requestReceivedTimestamp",
    "stageTimestamp",
    "annotations",
    "timestamp",
    "metadata",
    "time",
    "rule",
    "output",
    "output_fields",
    "priority",
    "tags",
    "@event",
    "é",
];

fn members(value: impl Strategy<Value = String>, keys: &'static [&'static str]) -> impl Strategy<Value = String> {
    let member = (proptest::sample::select(keys), value).prop_map(|(key, value)| format!("\"{key}\" : {value}"));
    proptest::collection::vec(member, 0..9).prop_map(|members| format!("{{{}}}", members.join(",")))
}

fn any_event() -> impl Strategy<Value = String> {
    members(any_json(), EVENT_KEYS).prop_map(|event| {
        let comma = if event == "{}" { "" } else { "," };
        event.replacen('{', &format!("{{\"auditID\":\"1\",\"rule\":\"r\"{comma}"), 1)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_event_comes_back(event in any_event()) {
        for event in [compacted(&event), event] {
            check(&event, &[]);
            check_falco(&event, &[]);
        }
    }

    #[test]
    fn any_damage_is_refused_or_comes_back(event in any_event(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let event = if byte % 2 == 0 { compacted(&event) } else { event };
        let mut payload = event.into_bytes();
        let at = at.index(payload.len());
        payload[at] = byte;
        let mut decoder = AuditDecoder::new();
        let parsed = serde_json::from_slice::<serde_json::Value>(&payload);
        if decoder.push("c", 0, &payload).is_ok() && let Ok(parsed) = parsed {
            prop_assert_eq!(rebuild_audit(&decoder.finish(), 0).unwrap(), parsed);
        } else if serde_json::from_slice::<&serde_json::value::RawValue>(&payload).is_err() {
            prop_assert!(decoder.is_empty());
        }
    }
}

/// A row as the walk reads it, if it takes the text, and as the scanner does.
fn rows(text: &str, layout: &Layout) -> (Option<Row>, Result<Row, Malformed>) {
    let cleared = || {
        let mut row = Row::default();
        row.clear(text);
        row
    };
    let walk = || {
        let mut row = cleared();
        let mut walker = Walker::new(text);
        let plain = block::are_plain(text.as_bytes()).1 && text.starts_with('{');
        (plain && row.object(&mut walker, layout.fields).is_ok() && walker.ended()).then_some(row)
    };
    let scan = || {
        let mut scanner = Scanner::new(text, scan::Scratch::default())?;
        let mut row = cleared();
        row.object(&mut scanner, layout.fields)?;
        scanner.end()?;
        Ok(row)
    };
    (walk(), scan())
}

/// What befalls a text on its way: a byte replaced, an end cut off, a stretch written twice, left out or moved.
fn damage(mut bytes: Vec<u8>, kind: u8, at: prop::sample::Index, to: prop::sample::Index, with: u8) -> Vec<u8> {
    let (at, to) = (at.index(bytes.len()), to.index(bytes.len()));
    let (start, end) = (at.min(to), at.max(to));
    // Mostly from one comma to another, so that members come twice, go or change places.
    let comma = |from: usize| bytes[from..].iter().position(|byte| *byte == b',').map_or(from, |found| from + found);
    let (start, end) = if with < 64 { (start, end) } else { (comma(start), comma(end)) };
    match kind {
        0 => bytes[at] = with,
        1 => bytes[at] = b"\"\\{}[]:, \n01ent"[usize::from(with) % 15],
        2 => bytes.truncate(at),
        3 => bytes.extend_from_within(end..),
        4 => drop(bytes.drain(start..end)),
        5 => {
            let stretch = bytes[start..end].to_vec();
            drop(bytes.splice(end..end, stretch));
        }
        6 => bytes[start..].rotate_left(end - start),
        _ => bytes.insert(at, b"\"\\{}[]:, "[usize::from(with) % 9]),
    }
    bytes
}

/// An event as an API server writes it, of the fields that decide how it is read.
fn real_looking() -> impl Strategy<Value = String> {
    let fixtures = [include_str!("../../fixtures/audit-exec.json"), include_str!("../../fixtures/falco-shell.json")];
    prop_oneof![
        proptest::sample::select(fixtures.map(compacted).to_vec()),
        any_event().prop_map(|event| compacted(&event)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn the_walk_reads_what_the_scanner_reads(
        event in real_looking(),
        damages in prop::collection::vec((0u8..8, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = event.into_bytes();
        let intact = damages.is_empty();
        for (kind, at, to, with) in damages {
            bytes = damage(bytes, kind, at, to, with);
            bytes.extend(bytes.is_empty().then_some(b' '));
        }
        let text = String::from_utf8_lossy(&bytes);
        for layout in [&AUDIT_LAYOUT, &FALCO_LAYOUT] {
            let (walked, scanned) = rows(&text, layout);
            // The walk does not know where containers in lists end.
            let known = !["[{", "[[", ",{", ",["].iter().any(|begin| text.contains(begin));
            prop_assert!(walked.is_some() || !intact || !known);
            if let Some(walked) = walked {
                prop_assert_eq!(format!("{:?}", Ok::<_, Malformed>(walked)), format!("{:?}", scanned), "{}", text);
            }
        }
    }
}

/// Runs over recorded events when VEDETTE_CORPUS names a folder with `audit/*.ndjson` and `falco/*.ndjson`, one event a
/// line. Without the variable there is nothing to read and the test passes.
#[test]
fn a_corpus_comes_back() {
    let Ok(folder) = std::env::var("VEDETTE_CORPUS") else { return };
    let folder = std::path::Path::new(&folder);
    for name in ["audit/standard", "audit/openshift", "audit/cluster", "audit/eventlist", "falco/events"] {
        let text = std::fs::read_to_string(folder.join(format!("{name}.ndjson"))).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let run = if name.starts_with("falco") { check_falco } else { check };
        lines.iter().for_each(|line| run(line, &[]));
        println!("{name}: {} events", lines.len());
    }
}
