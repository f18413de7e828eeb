-- Every table, as `vedette_schemas::notation::clickhouse` renders it. A test holds this file to the code.
-- Once released it is not edited: a change to a table is a new migration with ALTER TABLE.

-- One audit event, as an API server sent it.
CREATE TABLE IF NOT EXISTS audit
(
    event_id String,
    cluster LowCardinality(String),
    day Date32,
    received_at DateTime64(6, 'UTC'),
    event_time DateTime64(6, 'UTC'),
    level LowCardinality(Nullable(String)),
    stage LowCardinality(Nullable(String)),
    audit_id Nullable(String),
    verb LowCardinality(Nullable(String)),
    request_uri Nullable(String),
    user_name LowCardinality(Nullable(String)),
    user_uid Nullable(String),
    user_groups Array(String),
    user_extra Nullable(String) CODEC(ZSTD(3)),
    impersonated_user_name LowCardinality(Nullable(String)),
    impersonated_user_uid Nullable(String),
    impersonated_user_groups Array(String),
    impersonated_user_extra Nullable(String) CODEC(ZSTD(3)),
    impersonation_constraint LowCardinality(Nullable(String)),
    source_ips Array(String),
    source_ip Nullable(String),
    user_agent LowCardinality(Nullable(String)),
    resource LowCardinality(Nullable(String)),
    subresource LowCardinality(Nullable(String)),
    namespace LowCardinality(Nullable(String)),
    name Nullable(String),
    api_group LowCardinality(Nullable(String)),
    api_version LowCardinality(Nullable(String)),
    object_uid Nullable(String),
    resource_version Nullable(String),
    response_code Nullable(Int32),
    response_status LowCardinality(Nullable(String)),
    response_reason LowCardinality(Nullable(String)),
    response_message Nullable(String),
    decision LowCardinality(Nullable(String)),
    decision_reason Nullable(String),
    request_received_timestamp Nullable(DateTime64(6, 'UTC')),
    stage_timestamp Nullable(DateTime64(6, 'UTC')),
    annotations Nullable(String) CODEC(ZSTD(3)),
    request_object Nullable(String) CODEC(ZSTD(3)),
    response_object Nullable(String) CODEC(ZSTD(3)),
    rest Nullable(String) CODEC(ZSTD(3)),
    INDEX event_id_bloom event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX audit_id_bloom audit_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX user_name_bloom user_name TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX source_ip_bloom source_ip TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX received_at_minmax received_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(day)
PRIMARY KEY (cluster, event_time)
ORDER BY (cluster, event_time, event_id)
TTL toDateTime(day) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- One event of Falco or of falcosidekick.
CREATE TABLE IF NOT EXISTS falco
(
    event_id String,
    cluster LowCardinality(String),
    day Date32,
    received_at DateTime64(6, 'UTC'),
    event_time DateTime64(6, 'UTC'),
    rule LowCardinality(Nullable(String)),
    priority LowCardinality(Nullable(String)),
    source LowCardinality(Nullable(String)),
    hostname LowCardinality(Nullable(String)),
    output Nullable(String),
    tags Array(String),
    namespace LowCardinality(Nullable(String)),
    pod Nullable(String),
    node LowCardinality(Nullable(String)),
    container_id Nullable(String),
    container_name LowCardinality(Nullable(String)),
    image_repository LowCardinality(Nullable(String)),
    image_tag LowCardinality(Nullable(String)),
    user_name LowCardinality(Nullable(String)),
    user_uid Nullable(Int64),
    process_name LowCardinality(Nullable(String)),
    process_exepath Nullable(String),
    process_cmdline Nullable(String),
    parent_name LowCardinality(Nullable(String)),
    process_pid Nullable(Int64),
    terminal Nullable(Int64),
    event_type LowCardinality(Nullable(String)),
    file_name Nullable(String),
    output_fields Nullable(String) CODEC(ZSTD(3)),
    rest Nullable(String) CODEC(ZSTD(3)),
    INDEX event_id_bloom event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX user_name_bloom user_name TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX received_at_minmax received_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(day)
PRIMARY KEY (cluster, event_time)
ORDER BY (cluster, event_time, event_id)
TTL toDateTime(day) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- One container (init and ephemeral too) of a pod or pod template written through the API, with the pod's security settings beside it.
CREATE TABLE IF NOT EXISTS containers
(
    event_id String,
    cluster LowCardinality(String),
    day Date32,
    received_at DateTime64(6, 'UTC'),
    event_time DateTime64(6, 'UTC'),
    stage LowCardinality(Nullable(String)),
    audit_id Nullable(String),
    verb LowCardinality(Nullable(String)),
    user_name LowCardinality(Nullable(String)),
    user_groups Array(String),
    impersonated_user_name LowCardinality(Nullable(String)),
    source_ip Nullable(String),
    user_agent LowCardinality(Nullable(String)),
    resource LowCardinality(Nullable(String)),
    subresource LowCardinality(Nullable(String)),
    namespace LowCardinality(Nullable(String)),
    name Nullable(String),
    response_code Nullable(Int32),
    decision LowCardinality(Nullable(String)),
    body LowCardinality(String),
    pod_generate_name Nullable(String),
    service_account LowCardinality(Nullable(String)),
    node_name LowCardinality(Nullable(String)),
    host_network Nullable(Bool),
    host_pid Nullable(Bool),
    host_ipc Nullable(Bool),
    host_paths Array(String),
    automount_token Nullable(Bool),
    runtime_class LowCardinality(Nullable(String)),
    container_kind LowCardinality(String),
    container_name LowCardinality(Nullable(String)),
    image Nullable(String),
    image_pull_policy LowCardinality(Nullable(String)),
    command Array(String),
    args Array(String),
    privileged Nullable(Bool),
    allow_privilege_escalation Nullable(Bool),
    read_only_root_filesystem Nullable(Bool),
    run_as_user Nullable(Int64),
    run_as_non_root Nullable(Bool),
    capabilities_add Array(String),
    capabilities_drop Array(String),
    seccomp_type LowCardinality(Nullable(String)),
    proc_mount LowCardinality(Nullable(String)),
    host_ports Array(String),
    has_limits Nullable(Bool),
    env Nullable(String) CODEC(ZSTD(3)),
    volume_mounts Nullable(String) CODEC(ZSTD(3)),
    INDEX event_id_bloom event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX audit_id_bloom audit_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX user_name_bloom user_name TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX source_ip_bloom source_ip TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX received_at_minmax received_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(day)
PRIMARY KEY (cluster, event_time)
ORDER BY (cluster, event_time, event_id, container_kind, ifNull(container_name, ''), ifNull(image, ''))
TTL toDateTime(day) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- One policy rule of a Role or ClusterRole written through the API.
CREATE TABLE IF NOT EXISTS role_rules
(
    event_id String,
    cluster LowCardinality(String),
    day Date32,
    received_at DateTime64(6, 'UTC'),
    event_time DateTime64(6, 'UTC'),
    stage LowCardinality(Nullable(String)),
    audit_id Nullable(String),
    verb LowCardinality(Nullable(String)),
    user_name LowCardinality(Nullable(String)),
    user_groups Array(String),
    impersonated_user_name LowCardinality(Nullable(String)),
    source_ip Nullable(String),
    user_agent LowCardinality(Nullable(String)),
    resource LowCardinality(Nullable(String)),
    subresource LowCardinality(Nullable(String)),
    namespace LowCardinality(Nullable(String)),
    name Nullable(String),
    response_code Nullable(Int32),
    decision LowCardinality(Nullable(String)),
    body LowCardinality(String),
    role_kind LowCardinality(String),
    rule_index Int32,
    verbs Array(String),
    api_groups Array(String),
    resources Array(String),
    resource_names Array(String),
    non_resource_urls Array(String),
    INDEX event_id_bloom event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX audit_id_bloom audit_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX user_name_bloom user_name TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX source_ip_bloom source_ip TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX received_at_minmax received_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(day)
PRIMARY KEY (cluster, event_time)
ORDER BY (cluster, event_time, event_id, rule_index)
TTL toDateTime(day) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- One subject of a RoleBinding or ClusterRoleBinding written through the API.
CREATE TABLE IF NOT EXISTS role_subjects
(
    event_id String,
    cluster LowCardinality(String),
    day Date32,
    received_at DateTime64(6, 'UTC'),
    event_time DateTime64(6, 'UTC'),
    stage LowCardinality(Nullable(String)),
    audit_id Nullable(String),
    verb LowCardinality(Nullable(String)),
    user_name LowCardinality(Nullable(String)),
    user_groups Array(String),
    impersonated_user_name LowCardinality(Nullable(String)),
    source_ip Nullable(String),
    user_agent LowCardinality(Nullable(String)),
    resource LowCardinality(Nullable(String)),
    subresource LowCardinality(Nullable(String)),
    namespace LowCardinality(Nullable(String)),
    name Nullable(String),
    response_code Nullable(Int32),
    decision LowCardinality(Nullable(String)),
    body LowCardinality(String),
    binding_kind LowCardinality(String),
    role_kind LowCardinality(Nullable(String)),
    role_name Nullable(String),
    subject_index Int32,
    subject_kind LowCardinality(Nullable(String)),
    subject_name Nullable(String),
    subject_namespace LowCardinality(Nullable(String)),
    INDEX event_id_bloom event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX audit_id_bloom audit_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX user_name_bloom user_name TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX source_ip_bloom source_ip TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX received_at_minmax received_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(day)
PRIMARY KEY (cluster, event_time)
ORDER BY (cluster, event_time, event_id, subject_index)
TTL toDateTime(day) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- One finding.
CREATE TABLE IF NOT EXISTS alerts
(
    alert_id String,
    cluster LowCardinality(String),
    day Date32,
    received_at DateTime64(6, 'UTC'),
    event_time DateTime64(6, 'UTC'),
    raised_at DateTime64(6, 'UTC'),
    rule_id LowCardinality(String),
    rule_version Int32,
    title LowCardinality(String),
    severity LowCardinality(String),
    summary String,
    actor Nullable(String),
    target Nullable(String),
    namespace LowCardinality(Nullable(String)),
    source_ip Nullable(String),
    attack Array(String),
    tags Array(String),
    evidence Array(String),
    details String CODEC(ZSTD(3)),
    risk_score Nullable(Int32),
    user_name LowCardinality(Nullable(String)),
    pod Nullable(String),
    node LowCardinality(Nullable(String)),
    count Nullable(Int64),
    last_event_time Nullable(DateTime64(6, 'UTC')),
    INDEX alert_id_bloom alert_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX source_ip_bloom source_ip TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX user_name_bloom user_name TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX received_at_minmax received_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(day)
PRIMARY KEY (cluster, event_time)
ORDER BY (cluster, event_time, alert_id)
TTL toDateTime(day) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- One run of a scheduled rule, whether it succeeded or failed.
CREATE TABLE IF NOT EXISTS runs
(
    run_id String,
    cluster LowCardinality(String),
    day Date32,
    received_at DateTime64(6, 'UTC'),
    event_time DateTime64(6, 'UTC'),
    rule_id LowCardinality(String),
    rule_version Int32,
    period_start DateTime64(6, 'UTC'),
    period_end DateTime64(6, 'UTC'),
    took_ms Int64,
    period_rows Int64,
    findings Int64,
    new_findings Int64,
    outcome LowCardinality(String),
    error Nullable(String),
    INDEX received_at_minmax received_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(day)
PRIMARY KEY (cluster, event_time)
ORDER BY (cluster, event_time, run_id)
TTL toDateTime(day) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;
