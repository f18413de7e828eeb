//! What an engine does where several processes share the work.

use std::collections::{BTreeMap, HashSet};

use vedette_schemas::EventId;

use super::{Engine, plan};

/// What an engine does of the work that several processes share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All rules, with all that they keep.
    #[default]
    All,
    /// Rules that keep nothing; of the others the filters, which tell the events that they look back on.
    Filters,
    /// Rules that keep anything, over events that passed the filters elsewhere. Time is what others tell.
    Groups,
}

impl Engine {
    /// Events of the last batch that rules look back on elsewhere; none unless this engine is `Part::Filters`.
    pub fn wanted(&mut self) -> HashSet<EventId> {
        std::mem::take(&mut self.wanted)
    }

    /// For each cluster the time of its newest event and the last receipt, in microseconds since 1970.
    pub fn come(&self) -> impl Iterator<Item = (&str, i64, i64)> {
        self.clock.come()
    }

    /// Others have read a cluster's events as far as `newest`, the last of them received then. It counts once `go_on` has come
    /// to that receipt.
    pub fn reach(&mut self, cluster: &str, newest: i64, received: i64) {
        self.clock.reach(cluster, newest, received);
    }

    /// How far back its rules look at most, in microseconds.
    pub fn reach_back(&self) -> i64 {
        self.rules.iter().filter_map(|live| plan::reach(&live.rule)).max().unwrap_or(0)
    }

    /// Events known from the store do not come again.
    pub fn forget_learned(&mut self) {
        self.rooms.values_mut().flat_map(|room| &mut room.taps).for_each(|tap| tap.learned = HashSet::new());
    }

    /// Takes over, from an engine that has run the same rules, which events they know from the store.
    pub(super) fn inherit_learned(&mut self, from: &mut Engine, rules: impl Fn(&str) -> bool) {
        let mut learned: BTreeMap<(String, usize), HashSet<EventId>> = BTreeMap::new();
        for tap in from.rooms.values_mut().flat_map(|room| &mut room.taps).filter(|tap| !tap.learned.is_empty()) {
            let id = from.rules[tap.rule].rule.id.clone();
            learned.insert((id, tap.number), std::mem::take(&mut tap.learned));
        }
        for tap in self.rooms.values_mut().flat_map(|room| &mut room.taps) {
            let id = &self.rules[tap.rule].rule.id;
            if rules(id) {
                tap.learned = learned.remove(&(id.clone(), tap.number)).unwrap_or_default();
            }
        }
    }
}
