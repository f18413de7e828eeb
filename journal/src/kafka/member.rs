//! A member of a consumer group: a thread that owns the librdkafka consumer and answers commands, also in the middle of a
//! rebalance, when librdkafka holds the thread inside its callback until the partitions may go.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::gathered::Gathered;
use super::{Config, message};
use crate::{JournalError, Limits, Partition, Polled, Positions};

/// How long a hand-over waits for the caller to store and commit. Well under `max.poll.interval.ms` (five minutes), after
/// which the group would go on without this member anyway.
const HAND_OVER: Duration = Duration::from_secs(15);
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long high watermarks are good for `lag`.
const WATERMARKS_AGE: Duration = Duration::from_secs(2);

type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

pub(super) enum Command {
    Poll { limits: Limits, reply: Reply<Polled> },
    Commit { positions: Positions, reply: Reply<()> },
    Lag { reply: Reply<u64> },
}

/// What the thread and the rebalance callback, which runs on it, both need.
pub(super) struct Context {
    config: Config,
    state: Mutex<State>,
}

struct State {
    commands: Receiver<Command>,
    /// The poll being served.
    poll: Option<(Limits, Reply<Polled>)>,
    /// Records of that poll so far.
    records: Gathered,
    /// An assignment that the caller has yet to hear of.
    assigned: Option<Vec<Partition>>,
    /// Why this member can't go on.
    lost: Option<String>,
    held: BTreeMap<Partition, Place>,
    watermarks_at: Option<Instant>,
}

/// Where this member is in a partition it holds.
#[derive(Clone, Copy, Default)]
struct Place {
    /// The offset after the last one delivered.
    next: Option<u64>,
    /// What this member has committed.
    committed: Option<u64>,
    high: u64,
}

impl Context {
    pub(super) fn new(config: Config, commands: Receiver<Command>) -> Self {
        let state = State {
            commands,
            poll: None,
            records: Gathered::default(),
            assigned: None,
            lost: None,
            held: BTreeMap::new(),
            watermarks_at: None,
        };
        Self { config, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn partitions(&self, list: &TopicPartitionList) -> Vec<Partition> {
        let named = list.elements().into_iter();
        named
            .filter_map(|one| Some(Partition { topic: self.config.topic_named(one.topic())?, number: one.partition() }))
            .collect()
    }

    fn list(
        &self,
        positions: impl IntoIterator<Item = (Partition, Offset)>,
    ) -> Result<TopicPartitionList, JournalError> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in positions {
            list.add_partition_offset(&self.config.topic(partition.topic), partition.number, offset)?;
        }
        Ok(list)
    }

    /// Commits on behalf of the caller. A partition that went to another member is left out: to commit it would move
    /// its offsets under the new owner, and to refuse the commit would hold up the partitions that are still held.
    fn commit(
        &self,
        consumer: &BaseConsumer<Self>,
        state: &mut State,
        positions: &Positions,
    ) -> Result<(), JournalError> {
        let mut forward = Positions::new();
        for (partition, offset) in positions {
            let Some(place) = state.held.get(partition) else {
                let Partition { topic, number } = partition;
                tracing::warn!(%topic, partition = number, offset, "not committed: the partition is no longer held");
                continue;
            };
            if place.committed.is_none_or(|committed| committed < *offset) {
                forward.insert(*partition, *offset);
            }
        }
        if forward.is_empty() {
            return Ok(());
        }
        let list = self.list(forward.iter().map(|(partition, offset)| (*partition, Offset::Offset(*offset as i64))))?;
        consumer.commit(&list, CommitMode::Sync)?;
        for (partition, offset) in forward {
            state.held.entry(partition).or_default().committed = Some(offset);
        }
        Ok(())
    }

    fn lag(&self, consumer: &BaseConsumer<Self>, state: &mut State) -> Result<u64, JournalError> {
        self.find_places(consumer, state)?;
        // A position beyond its watermark shows that the watermark is old.
        let outrun = state.held.values().any(|place| place.next > Some(place.high));
        if outrun || state.watermarks_at.is_none_or(|at| at.elapsed() > WATERMARKS_AGE) {
            for (partition, place) in &mut state.held {
                let name = self.config.topic(partition.topic);
                let (low, high) = consumer.fetch_watermarks(&name, partition.number, OFFSETS_TIMEOUT)?;
                place.high = high.max(0) as u64;
                place.next = place.next.max(Some(low.max(0) as u64));
            }
            state.watermarks_at = Some(Instant::now());
        }
        Ok(state.held.values().map(|place| place.high.saturating_sub(place.next.unwrap_or(0))).sum())
    }

    /// Where the group is in the partitions of which nothing has been delivered yet.
    fn find_places(&self, consumer: &BaseConsumer<Self>, state: &mut State) -> Result<(), JournalError> {
        let unknown = state.held.iter().filter(|(_, place)| place.next.is_none());
        let list = self.list(unknown.map(|(partition, _)| (*partition, Offset::Invalid)))?;
        if list.count() == 0 {
            return Ok(());
        }
        let committed = consumer.committed_offsets(list, OFFSETS_TIMEOUT)?;
        for one in committed.elements() {
            let Some(topic) = self.config.topic_named(one.topic()) else { continue };
            let place = state.held.entry(Partition { topic, number: one.partition() }).or_default();
            place.next = Some(one.offset().to_raw().unwrap_or(0).max(0) as u64);
        }
        Ok(())
    }

    /// Tells the caller what goes, and answers its commits until its next poll, or until its time is up.
    fn hand_over(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let mut state = self.state();
        let leaving = self.partitions(list);
        // Records that the caller has not seen go to the next owner, which starts at the committed offsets.
        state.records.clear();
        state.assigned = None;
        if !leaving.is_empty()
            && let Some((_, reply)) = state.poll.take()
            && reply.send(Ok(Polled::Revoking(leaving.clone()))).is_ok()
        {
            self.await_next_poll(consumer, &mut state);
        }
        for partition in leaving {
            state.held.remove(&partition);
        }
    }

    fn await_next_poll(&self, consumer: &BaseConsumer<Self>, state: &mut State) {
        let deadline = Instant::now() + HAND_OVER;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match state.commands.recv_timeout(left) {
                Ok(Command::Poll { limits, reply }) => {
                    state.poll = Some((limits, reply));
                    return;
                }
                Ok(other) => self.answer(consumer, state, other),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!("partitions are handed over before their records are committed");
                    metrics::counter!("vedette_kafka_hand_over_timeouts_total").increment(1);
                    return;
                }
            }
        }
    }

    /// A caller that is gone does not need its answer.
    fn answer(&self, consumer: &BaseConsumer<Self>, state: &mut State, command: Command) {
        match command {
            Command::Poll { limits, reply } => state.poll = Some((limits, reply)),
            Command::Commit { positions, reply } => {
                let _ = reply.send(self.commit(consumer, state, &positions));
            }
            Command::Lag { reply } => {
                let _ = reply.send(self.lag(consumer, state));
            }
        }
    }
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(list) => self.hand_over(consumer, list),
            Rebalance::Assign(list) => {
                let partitions = self.partitions(list);
                let mut state = self.state();
                state.watermarks_at = None;
                state.held = partitions.iter().map(|partition| (*partition, Place::default())).collect();
                state.assigned = (!partitions.is_empty()).then_some(partitions);
            }
            Rebalance::Error(error) => tracing::warn!(%error, "kafka rebalance failed"),
        }
    }
}

/// The thread's side.
pub(super) struct Member {
    consumer: BaseConsumer<Context>,
}

impl Member {
    pub(super) fn new(consumer: BaseConsumer<Context>) -> Self {
        Self { consumer }
    }

    /// Serves commands until the caller drops its end; then the consumer leaves the group.
    pub(super) fn run(self) {
        let context = self.consumer.context().clone();
        loop {
            let mut state = context.state();
            if state.poll.is_none() {
                let Ok(command) = state.commands.recv() else { return };
                context.answer(&self.consumer, &mut state, command);
            }
            drop(state);
            self.serve_poll(&context);
        }
    }

    /// Fills the poll being served. The lock is not held over `poll`, which may run the callback.
    fn serve_poll(&self, context: &Context) {
        let started = Instant::now();
        let mut bytes = 0;
        loop {
            let mut state = context.state();
            let Some((limits, _)) = &state.poll else { return };
            let limits = *limits;
            if let Some(reason) = state.lost.clone().filter(|_| state.records.is_empty()) {
                return finish(state, Err(JournalError::Lost(reason)));
            }
            if let Some(partitions) = state.assigned.take() {
                return finish(state, Ok(Polled::Assigned(partitions)));
            }
            if state.records.is_empty() {
                bytes = 0;
            }
            let full = state.records.len() >= limits.records || bytes >= limits.bytes;
            let left = limits.wait.saturating_sub(started.elapsed());
            // Once there is a record, only what is already here comes along.
            let timeout = if state.records.is_empty() { left } else { Duration::ZERO };
            if full && !state.records.is_empty() {
                return deliver(state);
            }
            drop(state);
            let polled = self.consumer.poll(timeout);
            let mut state = context.state();
            match polled {
                Some(Ok(message)) => {
                    let Some(topic) = context.config.topic_named(message.topic()) else { continue };
                    let partition = Partition { topic, number: message.partition() };
                    let offset = message.offset().max(0) as u64;
                    let payload = message.payload().unwrap_or_default();
                    bytes += payload.len();
                    state.records.push(partition, offset, message::decode(topic, &message), payload);
                }
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => state.lost = Some(error.to_string()),
                Some(Err(error)) if lasting(&error) && state.records.is_empty() => {
                    return finish(state, Err(error.into()));
                }
                Some(Err(error)) => tracing::warn!(%error, "kafka consumer"),
                None if !state.records.is_empty() => return deliver(state),
                None if state.assigned.is_none() && started.elapsed() >= limits.wait => {
                    return finish(state, Ok(Polled::Idle));
                }
                None => {}
            }
        }
    }
}

fn deliver(mut state: MutexGuard<'_, State>) {
    let records = state.records.take();
    for delivered in &records {
        state.held.entry(delivered.partition).or_default().next = Some(delivered.offset + 1);
    }
    finish(state, Ok(Polled::Records(records)));
}

/// Answers the poll. The caller keeps its end of an unfinished poll, so an answer is only lost with the whole consumer.
fn finish(mut state: MutexGuard<'_, State>, polled: Result<Polled, JournalError>) {
    if let Some((_, reply)) = state.poll.take() {
        let _ = reply.send(polled);
    }
}

/// Whether an error will not pass by itself: librdkafka reconnects and retries on its own after all others.
fn lasting(error: &KafkaError) -> bool {
    match error {
        KafkaError::MessageConsumption(code) => matches!(
            code,
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::Authentication
        ),
        _ => false,
    }
}
