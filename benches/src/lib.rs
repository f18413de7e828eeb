//! The load for benches, tests and `send --generate`: a seeded, endless stream of audit events as a busy cluster sends
//! them. Node leases and watches dominate; almost a quarter of the events carries bodies.

mod clock;
mod event;
mod object;
mod random;
mod scenario;
mod text;
mod user;
mod workload;

use random::Random;

/// 2026-03-01T00:00:00Z.
const DEFAULT_START: i64 = 1_772_323_200_000_000;

/// Events come a millisecond apart on average.
const LONGEST_GAP: u64 = 2_000;

/// Makes audit events. The same seed and start give the same bytes.
#[derive(Clone, Debug)]
pub struct Generator {
    random: Random,
    now: i64,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), now: DEFAULT_START }
    }

    /// Lets the events' clock start at `micros`, microseconds since 1970 UTC.
    #[must_use]
    pub fn starting_at(self, micros: i64) -> Self {
        Self { now: micros, ..self }
    }

    /// Appends the next event as one line of JSON, without the newline.
    pub fn event(&mut self, out: &mut String) {
        self.now += self.random.below(LONGEST_GAP + 1) as i64;
        scenario::next(&mut self.random, self.now).write(&mut self.random, self.now, out);
    }

    /// When the last event was received by its API server, in microseconds since 1970 UTC.
    pub fn now(&self) -> i64 {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    const EVENTS: usize = 20_000;

    fn events(seed: u64, count: usize) -> Vec<String> {
        let mut generator = Generator::new(seed);
        let next = |_| {
            let mut event = String::new();
            generator.event(&mut event);
            event
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        let first = events(7, 1000);
        assert_eq!(first, events(7, 1000));
        let other: HashSet<String> = events(8, 1000).into_iter().collect();
        assert!(first.iter().all(|event| !other.contains(event)));
    }

    #[test]
    fn events_have_the_size_of_real_ones() {
        let mean = events(1, EVENTS).iter().map(String::len).sum::<usize>() / EVENTS;
        assert!((2_000..=2_600).contains(&mean), "{mean} bytes");
    }

    #[test]
    fn every_event_is_one_line_of_json_with_its_own_id_in_order_of_time() {
        let mut ids = HashSet::new();
        let mut kinds: HashMap<String, usize> = HashMap::new();
        let mut last = String::new();
        for event in events(1, EVENTS) {
            assert!(!event.contains('\n'));
            let value: serde_json::Value = serde_json::from_str(&event).unwrap();
            let text = |pointer: &str| value.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
            assert_eq!(text("/apiVersion"), "audit.k8s.io/v1");
            assert!(ids.insert(text("/auditID")), "{event}");
            let received = text("/requestReceivedTimestamp");
            assert!(received >= last, "{received} after {last}");
            last = received;
            let body = if value.get("requestObject").is_some() { " with body" } else { "" };
            *kinds.entry(format!("{} {}{body}", text("/verb"), text("/objectRef/resource"))).or_default() += 1;
        }
        assert!(kinds["update leases"] > EVENTS / 4, "{kinds:?}");
        for kind in ["create pods with body", "patch deployments with body", "create clusterroles with body"] {
            assert!(kinds.contains_key(kind), "{kind}: {kinds:?}");
        }
    }

    #[test]
    fn the_clock_starts_where_it_is_set() {
        let mut event = String::new();
        Generator::new(1).starting_at(0).event(&mut event);
        assert!(event.contains(r#""requestReceivedTimestamp":"1970-01-01T00:00:00.00"#), "{event}");
    }
}
