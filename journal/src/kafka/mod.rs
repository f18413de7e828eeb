//! The journal on Kafka: one message an event, acknowledged by all in-sync replicas before an append returns.

mod config;
mod consumer;
mod gathered;
mod member;
mod message;
mod topics;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::future_producer::OwnedDeliveryResult;
use rdkafka::producer::{DeliveryFuture, FutureProducer, Producer};

pub use self::config::Config;
use self::consumer::KafkaConsumer;
use crate::{Consumer, Journal, JournalError, Record, Topic};

/// The largest message, key and headers included. The topics are created with the same limit.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// How long readiness and start-up wait for the brokers' answer.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before trying again to put a message into a full producer queue.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(10);

/// A connection to a Kafka cluster.
pub struct Kafka {
    config: Config,
    /// Replaced when the idempotent producer meets an error that it can't go on from.
    producer: RwLock<FutureProducer>,
    id: String,
}

impl Config {
    /// Connects, and creates the topics that are missing.
    pub async fn open(&self) -> Result<Arc<Kafka>, JournalError> {
        topics::create(self).await?;
        let producer: FutureProducer = self.producer().create()?;
        let client = producer.clone();
        let cluster = blocking(move || client.client().fetch_cluster_id(METADATA_TIMEOUT)).await?;
        let id = format!("kafka:{}/{}", cluster.as_deref().unwrap_or(&self.brokers), self.topic_prefix);
        Ok(Arc::new(Kafka { config: self.clone(), producer: RwLock::new(producer), id }))
    }
}

impl Kafka {
    fn producer(&self) -> FutureProducer {
        self.producer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands one record to the producer; waits while its queue is full, which is how a slow broker slows the senders.
    async fn enqueue(
        &self,
        producer: &FutureProducer,
        topic: (Topic, &str),
        record: &Record,
        deadline: Instant,
    ) -> Result<DeliveryFuture, JournalError> {
        let key = message::key(record);
        loop {
            match producer.send_result(message::encode(topic, &key, record)) {
                Ok(delivery) => return Ok(delivery),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) if Instant::now() < deadline => {
                    metrics::counter!("vedette_kafka_queue_full_total").increment(1);
                    tokio::time::sleep(QUEUE_FULL_PAUSE).await;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    /// Starts a new producer after a fatal error. The records of failed appends are the senders' to send again.
    fn revive(&self, failed: &FutureProducer) {
        let Some((code, reason)) = failed.client().fatal_error() else { return };
        let mut producer = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        if producer.client().fatal_error().is_none() {
            return;
        }
        tracing::error!(%code, reason, "kafka producer failed for good; starting a new one");
        match self.config.producer().create() {
            Ok(fresh) => *producer = fresh,
            Err(error) => tracing::error!(%error, "no new kafka producer"),
        }
    }

    async fn send(&self, producer: &FutureProducer, topic: Topic, records: &[Record]) -> Result<(), JournalError> {
        let name = self.config.topic(topic);
        let deadline = Instant::now() + Duration::from_millis(self.config.delivery_timeout_ms);
        let mut deliveries = Vec::with_capacity(records.len());
        let mut outcome = Ok(());
        for record in records {
            match self.enqueue(producer, (topic, &name), record, deadline).await {
                Ok(delivery) => deliveries.push(delivery),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        // All of them are awaited even after an error, so that no message of a failed append is still on its way.
        for delivery in deliveries {
            let delivered: Result<OwnedDeliveryResult, _> = delivery.await;
            match delivered {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => outcome = outcome.and(Err(error.into())),
                Err(_) => outcome = outcome.and(Err(JournalError::Closed)),
            }
        }
        outcome
    }
}

#[async_trait]
impl Journal for Kafka {
    async fn append(&self, topic: Topic, records: Vec<Record>) -> Result<(), JournalError> {
        if let Some(bytes) = records.iter().map(message::size).find(|bytes| *bytes > MAX_MESSAGE_BYTES) {
            return Err(JournalError::TooLarge { bytes, limit: MAX_MESSAGE_BYTES });
        }
        let producer = self.producer();
        let outcome = self.send(&producer, topic, &records).await;
        if outcome.is_err() {
            self.revive(&producer);
        }
        outcome
    }

    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, JournalError> {
        Ok(Box::new(KafkaConsumer::start(&self.config, group, topics)?))
    }

    async fn ready(&self) -> Result<(), JournalError> {
        let (producer, name) = (self.producer(), self.config.topic(Topic::Audit));
        let metadata = blocking(move || producer.client().fetch_metadata(Some(&name), METADATA_TIMEOUT)).await??;
        let problem = metadata.topics().iter().flat_map(|topic| {
            let partitions = topic.partitions().iter();
            topic.error().into_iter().chain(partitions.filter_map(|partition| partition.error()))
        });
        match problem.into_iter().next() {
            None => Ok(()),
            Some(code) => Err(JournalError::Kafka(RDKafkaErrorCode::from(code).to_string())),
        }
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn partitions(&self, topic: Topic) -> Result<i32, JournalError> {
        let (producer, name) = (self.producer(), self.config.topic(topic));
        let metadata = blocking(move || producer.client().fetch_metadata(Some(&name), METADATA_TIMEOUT)).await??;
        match metadata.topics().iter().map(|topic| topic.partitions().len()).sum::<usize>() {
            0 => Err(JournalError::Kafka(format!("topic {topic} has no partitions"))),
            partitions => Ok(i32::try_from(partitions).unwrap_or(i32::MAX)),
        }
    }

    fn id(&self) -> String {
        self.id.clone()
    }
}

impl From<KafkaError> for JournalError {
    fn from(error: KafkaError) -> Self {
        JournalError::Kafka(error.to_string())
    }
}

/// Runs a call that waits for the network on a thread where that holds nobody up.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, JournalError> {
    tokio::task::spawn_blocking(call).await.map_err(|_| JournalError::Closed)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::{Limits, Partition, Polled, Positions, Source};

    const DELIVERY_TIMEOUT: Duration = Duration::from_millis(1_500);
    /// librdkafka looks for messages past their time once a second.
    const IN_TIME: Duration = Duration::from_secs(4);

    /// A connection as `open` makes it, to brokers that may not be there.
    fn connect(brokers: String) -> Kafka {
        let delivery_timeout_ms = DELIVERY_TIMEOUT.as_millis() as u64;
        let config = Config { brokers, delivery_timeout_ms, ..Config::default() };
        let producer = RwLock::new(config.producer().create().unwrap());
        Kafka { config, producer, id: "test".into() }
    }

    fn records(numbers: std::ops::Range<i64>) -> Vec<Record> {
        let received_at = |number: i64| 1_700_000_000_000_000 + number;
        let record = |number| Record::new("c".into(), Source::Audit, received_at(number), number.to_string().into());
        numbers.map(record).collect()
    }

    async fn check_append_fails_in_time(kafka: &Kafka, numbers: std::ops::Range<i64>) {
        let started = Instant::now();
        let error = kafka.append(Topic::Audit, records(numbers)).await.unwrap_err();
        let took = started.elapsed();
        assert!(matches!(error, JournalError::Kafka(_)), "an error that sending again may mend: {error}");
        assert!(took < IN_TIME, "{took:?}");
    }

    #[tokio::test]
    async fn without_a_broker_appends_fail_in_time_and_never_succeed() {
        // Nobody listens at the one; the other takes connections and never says a word.
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        for address in [closed, silent.local_addr().unwrap()] {
            let kafka = connect(address.to_string());
            for _ in 0..2 {
                check_append_fails_in_time(&kafka, 0..300).await;
            }
        }
    }

    #[tokio::test]
    async fn what_is_acknowledged_around_a_lost_broker_is_there_when_it_is_back() {
        let cluster = MockCluster::new(1).unwrap();
        let kafka = connect(cluster.bootstrap_servers());
        cluster.create_topic(&kafka.config.topic(Topic::Audit), 1, 1).unwrap();
        kafka.append(Topic::Audit, records(0..100)).await.unwrap();
        cluster.broker_down(1).unwrap();
        check_append_fails_in_time(&kafka, 100..200).await;
        cluster.broker_up(1).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while kafka.append(Topic::Audit, records(200..300)).await.is_err() {
            assert!(Instant::now() < deadline, "appends succeed again");
        }
        let mut consumer = kafka.subscribe("all", &[Topic::Audit]).await.unwrap();
        let limits = Limits { records: 1_000, bytes: 1 << 20, wait: Duration::from_millis(200) };
        let mut read = std::collections::BTreeSet::new();
        while !records(0..100).iter().chain(&records(200..300)).all(|sent| read.contains(&sent.received_at)) {
            assert!(Instant::now() < deadline, "{} records came", read.len());
            if let Polled::Records(more) = consumer.poll(limits).await.unwrap() {
                read.extend(more.iter().map(|delivered| delivered.record.received_at));
            }
        }
    }

    /// The offset of the first record that comes.
    async fn first_offset(kafka: &Kafka, group: &str) -> (Box<dyn Consumer>, u64) {
        let mut consumer = kafka.subscribe(group, &[Topic::Audit]).await.unwrap();
        let limits = Limits { records: 1, bytes: 1 << 20, wait: Duration::from_millis(200) };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < deadline, "a record comes");
            if let Polled::Records(records) = consumer.poll(limits).await.unwrap() {
                return (consumer, records[0].offset);
            }
        }
    }

    #[tokio::test]
    async fn a_commit_moves_what_is_held_and_leaves_out_what_is_not() {
        let cluster = MockCluster::new(1).unwrap();
        let kafka = connect(cluster.bootstrap_servers());
        cluster.create_topic(&kafka.config.topic(Topic::Audit), 1, 1).unwrap();
        kafka.append(Topic::Audit, records(0..10)).await.unwrap();
        let (mut consumer, first) = first_offset(&kafka, "late").await;
        let position = |number, offset| (Partition { topic: Topic::Audit, number }, offset);
        consumer.commit(&Positions::from([position(0, first + 6), position(1, 3)])).await.unwrap();
        consumer.commit(&Positions::from([position(1, 4)])).await.unwrap();
        drop(consumer);
        assert_eq!(first_offset(&kafka, "late").await.1, first + 6);
    }
}
