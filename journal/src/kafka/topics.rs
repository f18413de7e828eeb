//! Creates the topics that are missing. Existing ones are left as they are: their settings are the operator's, and where
//! all of them exist, the right to create topics is not needed.

use std::collections::BTreeSet;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{Config, MAX_MESSAGE_BYTES, METADATA_TIMEOUT, blocking};
use crate::{JournalError, Topic};

pub(super) async fn create(config: &Config) -> Result<(), JournalError> {
    let admin: AdminClient<DefaultClientContext> = config.admin().create()?;
    let ask = move || {
        let existing = existing_names(&admin);
        (admin, existing)
    };
    let (admin, existing) = blocking(ask).await?;
    let existing = existing?;
    let topics = Topic::ALL.map(|topic| (config.topic(topic), partitions(config, topic)));
    let missing: Vec<_> = topics.into_iter().filter(|(name, _)| !existing.contains(name)).collect();
    if missing.is_empty() { Ok(()) } else { create_all(config, &admin, &missing).await }
}

fn partitions(config: &Config, topic: Topic) -> i32 {
    if topic == Topic::Shared { 1 } else { config.partitions }
}

/// The topics that this client may see. All are asked for: asked for one by its name, a broker with
/// `auto.create.topics.enable` creates it.
fn existing_names(admin: &AdminClient<DefaultClientContext>) -> Result<BTreeSet<String>, KafkaError> {
    let metadata = admin.inner().fetch_metadata(None, METADATA_TIMEOUT * 2)?;
    Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
}

async fn create_all(
    config: &Config,
    admin: &AdminClient<DefaultClientContext>,
    missing: &[(String, i32)],
) -> Result<(), JournalError> {
    let retention_ms = (u64::from(config.retention_hours) * 3_600_000).to_string();
    let max_message_bytes = MAX_MESSAGE_BYTES.to_string();
    // With three replicas one may be away and acknowledged events still lie on two.
    let min_insync = if config.replication >= 3 { "2" } else { "1" };
    let topics: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|(name, partitions)| {
            NewTopic::new(name, *partitions, TopicReplication::Fixed(config.replication))
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
            Ok(name) => tracing::info!(topic = name, "topic created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(JournalError::Kafka(format!("topic {name} can't be created: {code}"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    /// The mock broker creates no topic for anybody, as a broker does for one who may only read and write.
    #[tokio::test]
    async fn topics_that_exist_need_no_right_to_create_any() {
        let cluster = MockCluster::new(1).unwrap();
        let config = Config { brokers: cluster.bootstrap_servers(), ..Config::default() };
        let names = Topic::ALL.map(|topic| config.topic(topic));
        for name in &names[1..] {
            cluster.create_topic(name, 1, 1).unwrap();
        }
        assert!(create(&config).await.is_err(), "one is missing");
        cluster.create_topic(&names[0], 1, 1).unwrap();
        create(&config).await.unwrap();
    }
}
