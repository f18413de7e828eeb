//! The asynchronous face of a group member, whose librdkafka consumer lives in a thread of its own.

use std::sync::mpsc;

use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio::sync::oneshot;

use super::Config;
use super::member::{Command, Context, Member};
use crate::{Consumer, JournalError, Limits, Polled, Positions, Topic};

pub(super) struct KafkaConsumer {
    commands: mpsc::Sender<Command>,
    /// The answer to a poll whose caller went away. It is given to the next poll, so that no record is passed over.
    polling: Option<oneshot::Receiver<Result<Polled, JournalError>>>,
}

impl KafkaConsumer {
    pub(super) fn start(config: &Config, group: &str, topics: &[Topic]) -> Result<Self, JournalError> {
        let (commands, received) = mpsc::channel();
        let context = Context::new(config.clone(), received);
        let consumer: BaseConsumer<Context> = config.consumer(group).create_with_context(context)?;
        let names: Vec<String> = topics.iter().map(|topic| config.topic(*topic)).collect();
        consumer.subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        let member = Member::new(consumer);
        std::thread::Builder::new()
            .name(format!("kafka-{group}"))
            .spawn(move || member.run())
            .map_err(|error| JournalError::Kafka(format!("no thread for the consumer: {error}")))?;
        Ok(Self { commands, polling: None })
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, JournalError>>) -> Command,
    ) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| JournalError::Closed)?;
        answer.await.map_err(|_| JournalError::Closed)?
    }
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn poll(&mut self, limits: Limits) -> Result<Polled, JournalError> {
        if self.polling.is_none() {
            let (reply, answer) = oneshot::channel();
            self.commands.send(Command::Poll { limits, reply }).map_err(|_| JournalError::Closed)?;
            self.polling = Some(answer);
        }
        let Some(answer) = &mut self.polling else { return Err(JournalError::Closed) };
        let polled = answer.await.map_err(|_| JournalError::Closed);
        self.polling = None;
        polled?
    }

    async fn commit(&mut self, positions: &Positions) -> Result<(), JournalError> {
        let positions = positions.clone();
        self.ask(|reply| Command::Commit { positions, reply }).await
    }

    async fn lag(&mut self) -> Result<u64, JournalError> {
        self.ask(|reply| Command::Lag { reply }).await
    }
}
