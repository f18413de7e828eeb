//! Open findings: while a subject's stretch of time lasts, what is found of it again raises its finding's counter.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use vedette_schemas::EventId;

use super::finding::Finding;
use super::state::EVIDENCE;

/// Events that a finding's counter tells apart. From then on it counts each once more.
const TOLD_APART: usize = 10_000;

struct One {
    finding: Finding,
    /// The events that raised it.
    events: HashSet<EventId>,
    changed: bool,
    /// No event before this time, in microseconds since 1970, is its.
    ends: i64,
    /// It was not told before this time, in microseconds since 1970.
    since: i64,
}

/// A finding as it was told first: a row of `alerts`, with times in microseconds since 1970.
#[derive(Deserialize)]
pub struct Told {
    event_time: i64,
    received_at: i64,
    raised_at: i64,
    summary: String,
    actor: Option<String>,
    target: Option<String>,
    namespace: Option<String>,
    source_ip: Option<String>,
    user_name: Option<String>,
    pod: Option<String>,
    node: Option<String>,
    #[serde(default)]
    evidence: Vec<String>,
    /// JSON.
    details: String,
}

impl Told {
    /// The columns that a finding keeps from when it was told, with the times, which come first.
    pub const COLUMNS: [&str; 13] = [
        "event_time",
        "received_at",
        "raised_at",
        "summary",
        "actor",
        "target",
        "namespace",
        "source_ip",
        "user_name",
        "pod",
        "node",
        "evidence",
        "details",
    ];
    pub const TIMES: usize = 3;
}

/// The findings of rules with subjects.
#[derive(Default)]
pub struct Open {
    findings: BTreeMap<EventId, One>,
}

impl Open {
    /// Takes a finding, whose stretch of time is so long. Returns it if it is new; else its counter goes up.
    pub fn take(&mut self, finding: Finding, suppress: i64) -> Option<Finding> {
        // Of what is looked at more than once, the event by which it was found tells whether it is the same.
        let own = finding.details.get("event_id").and_then(|id| EventId::parse(id.as_str()?));
        let event = own.or_else(|| finding.evidence.last().copied()).unwrap_or(finding.alert_id);
        let ends = (finding.event_time.div_euclid(suppress) + 1).saturating_mul(suppress);
        match self.findings.get_mut(&finding.alert_id) {
            None => {
                let since = finding.received_at.min(finding.event_time);
                let one = One { finding: finding.clone(), events: HashSet::from([event]), changed: false, ends, since };
                self.findings.insert(finding.alert_id, one);
                Some(finding)
            }
            Some(one) => {
                one.again(finding, event);
                None
            }
        }
    }

    pub fn contains(&self, id: EventId) -> bool {
        self.findings.contains_key(&id)
    }

    pub fn ids(&self) -> impl Iterator<Item = EventId> {
        self.findings.keys().copied()
    }

    /// An open finding that was told before stays as it was told, but for what repeats raise.
    pub fn adopt(&mut self, id: EventId, told: Told) {
        let Some(one) = self.findings.get_mut(&id) else { return };
        let finding = &mut one.finding;
        let mut evidence: Vec<EventId> = told.evidence.iter().filter_map(|id| EventId::parse(id)).collect();
        for id in std::mem::take(&mut finding.evidence) {
            if evidence.len() < EVIDENCE && !evidence.contains(&id) {
                evidence.push(id);
            }
        }
        let details = serde_json::from_str(&told.details).unwrap_or_else(|_| finding.details.clone());
        *finding = Finding {
            event_time: told.event_time,
            received_at: told.received_at,
            raised_at: told.raised_at,
            summary: told.summary,
            actor: told.actor,
            target: told.target,
            namespace: told.namespace,
            source_ip: told.source_ip,
            user_name: told.user_name,
            pod: told.pod,
            node: told.node,
            evidence,
            details,
            ..finding.clone()
        };
    }

    /// A time before which none of them was told, in microseconds since 1970; `None` if there are none.
    pub fn since(&self) -> Option<i64> {
        self.findings.values().map(|one| one.since).min()
    }

    /// The findings whose counters went up since the last call.
    pub fn changed(&mut self) -> Vec<Finding> {
        let changed = |one: &mut One| std::mem::take(&mut one.changed).then(|| one.finding.clone());
        self.findings.values_mut().filter_map(changed).collect()
    }

    /// Closes what no event can come for, as of a watermark, and has been told.
    pub fn close(&mut self, watermark: i64) {
        self.findings.retain(|_, one| one.changed || one.ends > watermark);
    }

    /// Takes over the open findings of some rules.
    pub fn unite(&mut self, other: Open, rules: impl Fn(&str) -> bool) {
        self.findings.extend(other.findings.into_iter().filter(|(_, one)| rules(&one.finding.rule_id)));
    }

    pub fn len(&self) -> usize {
        self.findings.len()
    }
}

impl One {
    fn again(&mut self, found: Finding, event: EventId) {
        self.since = self.since.min(found.received_at).min(found.event_time);
        if self.events.len() < TOLD_APART && !self.events.insert(event) {
            return;
        }
        let finding = &mut self.finding;
        finding.count += 1;
        finding.last_event_time = finding.last_event_time.max(found.event_time);
        finding.severity = finding.severity.max(found.severity);
        finding.risk_score = finding.risk_score.max(found.risk_score);
        for id in found.evidence {
            if finding.evidence.len() < EVIDENCE && !finding.evidence.contains(&id) {
                finding.evidence.push(id);
            }
        }
        self.changed = true;
    }
}
