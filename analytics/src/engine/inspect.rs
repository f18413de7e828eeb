//! What people ask of an engine: how a rule runs, what it costs, and what it selects.

use std::time::Duration;

use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;

use super::{Cost, Engine, Live, Tables, conditions};

impl Engine {
    /// Bytes that its rules keep.
    pub fn state_bytes(&self) -> usize {
        self.rules.iter().filter_map(|live| live.state.as_ref()).map(|state| state.bytes()).sum()
    }

    /// What each rule has cost so far, the dearest first.
    pub fn costs(&self) -> Vec<Cost> {
        let mut spent: Vec<Duration> = self.rules.iter().map(|live| live.spent.add(Duration::ZERO)).collect();
        for room in self.rooms.values() {
            let asking: Vec<_> = room.taps.iter().filter(|tap| tap.input.program.looks_into_bodies()).collect();
            let share = room.looking / (asking.len().max(1) as u32);
            asking.iter().for_each(|tap| spent[tap.rule] += share);
        }
        let cost = |(live, spent): (&Live, Duration)| Cost { rule: live.rule.id.clone(), spent };
        let mut costs: Vec<Cost> = self.rules.iter().zip(spent).map(cost).collect();
        costs.sort_by_key(|cost| std::cmp::Reverse(cost.spent));
        costs
    }

    /// How a rule runs, in lines for people; nothing if there is no such rule.
    pub fn explain(&self, id: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for (table, room) in &self.rooms {
            let programs: Vec<_> = room.taps.iter().map(|tap| &tap.input.program).collect();
            for tap in room.taps.iter().filter(|tap| self.rules[tap.rule].rule.id == id) {
                lines.push(format!("reads {}, where", table.name()));
                for (text, how) in room.conditions.describe(&tap.input.program) {
                    let shared = |program: &&&conditions::Program| {
                        room.conditions.describe(program).iter().any(|(other, _)| *other == text)
                    };
                    let others = programs.iter().filter(shared).count() - 1;
                    let shared = if others > 0 { format!(", shared with {others} more") } else { String::new() };
                    lines.push(format!("  {text}\n      {}{shared}", how.words()));
                }
                if !tap.input.is_direct() {
                    lines.push("  and runs a plan of DataFusion's on what is left".into());
                }
            }
        }
        let live = self.rules.iter().find(|live| live.rule.id == id);
        lines.extend(live.and_then(|live| live.state.as_ref()).map(|state| state.words().to_owned()));
        lines
    }

    /// What makes its rules dearer than they need to be, in lines for people.
    pub fn advice(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (table, room) in &self.rooms {
            for tap in &room.taps {
                let asked = room.conditions.unguarded(&tap.input.program).into_iter();
                let every = |condition| {
                    format!(
                        "{condition} is asked of every row of {}: no cheaper condition stands beside it",
                        table.name()
                    )
                };
                lines.extend(asked.map(every));
                if !tap.input.is_direct() {
                    lines.push(format!(
                        "what it selects of {} needs a plan of DataFusion's for each batch",
                        table.name()
                    ));
                }
            }
        }
        lines
    }

    /// The rows that each rule's inputs select of one batch, by the rule's id, as far as there are any.
    pub async fn select(&mut self, tables: &Tables) -> Result<Vec<(String, Vec<RecordBatch>)>, DataFusionError> {
        let mut selected = Vec::new();
        for (table, batch) in tables {
            let Some(room) = self.rooms.get_mut(table).filter(|_| batch.num_rows() > 0) else { continue };
            for (tap, rows) in room.outcomes(&self.rules, &self.context, batch, |_| true).await {
                selected.push((self.rules[room.taps[tap].rule].rule.id.clone(), rows?));
            }
        }
        Ok(selected)
    }
}
