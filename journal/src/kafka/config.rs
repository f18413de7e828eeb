//! How to reach Kafka, and the client settings that follow from it.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

use super::MAX_MESSAGE_BYTES;
use crate::Topic;

/// How to reach Kafka, and how the topics are created.
#[derive(Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bootstrap brokers, `host:port`, separated by commas.
    pub brokers: String,
    /// What the names of topics and consumer groups begin with: `vedette.audit`, `vedette.falco`,
    /// `vedette.alerts`, `vedette.dead-letters`, `vedette.shared`.
    pub topic_prefix: String,
    /// Partitions of a topic that Vedette creates: the most `analytics` processes that can share its work. `shared` has one.
    pub partitions: i32,
    /// Replicas of a topic that Vedette creates. 3 in production: the topics then get `min.insync.replicas` 2, so that
    /// an acknowledged event survives the loss of a broker.
    pub replication: i32,
    /// How long a topic that Vedette creates keeps its messages, read or not.
    pub retention_hours: u32,
    /// The name that brokers see in their logs and quotas.
    pub client_id: String,
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
    pub security_protocol: Option<String>,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub sasl_mechanism: Option<String>,
    pub sasl_username: Option<String>,
    pub sasl_password: Option<String>,
    /// PEM file with the authorities that sign the brokers' certificates; the system's when absent.
    pub ssl_ca_location: Option<String>,
    /// PEM files of a client certificate and its key.
    pub ssl_certificate_location: Option<String>,
    pub ssl_key_location: Option<String>,
    /// Further librdkafka settings, by their own names. They come last, and so win over all others.
    pub settings: BTreeMap<String, String>,
    /// How long an append may take before it fails.
    pub delivery_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".into(),
            topic_prefix: "vedette.".into(),
            partitions: 6,
            replication: 1,
            retention_hours: 72,
            client_id: "vedette".into(),
            security_protocol: None,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: None,
            ssl_ca_location: None,
            ssl_certificate_location: None,
            ssl_key_location: None,
            settings: BTreeMap::new(),
            delivery_timeout_ms: 20_000,
        }
    }
}

impl Config {
    /// Names the first key whose value can't work, and why.
    pub fn check(&self) -> Result<(), String> {
        const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
        if self.brokers.trim().is_empty() {
            return Err("brokers: names none".into());
        }
        for (key, value) in [("partitions", self.partitions), ("replication", self.replication)] {
            if value < 1 {
                return Err(format!("{key}: {value} is below 1"));
            }
        }
        match &self.security_protocol {
            Some(protocol) if !PROTOCOLS.contains(&protocol.to_ascii_lowercase().as_str()) => {
                Err(format!("security_protocol: {protocol} is none of {}", PROTOCOLS.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// A topic's name in Kafka.
    pub(super) fn topic(&self, topic: Topic) -> String {
        format!("{}{topic}", self.topic_prefix)
    }

    /// The topic of that name in Kafka.
    pub(super) fn topic_named(&self, name: &str) -> Option<Topic> {
        let name = name.strip_prefix(&self.topic_prefix)?;
        Topic::ALL.into_iter().find(|topic| topic.name() == name)
    }

    /// What every client needs.
    pub(super) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers).set("client.id", &self.client_id);
        let optional = [
            ("security.protocol", &self.security_protocol),
            ("sasl.mechanism", &self.sasl_mechanism),
            ("sasl.username", &self.sasl_username),
            ("sasl.password", &self.sasl_password),
            ("ssl.ca.location", &self.ssl_ca_location),
            ("ssl.certificate.location", &self.ssl_certificate_location),
            ("ssl.key.location", &self.ssl_key_location),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                client.set(name, value);
            }
        }
        client
    }

    fn with_settings(&self, mut client: ClientConfig) -> ClientConfig {
        for (name, value) in &self.settings {
            client.set(name, value);
        }
        client
    }

    /// Idempotent, so that librdkafka's own retries neither repeat nor reorder; acknowledged by all in-sync replicas.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut client = self.client();
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "zstd")
            .set("linger.ms", "5")
            .set("batch.size", "1048576")
            .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string())
            .set("message.timeout.ms", self.delivery_timeout_ms.to_string())
            // A request is given up with its messages, not after the default minute.
            .set("request.timeout.ms", self.delivery_timeout_ms.clamp(1_000, 30_000).to_string())
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "196608")
            // As the Java client does it: other producers' keys land where ours do.
            .set("partitioner", "murmur2_random");
        self.with_settings(client)
    }

    pub(super) fn consumer(&self, group: &str) -> ClientConfig {
        let mut client = self.client();
        client
            .set("group.id", format!("{}{group}", self.topic_prefix))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            // Eager: all partitions are handed over at a rebalance, so `Revoking` names all that the caller holds.
            .set("partition.assignment.strategy", "roundrobin")
            .set("session.timeout.ms", "15000")
            .set("heartbeat.interval.ms", "3000")
            // What is fetched ahead takes memory. librdkafka looks at the first figure before it fetches, in bytes as
            // unpacked, and the others count bytes as compressed: about a ninth.
            .set("queued.max.messages.kbytes", "16384")
            .set("fetch.queue.backoff.ms", "20")
            .set("max.partition.fetch.bytes", "524288")
            .set("fetch.max.bytes", "2097152")
            .set("receive.message.max.bytes", "134217728");
        self.with_settings(client)
    }

    pub(super) fn admin(&self) -> ClientConfig {
        self.with_settings(self.client())
    }
}

/// Without the password, and without the values of further settings, which may be secrets as well.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MASK: &str = "********";
        f.debug_struct("Config")
            .field("brokers", &self.brokers)
            .field("topic_prefix", &self.topic_prefix)
            .field("partitions", &self.partitions)
            .field("replication", &self.replication)
            .field("retention_hours", &self.retention_hours)
            .field("client_id", &self.client_id)
            .field("security_protocol", &self.security_protocol)
            .field("sasl_mechanism", &self.sasl_mechanism)
            .field("sasl_username", &self.sasl_username)
            .field("sasl_password", &self.sasl_password.as_ref().map(|_| MASK))
            .field("ssl_ca_location", &self.ssl_ca_location)
            .field("ssl_certificate_location", &self.ssl_certificate_location)
            .field("ssl_key_location", &self.ssl_key_location)
            .field("settings", &self.settings.keys())
            .field("delivery_timeout_ms", &self.delivery_timeout_ms)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_masks_passwords() {
        let mut config = Config { sasl_password: Some("hunter2".into()), ..Config::default() };
        config.settings.insert("ssl.key.password".into(), "hunter3".into());
        config.settings.insert("socket.keepalive.enable".into(), "true".into());
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("socket.keepalive.enable"), "{shown}");
    }

    #[test]
    fn names_of_topics_round_trip() {
        let config = Config { topic_prefix: "a.b-".into(), ..Config::default() };
        for topic in Topic::ALL {
            assert_eq!(config.topic_named(&config.topic(topic)), Some(topic));
        }
        assert_eq!(config.topic_named("vedette.audit"), None);
    }

    #[test]
    fn librdkafka_knows_every_setting() {
        let config = Config::default();
        for client in [config.producer(), config.consumer("g"), config.admin()] {
            client.create_native_config().expect("settings");
        }
    }

    #[test]
    fn own_settings_win() {
        let mut config = Config::default();
        config.settings.insert("linger.ms".into(), "50".into());
        assert_eq!(config.producer().get("linger.ms"), Some("50"));
    }
}
