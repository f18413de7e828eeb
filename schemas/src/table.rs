//! The tables that rules and analysts see, each column defined once. Every other notation is derived from here.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// How a column's values look. One kind has one form in Arrow, one in ClickHouse, one on the reference page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text with many distinct values. Arrow `Utf8View`.
    Text,
    /// Text with few distinct values. Arrow `Dictionary(Int32, Utf8)`.
    Label,
    /// A JSON value as text, byte for byte as it was received. Arrow `Utf8View`.
    Json,
    /// A list of text, never null and without null elements. Arrow `List(Utf8)`.
    TextList,
    /// Arrow `Int32`.
    Int32,
    /// Arrow `Int64`.
    Int64,
    /// Arrow `Boolean`.
    Bool,
    /// A point in time, UTC, microseconds. Arrow `Timestamp(Microsecond, "UTC")`.
    Time,
    /// A UTC day. Arrow `Date32`.
    Day,
}

impl Kind {
    pub fn arrow(self) -> DataType {
        match self {
            Kind::Text | Kind::Json => DataType::Utf8View,
            Kind::Label => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            Kind::TextList => DataType::List(Arc::new(list_item())),
            Kind::Int32 => DataType::Int32,
            Kind::Int64 => DataType::Int64,
            Kind::Bool => DataType::Boolean,
            Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Kind::Day => DataType::Date32,
        }
    }
}

/// The element of every list column.
pub fn list_item() -> Field {
    Field::new("item", DataType::Utf8, false)
}

/// One column: its name in every notation, its kind, whether it may be null, and what it holds.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
    pub nullable: bool,
    pub description: &'static str,
}

const fn must(name: &'static str, kind: Kind, description: &'static str) -> Column {
    Column { name, kind, nullable: false, description }
}

const fn may(name: &'static str, kind: Kind, description: &'static str) -> Column {
    Column { name, kind, nullable: true, description }
}

/// A table of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    Audit,
    Falco,
    Containers,
    RoleRules,
    RoleSubjects,
    Alerts,
    Runs,
}

impl Table {
    pub const ALL: [Table; 7] = [
        Table::Audit,
        Table::Falco,
        Table::Containers,
        Table::RoleRules,
        Table::RoleSubjects,
        Table::Alerts,
        Table::Runs,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Table::Audit => "audit",
            Table::Falco => "falco",
            Table::Containers => "containers",
            Table::RoleRules => "role_rules",
            Table::RoleSubjects => "role_subjects",
            Table::Alerts => "alerts",
            Table::Runs => "runs",
        }
    }

    /// The table of that name.
    pub fn parse(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == name)
    }

    /// What a row is, in a sentence.
    pub fn description(self) -> &'static str {
        match self {
            Table::Audit => "One audit event, as an API server sent it.",
            Table::Falco => "One event of Falco or of falcosidekick.",
            Table::Containers => {
                "One container (init and ephemeral too) of a pod or pod template written through the API, \
                 with the pod's security settings beside it."
            }
            Table::RoleRules => "One policy rule of a Role or ClusterRole written through the API.",
            Table::RoleSubjects => "One subject of a RoleBinding or ClusterRoleBinding written through the API.",
            Table::Alerts => "One finding.",
            Table::Runs => "One run of a scheduled rule, whether it succeeded or failed.",
        }
    }

    pub fn columns(self) -> &'static [Column] {
        static DERIVED: LazyLock<[Vec<Column>; 3]> =
            LazyLock::new(|| [CONTAINER, ROLE_RULE, ROLE_SUBJECT].map(|own| [WRITE, own].concat()));
        match self {
            Table::Audit => AUDIT,
            Table::Falco => FALCO,
            Table::Alerts => ALERTS,
            Table::Runs => RUNS,
            Table::Containers => &DERIVED[0],
            Table::RoleRules => &DERIVED[1],
            Table::RoleSubjects => &DERIVED[2],
        }
    }

    /// The column that says which row is which, or of which event it is.
    pub fn id(self) -> &'static str {
        self.columns()[0].name
    }

    /// Whether its rows go by on the stream. The others are made by Vedette itself, and only what runs over the store reads them.
    pub fn is_streamed(self) -> bool {
        !matches!(self, Table::Alerts | Table::Runs)
    }

    pub fn schema(self) -> SchemaRef {
        static SCHEMAS: LazyLock<Vec<SchemaRef>> = LazyLock::new(|| {
            let field = |column: &Column| Field::new(column.name, column.kind.arrow(), column.nullable);
            Table::ALL
                .iter()
                .map(|t| Arc::new(Schema::new(t.columns().iter().map(field).collect::<Vec<_>>())))
                .collect()
        });
        SCHEMAS[self as usize].clone()
    }
}

use Kind::{Bool, Day, Int32, Int64, Json, Label, Text, TextList, Time};

pub(crate) const AUDIT: &[Column] = &[
    must("event_id", Text, "Identity of the event: 32 hex digits over cluster and content."),
    must("cluster", Label, "Cluster that sent it, from the receiver's path."),
    must("day", Day, "UTC day of receipt. Tables are partitioned by it: filter on it to read less."),
    must("received_at", Time, "When the receiver took it."),
    must(
        "event_time",
        Time,
        "When it happened: stageTimestamp, else requestReceivedTimestamp, else v1beta1's timestamp, else received_at.",
    ),
    may("level", Label, "Metadata, Request or RequestResponse."),
    may("stage", Label, "RequestReceived, ResponseStarted, ResponseComplete or Panic. One request gives several."),
    may("audit_id", Text, "auditID: one a request, shared by its stages. The client can choose it."),
    may(
        "verb",
        Label,
        "get, list, watch, create, update, patch, delete, deletecollection, or a lower-case HTTP method.",
    ),
    may("request_uri", Text, "Path and query as sent. An exec's command is only here."),
    may("user_name", Label, "user.username: who authenticated."),
    may("user_uid", Text, "user.uid."),
    must("user_groups", TextList, "user.groups; empty if absent."),
    may("user_extra", Json, "user.extra: an object of lists; credential ids, pod and node of a token."),
    may("impersonated_user_name", Label, "impersonatedUser.username: whom the user acted as."),
    may("impersonated_user_uid", Text, "impersonatedUser.uid."),
    must("impersonated_user_groups", TextList, "impersonatedUser.groups; empty if absent."),
    may("impersonated_user_extra", Json, "impersonatedUser.extra."),
    may("impersonation_constraint", Label, "authenticationMetadata.impersonationConstraint."),
    must("source_ips", TextList, "sourceIPs. All but the last are whatever the client claimed; empty if absent."),
    may("source_ip", Text, "The last of sourceIPs: the peer of the API server, the only one to trust."),
    may("user_agent", Label, "userAgent. The client chooses it."),
    may("resource", Label, "objectRef.resource, such as pods."),
    may("subresource", Label, "objectRef.subresource, such as exec."),
    may("namespace", Label, "objectRef.namespace; null for cluster-wide requests."),
    may("name", Text, "objectRef.name; null for list, deletecollection and generateName."),
    may("api_group", Label, "objectRef.apiGroup; null for the core group."),
    may("api_version", Label, "objectRef.apiVersion."),
    may("object_uid", Text, "objectRef.uid."),
    may("resource_version", Text, "objectRef.resourceVersion."),
    may("response_code", Int32, "responseStatus.code: the HTTP status."),
    may("response_status", Label, "responseStatus.status: Success or Failure."),
    may("response_reason", Label, "responseStatus.reason, such as Forbidden."),
    may("response_message", Text, "responseStatus.message. Refused impersonation shows only here."),
    may(
        "decision",
        Label,
        "The authorizer's: allow or forbid. Refusal is response_code, since admission refuses what was allowed.",
    ),
    may("decision_reason", Text, "The authorizer's reason, naming binding and role."),
    may("request_received_timestamp", Time, "requestReceivedTimestamp."),
    may("stage_timestamp", Time, "stageTimestamp."),
    may("annotations", Json, "annotations: an object of text."),
    may("request_object", Json, "requestObject: the body sent; for patches the patch itself."),
    may("response_object", Json, "responseObject: the body answered."),
    may(
        "rest",
        Json,
        "What of the event has no column of its own, as an object in the event's shape; it wins over columns when the event is rebuilt.",
    ),
];

pub(crate) const FALCO: &[Column] = &[
    must("event_id", Text, "Identity of the event: 32 hex digits over cluster and content."),
    must("cluster", Label, "Cluster that sent it, from the receiver's path."),
    must("day", Day, "UTC day of receipt. Tables are partitioned by it: filter on it to read less."),
    must("received_at", Time, "When the receiver took it."),
    must("event_time", Time, "time, else output_fields' evt.time, else received_at."),
    may("rule", Label, "Falco's rule."),
    may(
        "priority",
        Label,
        "Emergency, Alert, Critical, Error, Warning, Notice, Informational or Debug, spelt as sent.",
    ),
    may("source", Label, "syscall, k8s_audit, internal or another plugin's."),
    may("hostname", Label, "Host (or pod) that Falco runs on."),
    may("output", Text, "The rendered line."),
    must("tags", TextList, "tags; empty if absent."),
    may("namespace", Label, "k8s.ns.name."),
    may("pod", Text, "k8s.pod.name."),
    may("node", Label, "k8s.node.name."),
    may("container_id", Text, "container.id."),
    may("container_name", Label, "container.name."),
    may("image_repository", Label, "container.image.repository."),
    may("image_tag", Label, "container.image.tag."),
    may("user_name", Label, "user.name: the process's user on the host."),
    may("user_uid", Int64, "user.uid."),
    may("process_name", Label, "proc.name."),
    may("process_exepath", Text, "proc.exepath."),
    may("process_cmdline", Text, "proc.cmdline."),
    may("parent_name", Label, "proc.pname."),
    may("process_pid", Int64, "proc.pid."),
    may("terminal", Int64, "proc.tty; 0 or null means none."),
    may("event_type", Label, "evt.type: the system call."),
    may("file_name", Text, "fd.name: file, or connection as client->server."),
    may("output_fields", Json, "output_fields, all of them, as sent."),
    may(
        "rest",
        Json,
        "What of the event has no column of its own, as an object in the event's shape; it wins over columns when the event is rebuilt.",
    ),
];

/// The columns of every derived table: the write it comes from.
const WRITE: &[Column] = &[
    must("event_id", Text, "Event that the row comes from, in audit."),
    must("cluster", Label, "Cluster."),
    must("day", Day, "UTC day of receipt. Tables are partitioned by it: filter on it to read less."),
    must("received_at", Time, "When the receiver took the event."),
    must("event_time", Time, "When it happened."),
    may("stage", Label, "Stage of the event: bodies come with ResponseComplete, and with RequestReceived for none."),
    may("audit_id", Text, "auditID of the request."),
    may("verb", Label, "create, update or patch."),
    may("user_name", Label, "Who authenticated."),
    must("user_groups", TextList, "Groups of who authenticated."),
    may("impersonated_user_name", Label, "Whom the user acted as."),
    may("source_ip", Text, "Peer of the API server."),
    may("user_agent", Label, "User agent. The client chooses it."),
    may("resource", Label, "Resource written: pods, deployments, clusterroles, …"),
    may("subresource", Label, "Subresource written, such as ephemeralcontainers."),
    may("namespace", Label, "Namespace written to; null for cluster-scoped objects."),
    may("name", Text, "Object's name: objectRef.name, else metadata.name of the body."),
    may("response_code", Int32, "HTTP status: 4xx means that the write was refused."),
    may("decision", Label, "The authorizer's: allow or forbid."),
    must(
        "body",
        Label,
        "response if the row comes from responseObject (after admission), request if from requestObject.",
    ),
];

const CONTAINER: &[Column] = &[
    may("pod_generate_name", Text, "metadata.generateName of a pod."),
    may("service_account", Label, "Pod's serviceAccountName."),
    may("node_name", Label, "Pod's nodeName."),
    may("host_network", Bool, "Pod's hostNetwork."),
    may("host_pid", Bool, "Pod's hostPID."),
    may("host_ipc", Bool, "Pod's hostIPC."),
    must("host_paths", TextList, "Paths of the pod's hostPath volumes."),
    may("automount_token", Bool, "Pod's automountServiceAccountToken."),
    may("runtime_class", Label, "Pod's runtimeClassName."),
    must("container_kind", Label, "container, init or ephemeral."),
    may("container_name", Label, "Container's name."),
    may("image", Text, "Container's image reference."),
    may("image_pull_policy", Label, "Container's imagePullPolicy."),
    must("command", TextList, "Container's command."),
    must("args", TextList, "Container's args."),
    may("privileged", Bool, "securityContext.privileged of the container."),
    may("allow_privilege_escalation", Bool, "securityContext.allowPrivilegeEscalation of the container."),
    may("read_only_root_filesystem", Bool, "securityContext.readOnlyRootFilesystem of the container."),
    may("run_as_user", Int64, "runAsUser in effect: the container's, else the pod's."),
    may("run_as_non_root", Bool, "runAsNonRoot in effect: the container's, else the pod's."),
    must("capabilities_add", TextList, "securityContext.capabilities.add of the container."),
    must("capabilities_drop", TextList, "securityContext.capabilities.drop of the container."),
    may("seccomp_type", Label, "seccompProfile.type in effect: the container's, else the pod's."),
    may("proc_mount", Label, "securityContext.procMount of the container."),
    must("host_ports", TextList, "hostPorts opened, as text."),
    may("has_limits", Bool, "Both CPU and memory limits are set."),
    may("env", Json, "env of the container."),
    may("volume_mounts", Json, "volumeMounts of the container."),
];

const ROLE_RULE: &[Column] = &[
    must("role_kind", Label, "Role or ClusterRole."),
    must("rule_index", Int32, "Place of the rule in the role, from 0."),
    must("verbs", TextList, "verbs of the rule."),
    must("api_groups", TextList, "apiGroups of the rule; the core group is empty text."),
    must("resources", TextList, "resources of the rule."),
    must("resource_names", TextList, "resourceNames of the rule."),
    must("non_resource_urls", TextList, "nonResourceURLs of the rule."),
];

const ROLE_SUBJECT: &[Column] = &[
    must("binding_kind", Label, "RoleBinding or ClusterRoleBinding."),
    may("role_kind", Label, "roleRef.kind: Role or ClusterRole."),
    may("role_name", Text, "roleRef.name."),
    must("subject_index", Int32, "Place of the subject in the binding, from 0."),
    may("subject_kind", Label, "User, Group or ServiceAccount."),
    may("subject_name", Text, "Subject's name."),
    may("subject_namespace", Label, "Namespace of a ServiceAccount subject."),
];

const ALERTS: &[Column] = &[
    must(
        "alert_id",
        Text,
        "Identity of the finding: 32 hex digits over rule, version and key. The same events give the same id.",
    ),
    must("cluster", Label, "Cluster."),
    must("day", Day, "UTC day of receipt of the event that raised it. Tables are partitioned by it."),
    must("received_at", Time, "When the event that raised it was received."),
    must("event_time", Time, "When the event that raised it happened."),
    must("raised_at", Time, "When the rule raised it."),
    must("rule_id", Label, "Rule that raised it."),
    must("rule_version", Int32, "Version of the rule."),
    must("title", Label, "Rule's title."),
    must("severity", Label, "info, low, medium, high or critical."),
    must("summary", Text, "One line for people."),
    may("actor", Text, "Who did it: the user, with whom it acted as."),
    may("target", Text, "What it was done to."),
    may("namespace", Label, "Namespace concerned."),
    may("source_ip", Text, "Where it came from."),
    must("attack", TextList, "ATT&CK technique ids."),
    must("tags", TextList, "Tags of the rule, checklist ids among them."),
    must("evidence", TextList, "event_ids of the events behind it."),
    must("details", Json, "The columns that the rule's SQL selected, as an object."),
    may("risk_score", Int32, "How dangerous it is, 0 to 100."),
    may("user_name", Label, "User concerned."),
    may("pod", Text, "Pod concerned."),
    may("node", Label, "Node concerned."),
    may("count", Int64, "How often the rule has found this so far. A repeat raises it and adds no finding."),
    may("last_event_time", Time, "When the newest of the events that raised it happened."),
];

const RUNS: &[Column] = &[
    must("run_id", Text, "Identity of the run: 32 hex digits over rule, version, period and when it began."),
    must("cluster", Label, "Empty: a run is over all clusters."),
    must("day", Day, "UTC day on which it was recorded. Tables are partitioned by it."),
    must("received_at", Time, "When it had ended, and was recorded."),
    must("event_time", Time, "When it began."),
    must("rule_id", Label, "Rule that ran."),
    must("rule_version", Int32, "Version of the rule."),
    must("period_start", Time, "Start of the period that it ran for."),
    must("period_end", Time, "End of the period that it ran for, which is not part of it."),
    must("took_ms", Int64, "Milliseconds that it took."),
    must(
        "period_rows",
        Int64,
        "Rows of the period, by event time, in the tables that the rule reads, runs and the rule's own alerts left out. \
         When there are more, the period is run again.",
    ),
    must("findings", Int64, "Findings, with those that were known before."),
    must("new_findings", Int64, "Findings that were not known before."),
    must("outcome", Label, "ok or failed."),
    may("error", Text, "Why it failed."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_tables_share_their_first_columns() {
        for table in Table::ALL {
            assert_eq!(Table::parse(table.name()), Some(table));
            let mut names: Vec<_> = table.columns().iter().map(|c| c.name).collect();
            assert_eq!(&names[1..5], ["cluster", "day", "received_at", "event_time"], "{}", table.name());
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), table.columns().len(), "{}", table.name());
            assert_eq!(table.schema().fields().len(), names.len());
        }
    }
}
