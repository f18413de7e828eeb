//! Derived tables from hand-made audit batches.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, DictionaryArray, Int32Array, ListBuilder, RecordBatch, StringBuilder, StringViewArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Int32Type;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::{Derived, derive};
use crate::table::{Column, Kind, Table, list_item};

/// An event: its columns by name, the others null.
type Event<'a> = &'a [(&'a str, &'a str)];

fn audit(events: &[Event<'_>]) -> RecordBatch {
    let columns = Table::Audit.columns().iter().map(|column| audit_column(column, events)).collect();
    RecordBatch::try_new(Table::Audit.schema(), columns).unwrap()
}

fn audit_column(column: &Column, events: &[Event<'_>]) -> ArrayRef {
    let default = (!column.nullable).then_some("0");
    fn find<'a>(event: Event<'a>, column: &str) -> Option<&'a str> {
        event.iter().find(|(name, _)| *name == column).map(|(_, value)| *value)
    }
    let texts: Vec<Option<String>> =
        events.iter().map(|event| find(event, column.name).or(default).map(str::to_owned)).collect();
    let numbers = || texts.iter().map(|text| text.as_ref().map(|text| text.parse::<i64>().unwrap()));
    let narrow = || numbers().map(|number| number.map(|number| number as i32));
    match column.kind {
        Kind::Text | Kind::Json => Arc::new(StringViewArray::from_iter(texts)),
        Kind::Label => {
            let values: DictionaryArray<Int32Type> = texts.iter().map(|text| text.as_deref()).collect();
            Arc::new(values)
        }
        Kind::TextList => {
            let mut lists = ListBuilder::new(StringBuilder::new()).with_field(list_item());
            for event in events {
                lists.append_value(find(event, column.name).iter().flat_map(|text| text.split(',')).map(Some));
            }
            Arc::new(lists.finish())
        }
        Kind::Int32 => Arc::new(Int32Array::from_iter(narrow())),
        Kind::Day => Arc::new(Date32Array::from_iter(narrow())),
        Kind::Time => Arc::new(TimestampMicrosecondArray::from_iter(numbers()).with_timezone("UTC")),
        Kind::Int64 | Kind::Bool => panic!("audit has no such column"),
    }
}

/// The rows of `table`, each as the asked columns' text; null shows as `-`.
fn rows(table: &RecordBatch, columns: &[&str]) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let arrays: Vec<&ArrayRef> = columns.iter().map(|name| table.column_by_name(name).unwrap()).collect();
    let cells: Vec<_> = arrays.iter().map(|array| ArrayFormatter::try_new(array.as_ref(), &options).unwrap()).collect();
    let row = |i| cells.iter().map(|cell| cell.value(i).to_string()).collect::<Vec<_>>().join(" | ");
    (0..table.num_rows()).map(row).collect()
}

fn derived(events: &[Event<'_>]) -> Derived {
    let derived = derive(&audit(events));
    assert_eq!(derived.containers.schema(), Table::Containers.schema());
    assert_eq!(derived.role_rules.schema(), Table::RoleRules.schema());
    assert_eq!(derived.role_subjects.schema(), Table::RoleSubjects.schema());
    derived
}

fn check_containers(event: Event<'_>, columns: &[&str], expected: &[&str]) {
    assert_eq!(rows(&derived(&[event]).containers, columns), expected, "{event:?}");
}

const POD: &str = r#"{"metadata":{"name":"web","generateName":"web-"},"spec":{
    "serviceAccountName":"sa","nodeName":"n1","hostNetwork":true,"hostPID":false,"automountServiceAccountToken":false,
    "runtimeClassName":"gvisor","volumes":[{"name":"a","emptyDir":{}},{"hostPath":{"path":"/"}},{"hostPath":{"path":"/etc"}}],
    "securityContext":{"runAsUser":1000,"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},
    "initContainers":[{"name":"setup","image":"busybox","securityContext":{"runAsUser":0,"seccompProfile":{"type":"Unconfined"}}}],
    "containers":[{"name":"app","image":"nginx:1","imagePullPolicy":"Always","command":["sh","-c"],"args":["id"],
        "securityContext":{"privileged":true,"allowPrivilegeEscalation":true,"readOnlyRootFilesystem":false,"procMount":"Unmasked",
            "capabilities":{"add":["SYS_ADMIN"],"drop":["ALL","X"]}},
        "ports":[{"hostPort":80},{"containerPort":1},{"hostPort":0},{"hostPort":443}],
        "resources":{"limits":{"cpu":1,"memory":"1Gi"}},
        "env":[ {"name":"A"} ],"volumeMounts":[{"mountPath":"/host"}]}]}}"#;

#[test]
fn a_pod_gives_a_row_for_each_container_with_the_pods_settings() {
    let event: Event = &[
        ("event_id", "e1"),
        ("cluster", "prod"),
        ("user_name", "eve"),
        ("user_groups", "dev,ops"),
        ("namespace", "shop"),
        ("event_time", "17"),
        ("resource", "pods"),
        ("verb", "create"),
        ("response_code", "201"),
        ("response_object", POD),
    ];
    check_containers(
        event,
        &[
            "event_id",
            "cluster",
            "user_name",
            "user_groups",
            "namespace",
            "name",
            "response_code",
            "body",
            "event_time",
        ],
        &["e1 | prod | eve | [dev, ops] | shop | web | 201 | response | 1970-01-01T00:00:00.000017Z"; 2],
    );
    check_containers(
        event,
        &["container_kind", "container_name", "image", "image_pull_policy", "command", "args", "pod_generate_name"],
        &["container | app | nginx:1 | Always | [sh, -c] | [id] | web-", "init | setup | busybox | - | [] | [] | web-"],
    );
    check_containers(
        event,
        &["service_account", "node_name", "host_network", "host_pid", "host_ipc", "host_paths", "automount_token"],
        &["sa | n1 | true | false | - | [/, /etc] | false"; 2],
    );
    check_containers(
        event,
        &["privileged", "allow_privilege_escalation", "read_only_root_filesystem", "run_as_user", "run_as_non_root"],
        &["true | true | false | 1000 | true", "- | - | - | 0 | true"],
    );
    check_containers(
        event,
        &["capabilities_add", "capabilities_drop", "seccomp_type", "proc_mount", "host_ports", "has_limits"],
        &[
            "[SYS_ADMIN] | [ALL, X] | RuntimeDefault | Unmasked | [80, 443] | true",
            "[] | [] | Unconfined | - | [] | false",
        ],
    );
    check_containers(
        event,
        &["env", "volume_mounts", "runtime_class"],
        &[r#"[ {"name":"A"} ] | [{"mountPath":"/host"}] | gvisor"#, "- | - | gvisor"],
    );
}

#[test]
fn every_holder_of_a_pod_spec_is_read() {
    let spec = r#"{"spec":{"containers":[{"name":"c"}]}}"#;
    let template = format!(r#"{{"spec":{{"template":{spec}}}}}"#);
    let cron_job = format!(r#"{{"spec":{{"jobTemplate":{template}}}}}"#);
    let pod_template = format!(r#"{{"template":{spec}}}"#);
    let check = |resource: &str, body: &str| {
        let event: Event = &[("resource", resource), ("verb", "update"), ("request_object", body)];
        check_containers(event, &["resource", "container_name", "body"], &[&format!("{resource} | c | request")]);
    };
    check("pods", spec);
    check("podtemplates", &pod_template);
    check("cronjobs", &cron_job);
    for workload in ["replicationcontrollers", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs"] {
        check(workload, &template);
    }
}

#[test]
fn only_writes_of_the_objects_themselves_give_rows() {
    let write: Event = &[("resource", "pods"), ("verb", "create"), ("request_object", POD)];
    let with = |name: &'static str, value: &'static str| {
        let mut event = vec![(name, value)];
        event.extend(write);
        derived(&[&event]).containers.num_rows()
    };
    assert_eq!(with("name", "web"), 2);
    assert_eq!(with("verb", "patch"), 2);
    assert_eq!(with("subresource", "ephemeralcontainers"), 2);
    assert_eq!(with("subresource", "status"), 0);
    assert_eq!(with("subresource", "exec"), 0);
    assert_eq!(with("verb", "delete"), 0);
    assert_eq!(with("verb", "get"), 0);
    assert_eq!(with("resource", "nodes"), 0);
    assert_eq!(with("api_group", "batch.volcano.sh"), 0);
}

#[test]
fn the_request_stands_in_for_a_response_that_is_another_object() {
    let status = r#"{"kind":"Status","code":403,"metadata":{},"message":"no"}"#;
    let event: Event = &[
        ("resource", "pods"),
        ("verb", "create"),
        ("name", "asked"),
        ("response_code", "403"),
        ("response_object", status),
        ("request_object", POD),
    ];
    check_containers(event, &["name", "body", "response_code"], &["asked | request | 403"; 2]);

    let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"evil"}]}}}}"#;
    let event: Event = &[("resource", "deployments"), ("verb", "patch"), ("request_object", patch)];
    check_containers(event, &["container_name", "image", "has_limits"], &["c | evil | -"]);

    for body in [r#"[{"op":"add","path":"/spec","value":{}}]"#, "{\"spec\":", "\"x\"", "null", "{}", ""] {
        check_containers(&[("resource", "pods"), ("verb", "patch"), ("request_object", body)], &["name"], &[]);
    }
}

#[test]
fn fields_of_the_wrong_type_count_as_absent() {
    let body = r#"{"metadata":7,"spec":{"hostNetwork":"yes","volumes":{"a":1},"securityContext":[],"containers":[
        5,{"name":1,"image":"i","command":"sh","args":["a",2],"env":{},"securityContext":{"privileged":"true","runAsUser":"0",
        "capabilities":["SYS_ADMIN"]},"ports":"80","resources":{"limits":[]}},null]}}"#;
    check_containers(
        &[("resource", "pods"), ("verb", "create"), ("request_object", body)],
        &["name", "host_network", "host_paths", "container_name", "image", "command", "args", "env", "privileged"],
        &["- | - | [] | - | i | [] | [a] | - | -"],
    );
}

#[test]
fn half_a_surrogate_pair_hides_nothing() {
    let body =
        r#"{"\ud800":0,"spec":{"containers":[{"name":"\udc00c","image":"i","securityContext":{"privileged":true}}]}}"#;
    check_containers(
        &[("resource", "pods"), ("verb", "patch"), ("request_object", body)],
        &["container_name", "image", "privileged"],
        &["\u{fffd}c | i | true"],
    );
}

#[test]
fn a_body_cut_off_anywhere_gives_nothing() {
    let events: Vec<_> =
        (0..POD.len()).map(|end| [("resource", "pods"), ("verb", "create"), ("request_object", &POD[..end])]).collect();
    let events: Vec<Event> = events.iter().map(|event| event.as_slice()).collect();
    assert_eq!(derived(&events).containers.num_rows(), 0);
}

#[test]
fn roles_give_their_rules() {
    let body = r#"{"metadata":{"name":"boss"},"rules":[{"verbs":["*"],"apiGroups":["","apps"],"resources":["secrets"],
        "resourceNames":["x"]},{"verbs":["get"],"nonResourceURLs":["/metrics"]}]}"#;
    let check = |resource: &str, kind: &str| {
        let event: Event = &[("resource", resource), ("verb", "create"), ("request_object", body)];
        let columns = ["name", "role_kind", "rule_index", "verbs", "api_groups", "resources", "resource_names"];
        let table = derived(&[event]).role_rules;
        let expected = [
            format!("boss | {kind} | 0 | [*] | [, apps] | [secrets] | [x]"),
            format!("boss | {kind} | 1 | [get] | [] | [] | []"),
        ];
        assert_eq!(rows(&table, &columns), expected);
        assert_eq!(rows(&table, &["non_resource_urls"]), ["[]", "[/metrics]"]);
    };
    check("roles", "Role");
    check("clusterroles", "ClusterRole");
}

#[test]
fn bindings_give_their_subjects() {
    let body = r#"{"metadata":{"name":"b"},"roleRef":{"kind":"ClusterRole","name":"cluster-admin"},"subjects":[
        {"kind":"User","name":"eve"},{"kind":"ServiceAccount","name":"sa","namespace":"ns"}]}"#;
    let columns = [
        "binding_kind",
        "role_kind",
        "role_name",
        "subject_index",
        "subject_kind",
        "subject_name",
        "subject_namespace",
    ];
    let event = |resource| [("resource", resource), ("verb", "create"), ("response_object", body)];
    let table = derived(&[&event("rolebindings"), &event("clusterrolebindings")]).role_subjects;
    let expected = ["RoleBinding", "ClusterRoleBinding"].map(|kind| {
        [
            format!("{kind} | ClusterRole | cluster-admin | 0 | User | eve | -"),
            format!("{kind} | ClusterRole | cluster-admin | 1 | ServiceAccount | sa | ns"),
        ]
    });
    assert_eq!(rows(&table, &columns), expected.concat());
}

#[test]
fn rows_keep_to_their_events_and_drop_the_bodies_they_came_from() {
    let lease: Event = &[("event_id", "lease"), ("resource", "leases"), ("verb", "update")];
    let long = "a name of more than twelve bytes, so that it lives in a buffer";
    let pod: Event =
        &[("event_id", long), ("resource", "pods"), ("verb", "create"), ("request_object", POD), ("audit_id", "a1")];
    let padding = "x".repeat(100_000);
    let large: Event = &[("event_id", "large"), ("resource", "secrets"), ("verb", "create"), ("audit_id", &padding)];
    let table = derived(&[lease, pod, large, pod]).containers;
    assert_eq!(rows(&table, &["event_id", "audit_id"]), vec![format!("{long} | a1"); 4]);
    let kept = table.column_by_name("audit_id").unwrap().get_buffer_memory_size();
    assert!(kept < 1_000, "{kept} bytes for four short ids");
    assert_eq!(derived(&[lease, large]).containers.num_rows(), 0);
    assert_eq!(derived(&[]).role_rules.num_rows(), 0);
}
