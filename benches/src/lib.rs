//! The load for benches, tests and `send --generate`: a seeded, endless stream of audit events as a busy cluster sends
//! them. Node leases and watches dominate; almost a quarter of the events carries bodies.

mod clock;
mod event;
mod object;
mod random;
mod scenario;
mod text;
mod typical;
mod user;
mod workload;

use bytes::Bytes;
use random::Random;
use scenario::Mood;
pub use typical::typical;

/// 2026-03-01T00:00:00Z.
const DEFAULT_START: i64 = 1_772_323_200_000_000;

/// What a full frame of the embedded journal holds, in bytes.
const FRAME: usize = 1 << 20;

/// Events come a millisecond apart on average.
const LONGEST_GAP: u64 = 2_000;

/// Makes audit events. The same seed and start give the same bytes.
#[derive(Clone, Debug)]
pub struct Generator {
    random: Random,
    now: i64,
    mood: Mood,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), now: DEFAULT_START, mood: Mood::Lively }
    }

    /// Leaves out what people and strangers do that deserves a look: commands in pods, impersonation, refused requests,
    /// requests without credentials, powerful roles and rights changed by hand. What stays is a healthy cluster at work, in
    /// which rights come from Git, certificates are renewed, and the node's own agents are the only pods that reach into it.
    #[must_use]
    pub fn ordinary(self) -> Self {
        Self { mood: Mood::Ordinary, ..self }
    }

    /// Lets the events' clock start at `micros`, microseconds since 1970 UTC.
    #[must_use]
    pub fn starting_at(self, micros: i64) -> Self {
        Self { now: micros, ..self }
    }

    /// Appends the next event as one line of JSON, without the newline.
    pub fn event(&mut self, out: &mut String) {
        self.now += self.random.below(LONGEST_GAP + 1) as i64;
        scenario::next(&mut self.random, self.now, self.mood).write(&mut self.random, self.now, out);
    }

    /// The next events, a line each.
    pub fn lines(&mut self, count: usize) -> String {
        let mut lines = String::new();
        for _ in 0..count {
            self.event(&mut lines);
            lines.push('\n');
        }
        lines
    }

    /// When the last event was received by its API server, in microseconds since 1970 UTC.
    pub fn now(&self) -> i64 {
        self.now
    }
}

/// An event, and the text that it is a slice of.
pub type Slice = (Bytes, Bytes);

/// Events, a line each, as the embedded journal hands them out when it is busy: slices of texts of a mebibyte.
pub fn slices(lines: String) -> Vec<Slice> {
    let mut left = Bytes::from(lines);
    let mut slices = Vec::new();
    while !left.is_empty() {
        let end = left.iter().skip(FRAME).position(|byte| *byte == b'\n').map_or(left.len(), |line| FRAME + line + 1);
        let text = left.split_to(end);
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        slices.extend(lines.map(|line| (text.slice_ref(line), text.clone())));
    }
    slices
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use serde_json::Value;

    use super::*;

    const EVENTS: usize = 20_000;

    fn events(seed: u64, count: usize) -> Vec<String> {
        events_of(Generator::new(seed), count)
    }

    fn values_of(generator: Generator, count: usize) -> Vec<Value> {
        events_of(generator, count).iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    fn text<'a>(event: &'a Value, pointer: &str) -> &'a str {
        event.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn events_of(mut generator: Generator, count: usize) -> Vec<String> {
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
            assert_eq!(text(&value, "/apiVersion"), "audit.k8s.io/v1");
            assert!(ids.insert(text(&value, "/auditID").to_owned()), "{event}");
            let received = text(&value, "/requestReceivedTimestamp");
            assert!(received >= last.as_str(), "{received} after {last}");
            last = received.to_owned();
            let body = if value.get("requestObject").is_some() { " with body" } else { "" };
            *kinds
                .entry(format!("{} {}{body}", text(&value, "/verb"), text(&value, "/objectRef/resource")))
                .or_default() += 1;
        }
        assert!(kinds["update leases"] > EVENTS / 4, "{kinds:?}");
        for kind in ["create pods with body", "patch deployments with body", "create clusterroles with body"] {
            assert!(kinds.contains_key(kind), "{kind}: {kinds:?}");
        }
    }

    #[test]
    fn rights_are_changed_by_few_to_few_and_seldom_to_all() {
        let (mut bindings, mut to_all, mut from_git) = (0, 0, 0);
        for line in events_of(Generator::new(3), 2 * EVENTS) {
            let written = line.contains(r#""requestObject""#);
            let rights = [r#""resource":"rolebindings""#, r#""resource":"clusterroles""#];
            if !written || !rights.iter().any(|mark| line.contains(mark)) {
                continue;
            }
            let event: Value = serde_json::from_str(&line).unwrap();
            let user = text(&event, "/user/username");
            let plausible = ["system:serviceaccount:argocd:", "system:serviceaccount:gitlab-runners:", "oidc:user"];
            assert!(plausible.iter().any(|start| user.starts_with(start)), "{event}");
            if let Some(subjects) = event.pointer("/requestObject/subjects").and_then(Value::as_array) {
                assert!((1..=3).contains(&subjects.len()), "{event}");
                bindings += 1;
                from_git += usize::from(user.starts_with("system:serviceaccount:argocd:"));
                to_all += usize::from(text(&event, "/requestObject/roleRef/name") == "cluster-admin");
            }
        }
        assert!(bindings > 80 && from_git > bindings / 2, "{from_git} of {bindings}");
        assert!(to_all <= bindings / 25, "{to_all} of {bindings}");
    }

    #[test]
    fn only_agents_of_kube_system_reach_into_their_node() {
        let mut agents = 0;
        for event in values_of(Generator::new(4), EVENTS / 4) {
            let body = event.get("requestObject").map(Value::to_string).unwrap_or_default();
            if !["hostPath", r#""privileged":true"#, r#""hostNetwork":true"#, r#""hostPID":true"#]
                .iter()
                .any(|mark| body.contains(mark))
            {
                continue;
            }
            assert_eq!(text(&event, "/user/username"), "system:serviceaccount:kube-system:daemon-set-controller");
            assert_eq!(text(&event, "/objectRef/namespace"), "kube-system");
            agents += 1;
        }
        assert!(agents > EVENTS / 4000, "{agents}");
    }

    #[test]
    fn ordinary_events_hold_nothing_that_people_do_in_haste() {
        let hasty = |event: &Value| {
            let code = event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default();
            matches!(code, 401 | 403)
                || event.get("impersonatedUser").is_some()
                || matches!(text(event, "/objectRef/subresource"), "exec" | "attach" | "portforward")
                || text(event, "/user/username") == "system:anonymous"
                || text(event, "/requestObject/roleRef/name") == "cluster-admin"
                || text(event, "/objectRef/resource") == "secrets" && text(event, "/user/username").starts_with("oidc:")
        };
        let count = |generator| values_of(generator, EVENTS / 4).iter().filter(|event| hasty(event)).count();
        assert_eq!(count(Generator::new(5).ordinary()), 0);
        assert!(count(Generator::new(5)) > EVENTS / 400);
    }

    #[test]
    fn the_clock_starts_where_it_is_set() {
        let mut event = String::new();
        Generator::new(1).starting_at(0).event(&mut event);
        assert!(event.contains(r#""requestReceivedTimestamp":"1970-01-01T00:00:00.00"#), "{event}");
    }
}
