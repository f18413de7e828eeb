//! Real services: VEDETTE_TEST_KAFKA, VEDETTE_TEST_CLICKHOUSE and VEDETTE_TEST_S3, as `docker/services.sh up` prints them.
//! Without them the tests that need them pass without a word, unless VEDETTE_REQUIRE_SERVICES is set, as it is in CI.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::Method;

use crate::program::{Settings, http};

fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok();
    let required = std::env::var_os("VEDETTE_REQUIRE_SERVICES").is_some();
    assert!(value.is_some() || !required, "{name} is not set, and VEDETTE_REQUIRE_SERVICES is");
    value
}

/// What no other test, and no other run of this one, has.
fn unique() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("{now}_{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A bucket that no other test has.
pub struct Bucket {
    server: String,
    name: String,
}

impl Bucket {
    pub fn new() -> Option<Self> {
        let (server, name) = (variable("VEDETTE_TEST_S3")?, format!("road-{}", unique().replace('_', "-")));
        let (status, answer) = http(Method::PUT, &format!("{server}/{name}"), Vec::new());
        assert_eq!(status, 200, "{answer}");
        Some(Self { server, name })
    }

    pub fn settings(&self, settings: Settings) -> Settings {
        let options = format!(
            "{{ aws_endpoint = '{}', aws_allow_http = 'true', aws_region = 'us-east-1', aws_access_key_id = 'key', \
             aws_secret_access_key = 'secret' }}",
            self.server
        );
        settings
            .with("STORE__LAKE__URL", format!("s3://{}/lake", self.name))
            .with("STORE__LAKE__STORAGE_OPTIONS", options)
    }
}

/// Topics and a database that no other test has.
pub struct Services {
    brokers: String,
    clickhouse: String,
    name: String,
}

impl Services {
    pub fn find() -> Option<Self> {
        let (brokers, clickhouse) = (variable("VEDETTE_TEST_KAFKA")?, variable("VEDETTE_TEST_CLICKHOUSE")?);
        Some(Self { brokers, clickhouse, name: format!("road_{}", unique()) })
    }

    pub fn settings(&self, settings: Settings) -> Settings {
        settings
            .with("JOURNAL__KIND", "kafka")
            .with("JOURNAL__KAFKA__BROKERS", &self.brokers)
            .with("JOURNAL__KAFKA__TOPIC_PREFIX", format!("{}.", self.name))
            .with("JOURNAL__KAFKA__PARTITIONS", 3)
            // The broker's least: how long it takes to notice that a member was killed.
            .with("JOURNAL__KAFKA__SETTINGS", "{ 'session.timeout.ms' = '6000' }")
            .with("STORE__KIND", "clickhouse")
            .with("STORE__CLICKHOUSE__URL", &self.clickhouse)
            .with("STORE__CLICKHOUSE__DATABASE", &self.name)
    }

    /// Asks ClickHouse itself; its answer as text. The tables are the test's own.
    #[track_caller]
    pub fn clickhouse(&self, sql: &str) -> String {
        let (status, answer) = self.try_clickhouse(sql);
        assert_eq!(status, 200, "{sql}: {answer}");
        answer
    }

    fn try_clickhouse(&self, sql: &str) -> (u16, String) {
        http(Method::POST, &format!("{}/?database={}", self.clickhouse, self.name), sql.as_bytes().to_vec())
    }

    /// Asks ClickHouse itself for one whole number; 0 while the table is not there yet.
    pub fn number(&self, sql: &str) -> u64 {
        let (status, answer) = self.try_clickhouse(sql);
        if status == 200 { answer.trim().parse().unwrap() } else { 0 }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {}", self.name);
        http(Method::POST, &format!("{}/", self.clickhouse), sql.into_bytes());
    }
}
