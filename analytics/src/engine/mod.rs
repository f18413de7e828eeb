//! The detection engine: rules planned once by DataFusion, their filters evaluated together over decoded batches.

pub mod check;
mod clock;
mod conditions;
mod finding;
pub mod history;
mod input;
mod inspect;
mod learn;
mod open;
mod part;
mod plan;
mod report;
mod slot;
mod state;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};
use metrics::Counter;
use vedette_detections::sql::session_with_lists;
use vedette_detections::{Lists, Rule, RuleKind, place};
use vedette_schemas::{EventId, Table};

use clock::Clock;
use conditions::{Conditions, Rows};
use finding::Subject;
pub use finding::{Finding, json_rows};
pub use history::{Apart, HistoryError, Newest, Stored};
use input::Input;
use learn::Learning;
use open::Open;
pub use part::Part;
pub use plan::reach;
pub use report::report;
use state::{Hits, State};

/// The id of the rule behind findings about failing rules.
pub const RULE_FAILED: &str = "vedette_rule_failed";
/// The id of the rule behind findings about rules that had to let go of what they keep.
pub const RULE_SHORTENED: &str = "vedette_rule_shortened";

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// `place` is the rule, with its file if it has one.
    #[error("{place}: {reason}")]
    Rule { place: String, reason: String },
    #[error("engine: {0}")]
    Context(#[from] DataFusionError),
}

/// Decoded rows of one batch, by table. Tables without rows may be absent.
pub type Tables = BTreeMap<Table, RecordBatch>;

/// What the engine may be told.
#[derive(Clone, Debug)]
pub struct Options {
    pub part: Part,
    pub lists: Arc<Lists>,
    /// How long events that come out of order are waited for, in microseconds.
    pub lateness: i64,
    /// Bytes that rules may keep together. Beyond them the rule that keeps most lets its oldest rows go, and a finding says so.
    pub state_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { part: Part::All, lists: Arc::default(), lateness: 60_000_000, state_bytes: 1 << 30 }
    }
}

/// A rule as the engine runs it.
struct Live {
    rule: Rule,
    /// What it keeps, if it looks at more than one row.
    state: Option<State>,
    subject: Option<Subject>,
    /// Whether it looks back elsewhere, on the events that pass its filters here.
    elsewhere: bool,
    hits: Counter,
    micros: Counter,
    /// Time spent on it so far.
    spent: Spent,
    failed: bool,
    /// When a finding last said that it had to let rows go, in microseconds since 1970.
    shortened_at: i64,
}

/// Time that adds up.
#[derive(Default)]
struct Spent(AtomicU64);

impl Spent {
    /// Returns the sum.
    fn add(&self, time: Duration) -> Duration {
        let nanos = time.as_nanos() as u64;
        Duration::from_nanos(self.0.fetch_add(nanos, Ordering::Relaxed) + nanos)
    }
}

/// An input of a rule.
struct Tap {
    /// The rule's place among all rules.
    rule: usize,
    /// The input's place among the rule's.
    number: usize,
    input: Input,
    /// What it needs to learn from a store, if its rule keeps anything.
    learning: Option<Learning>,
    /// Events that it was given from the store and may be given again.
    learned: HashSet<EventId>,
}

/// The inputs that read one table, evaluated together.
struct Room {
    conditions: Conditions,
    taps: Vec<Tap>,
    /// Time spent on looking into bodies so far, which the rules that ask for it share.
    looking: Duration,
}

/// What a rule has cost so far.
#[derive(Clone, Debug)]
pub struct Cost {
    pub rule: String,
    /// Spent on its conditions, on what it selects and keeps, and on its share of looking into bodies.
    pub spent: Duration,
}

/// Rules, compiled.
pub struct Engine {
    context: SessionContext,
    options: Options,
    rules: Vec<Live>,
    rooms: BTreeMap<Table, Room>,
    clock: Clock,
    open: Open,
    /// Events of the last batch that rules look back on elsewhere.
    wanted: HashSet<EventId>,
    batches: u64,
}

/// What one input selected of one batch, or why it could not.
type Outcome = Result<Vec<RecordBatch>, DataFusionError>;

/// Batches between two looks at how much is kept.
const WEIGH: u64 = 16;

impl Engine {
    /// Plans every rule. The first that doesn't plan is the error. Scheduled rules are then left out: the store answers them.
    pub async fn new(rules: Vec<Rule>) -> Result<Self, EngineError> {
        Self::with(rules, Options::default()).await
    }

    pub async fn with(rules: Vec<Rule>, options: Options) -> Result<Self, EngineError> {
        let settings = |config: SessionConfig| {
            let mut config = config.with_target_partitions(1);
            // In rules a second pass only finds that the first has left nothing to do, and hundreds of them wait for it.
            config.options_mut().optimizer.max_passes = 1;
            config
        };
        let mut engine = Self {
            context: session_with_lists(options.lists.clone(), settings)?,
            clock: match options.part {
                Part::Groups => Clock::led(options.lateness),
                Part::All | Part::Filters => Clock::new(options.lateness),
            },
            options,
            rules: Vec::new(),
            rooms: BTreeMap::new(),
            open: Open::default(),
            wanted: HashSet::new(),
            batches: 0,
        };
        for rule in rules {
            if engine.options.part == Part::Groups && plan::reach(&rule).is_none() {
                continue;
            }
            let planned = match rule.kind {
                RuleKind::Scheduled => report::check(&rule, &engine.options.lists).await,
                _ => engine.add(rule.clone()).await,
            };
            if let Err(reason) = planned {
                let reason = reason.to_string();
                return Err(EngineError::Rule { place: place(&rule, &reason), reason });
            }
        }
        Ok(engine)
    }

    async fn add(&mut self, rule: Rule) -> Result<(), DataFusionError> {
        let mut planned = plan::plan(&self.context, &rule).await?;
        let elsewhere = self.options.part == Part::Filters && plan::reach(&rule).is_some();
        if elsewhere {
            (planned.state, planned.subject) = (None, None);
        }
        for (number, (mut input, filters)) in planned.inputs.into_iter().enumerate() {
            let table = input.table;
            let new =
                || Room { conditions: Conditions::new(table.schema()), taps: Vec::new(), looking: Duration::ZERO };
            let room = self.rooms.entry(table).or_insert_with(new);
            input.program = room.conditions.add(&self.context, &filters)?;
            let learning = Learning::new(&rule, &input, &filters).filter(|_| !elsewhere);
            room.taps.push(Tap { rule: self.rules.len(), number, input, learning, learned: HashSet::new() });
        }
        self.rules.push(Live {
            hits: metrics::counter!("vedette_rule_hits_total", "rule" => rule.id.clone()),
            micros: metrics::counter!("vedette_rule_microseconds_total", "rule" => rule.id.clone()),
            rule,
            state: planned.state,
            subject: planned.subject,
            elsewhere,
            spent: Spent::default(),
            failed: false,
            shortened_at: i64::MIN,
        });
        Ok(())
    }

    /// Takes over, from an engine that has run the same rules, what they keep and have cost, and how far time has come.
    pub fn inherit(&mut self, from: &mut Engine, rules: impl Fn(&str) -> bool) {
        let places = from.rules.iter().enumerate().map(|(place, live)| (live.rule.id.clone(), place));
        let places: BTreeMap<String, usize> = places.collect();
        for live in self.rules.iter_mut().filter(|live| rules(&live.rule.id)) {
            let Some(old) = places.get(&live.rule.id).and_then(|place| from.rules.get_mut(*place)) else { continue };
            std::mem::swap(&mut live.state, &mut old.state);
            std::mem::swap(&mut live.spent, &mut old.spent);
            live.failed = old.failed;
            live.shortened_at = old.shortened_at;
        }
        self.inherit_learned(from, &rules);
        self.open.unite(std::mem::take(&mut from.open), rules);
        self.clock.unite(&from.clock);
        self.batches += from.batches;
    }

    /// Whether it has seen nothing yet.
    pub fn is_new(&self) -> bool {
        self.batches == 0
    }

    /// How many rules are live.
    pub fn len(&self) -> usize {
        self.rules.iter().filter(|live| !live.failed).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The findings of one batch. A rule that fails is taken out, and a finding says so; the others go on.
    pub async fn evaluate(&mut self, tables: &Tables, now: i64) -> Vec<Finding> {
        self.batches += 1;
        self.wanted.clear();
        let mut findings = Vec::new();
        for (table, batch) in tables {
            let Some(room) = self.rooms.get_mut(table).filter(|_| batch.num_rows() > 0) else { continue };
            for (tap, outcome) in room.outcomes(&self.rules, &self.context, batch, |_| true).await {
                let Tap { rule, number, learned, .. } = &room.taps[tap];
                let (live, number) = (&mut self.rules[*rule], *number);
                let outcome = outcome.and_then(|rows| history::without_any(rows, learned));
                if live.elsewhere
                    && let Ok(rows) = &outcome
                {
                    self.wanted.extend(rows.iter().flat_map(history::event_ids).flatten());
                    continue;
                }
                if let Err(error) = live.take(number, outcome, now, &mut self.open, &mut findings) {
                    findings.push(live.fail(&error, now));
                }
            }
        }
        let observed = if self.options.part == Part::Groups { &[][..] } else { &[Table::Audit, Table::Falco] };
        for table in observed {
            tables.get(table).into_iter().for_each(|batch| self.clock.observe(batch));
        }
        self.advance(now, &mut findings).await;
        findings
    }

    /// The findings that are due because time has gone on: nothing older than `until`, in microseconds since 1970, is on its
    /// way from any cluster.
    pub async fn pass(&mut self, until: i64, now: i64) -> Vec<Finding> {
        self.batches += 1;
        self.clock.pass(until);
        let mut findings = Vec::new();
        self.advance(now, &mut findings).await;
        findings
    }

    /// The findings that are due because time has gone on and no events came: all that was received up to `until` has been
    /// read, in microseconds since 1970.
    pub async fn go_on(&mut self, until: i64, now: i64) -> Vec<Finding> {
        self.batches += 1;
        self.clock.go_on(until);
        let mut findings = Vec::new();
        self.advance(now, &mut findings).await;
        findings
    }

    /// The findings of `evaluate`, `pass` and `go_on` whose counters went up since the last call.
    pub fn repeats(&mut self) -> Vec<Finding> {
        let changed = self.open.changed();
        self.open.close(self.clock.horizon());
        changed
    }

    async fn advance(&mut self, now: i64, findings: &mut Vec<Finding>) {
        for live in self.rules.iter_mut().filter(|live| !live.failed) {
            let started = Instant::now();
            let Some(state) = &mut live.state else { continue };
            let result = match state.advance(&self.context, &self.clock).await {
                Ok(hits) => live.found(hits, now, &mut self.open, findings),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                findings.push(live.fail(&error, now));
            }
            live.took(started.elapsed());
        }
        if self.options.part != Part::Filters && self.batches.is_multiple_of(WEIGH) {
            self.weigh(now, findings);
        }
    }

    /// Keeps what is kept within bounds.
    fn weigh(&mut self, now: i64, findings: &mut Vec<Finding>) {
        let mut bytes: Vec<usize> = self.rules.iter().map(|live| live.state.as_ref().map_or(0, State::bytes)).collect();
        let mut total: usize = bytes.iter().sum();
        while total > self.options.state_bytes {
            let Some(most) = (0..bytes.len()).max_by_key(|rule| bytes[*rule]) else { break };
            let live = &mut self.rules[most];
            let Some((until, state)) = live.state.as_mut().and_then(|state| Some((state.shed()?, state))) else {
                break;
            };
            let left = state.bytes();
            total -= bytes[most].saturating_sub(left);
            if left >= bytes[most] {
                break;
            }
            bytes[most] = left;
            findings.extend(live.shortened(until, now));
        }
        metrics::gauge!("vedette_rule_state_bytes").set(total as f64);
        metrics::gauge!("vedette_findings_open").set(self.open.len() as f64);
    }
}

impl Room {
    /// What the inputs select of a batch, in their order; those that select nothing are left out. `takes` says
    /// whether an input is asked at all.
    async fn outcomes(
        &mut self,
        rules: &[Live],
        context: &SessionContext,
        batch: &RecordBatch,
        takes: impl Fn(&Tap) -> bool,
    ) -> Vec<(usize, Outcome)> {
        let Self { conditions, taps, looking } = self;
        conditions.begin();
        let mut passed = Vec::with_capacity(taps.len());
        let mut started = Instant::now();
        for tap in taps.iter() {
            let live = &rules[tap.rule];
            if live.failed || !takes(tap) {
                passed.push(Ok(Rows::none(batch.num_rows())));
                continue;
            }
            passed.push(conditions.before_bodies(batch, &tap.input.program));
            live.since(&mut started);
        }
        let looked = conditions.look_into_bodies(batch);
        *looking += started.elapsed();
        started = Instant::now();
        let mut outcomes = Vec::new();
        for (index, (tap, rows)) in taps.iter().zip(passed).enumerate() {
            let rows = rows.and_then(|mut rows| {
                if tap.input.program.looks_into_bodies() && !rows.is_empty() {
                    looked.as_ref().map_err(|error| DataFusionError::Execution(error.to_string()))?;
                    conditions.in_bodies(batch, &tap.input.program, &mut rows)?;
                }
                Ok(rows)
            });
            match rows {
                Ok(rows) if rows.is_empty() => {}
                Ok(rows) if rules[tap.rule].elsewhere => outcomes.push((index, history::ids(batch, &rows.filter()))),
                Ok(rows) => outcomes.push((index, tap.input.rows(context, batch, &rows).await)),
                Err(error) => outcomes.push((index, Err(error))),
            }
            rules[tap.rule].since(&mut started);
        }
        outcomes
    }
}

impl Live {
    /// Takes what an input selected: a match's rows are findings, other kinds keep them.
    fn take(
        &mut self,
        input: usize,
        outcome: Outcome,
        now: i64,
        open: &mut Open,
        findings: &mut Vec<Finding>,
    ) -> Result<(), DataFusionError> {
        let started = Instant::now();
        for rows in outcome?.iter().filter(|rows| rows.num_rows() > 0) {
            match &mut self.state {
                Some(state) => state.push(input, rows)?,
                None => {
                    let found = finding::from_rows(&self.rule, self.subject.as_ref(), rows, None, now)?;
                    self.raise(found, open, findings);
                }
            }
        }
        self.took(started.elapsed());
        Ok(())
    }

    fn found(
        &mut self,
        hits: Vec<Hits>,
        now: i64,
        open: &mut Open,
        findings: &mut Vec<Finding>,
    ) -> Result<(), DataFusionError> {
        for Hits { rows, evidence } in hits {
            let found = finding::from_rows(&self.rule, self.subject.as_ref(), &rows, Some(evidence), now)?;
            self.raise(found, open, findings);
        }
        Ok(())
    }

    fn raise(&self, found: Vec<Finding>, open: &mut Open, findings: &mut Vec<Finding>) {
        self.hits.increment(found.len() as u64);
        match &self.subject {
            Some(subject) => findings.extend(found.into_iter().filter_map(|f| open.take(f, subject.suppress))),
            None => findings.extend(found),
        }
    }

    fn took(&self, time: Duration) {
        // In a process that shares the work, a rule runs in two engines.
        let spent = self.spent.add(time);
        self.micros.increment((spent.as_micros() - (spent - time).as_micros()) as u64);
    }

    /// Adds the time since `started` to what the rule has cost, and starts anew.
    fn since(&self, started: &mut Instant) {
        let now = Instant::now();
        self.took(now - *started);
        *started = now;
    }

    fn fail(&mut self, error: &DataFusionError, now: i64) -> Finding {
        tracing::error!(rule = %self.rule.id, %error, "rule failed and is disabled");
        metrics::counter!("vedette_rule_errors_total", "rule" => self.rule.id.clone()).increment(1);
        self.failed = true;
        self.state = None;
        Finding::about_rule(RULE_FAILED, "A detection rule failed and is disabled", &self.rule, error.to_string(), now)
    }

    /// A finding that the rule had to let go of rows up to a time; one an hour.
    fn shortened(&mut self, until: i64, now: i64) -> Option<Finding> {
        metrics::counter!("vedette_rule_state_shed_total", "rule" => self.rule.id.clone()).increment(1);
        if now - self.shortened_at < 3_600_000_000 {
            return None;
        }
        self.shortened_at = now;
        let until = chrono::DateTime::from_timestamp_micros(until).map(|time| time.to_rfc3339()).unwrap_or_default();
        tracing::error!(rule = %self.rule.id, until, "rules keep more than analytics.state_bytes: the oldest rows are let go");
        let what = format!(
            "it keeps the most of what rules keep, which is over the limit, and has let go of rows up to {until}"
        );
        Some(Finding::about_rule(RULE_SHORTENED, "A detection rule sees less than it should", &self.rule, what, now))
    }
}
