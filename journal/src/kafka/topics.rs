//! Creates the topics that are missing. Existing ones are left as they are: their settings are the operator's.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

use super::{Config, MAX_MESSAGE_BYTES, METADATA_TIMEOUT};
use crate::{JournalError, Topic};

pub(super) async fn create(config: &Config) -> Result<(), JournalError> {
    let admin: AdminClient<DefaultClientContext> = config.admin().create()?;
    let names = Topic::ALL.map(|topic| config.topic(topic));
    let retention_ms = (u64::from(config.retention_hours) * 3_600_000).to_string();
    let max_message_bytes = MAX_MESSAGE_BYTES.to_string();
    // With three replicas one may be away and acknowledged events still lie on two.
    let min_insync = if config.replication >= 3 { "2" } else { "1" };
    let topics: Vec<NewTopic<'_>> = names
        .iter()
        .map(|name| {
            NewTopic::new(name, config.partitions, TopicReplication::Fixed(config.replication))
                .set("cleanup.policy", "delete")
                .set("retention.ms", &retention_ms)
                .set("max.message.bytes", &max_message_bytes)
                .set("min.insync.replicas", min_insync)
                // A replica that lacks acknowledged events never becomes the leader.
                .set("unclean.leader.election.enable", "false")
                // Batches stay as the producer compressed them.
                .set("compression.type", "producer")
        })
        .collect();
    let options =
        AdminOptions::new().request_timeout(Some(METADATA_TIMEOUT * 2)).operation_timeout(Some(METADATA_TIMEOUT));
    for outcome in admin.create_topics(&topics, &options).await? {
        match outcome {
            Ok(name) => tracing::info!(topic = name, partitions = config.partitions, "topic created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(JournalError::Kafka(format!("topic {name} can't be created: {code}"))),
        }
    }
    Ok(())
}
