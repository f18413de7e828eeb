//! A bounded memory of ids: the newest so many, the oldest forgotten first.

use std::collections::{BTreeMap, HashSet, VecDeque};

use vedette_schemas::{EventId, Table};

/// For each derived table, the events whose rows the store has although it has not the events themselves: a crash came
/// between. They are delivered again, and their rows must not be stored again.
pub type Ahead = BTreeMap<Table, HashSet<EventId>>;

pub struct Seen {
    capacity: usize,
    ids: HashSet<EventId>,
    order: VecDeque<EventId>,
}

impl Seen {
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), ids: HashSet::new(), order: VecDeque::new() }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn contains(&self, id: EventId) -> bool {
        self.ids.contains(&id)
    }

    /// Whether the id is new; it is remembered from now on.
    pub fn insert(&mut self, id: EventId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut seen = Seen::new(2);
        assert!(seen.insert(EventId(1)));
        assert!(!seen.insert(EventId(1)));
        assert!(seen.insert(EventId(2)));
        assert!(seen.insert(EventId(3)));
        assert!(!seen.insert(EventId(2)));
        assert!(seen.insert(EventId(1)));
    }
}
