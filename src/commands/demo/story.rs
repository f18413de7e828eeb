//! The story of the demo: its steps, and how they reach the webhook.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Map, Value};
use vedette_benches::Generator;
use vedette_detections::recorded;

use crate::commands::send::{Batch, Webhook};

const STORY: &str = include_str!("story.yaml");

/// Events of ordinary traffic before each step's own.
const BACKGROUND: usize = 90;
/// How far apart the events of a step are.
const APART: TimeDelta = TimeDelta::milliseconds(40);

/// Who acts, and what they do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Story {
    actors: BTreeMap<String, Map<String, Value>>,
    pub steps: Vec<Step>,
}

/// A step: what happens, said to people, and the events it leaves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub say: String,
    events: Vec<Event>,
}

/// A recorded event with its actor's fields, and then others, set anew.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    base: String,
    #[serde(default)]
    source: Source,
    actor: String,
    #[serde(default)]
    set: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    #[default]
    Audit,
    Falco,
}

impl Story {
    pub fn read() -> anyhow::Result<Self> {
        serde_saphyr::from_str(STORY).context("the story")
    }

    /// The event as its sender would write it at that time.
    fn made(&self, event: &Event, time: DateTime<Utc>) -> anyhow::Result<Value> {
        let actor = self.actors.get(&event.actor).with_context(|| format!("no actor {}", event.actor))?;
        let mut made = recorded(&event.base, &[actor, &event.set])?;
        match event.source {
            Source::Audit => stamp_audit(&mut made, time),
            Source::Falco => stamp_falco(&mut made, time),
        }
        Ok(made)
    }
}

/// Ids, and times as far apart as recorded. Times within the object's metadata follow.
fn stamp_audit(event: &mut Value, time: DateTime<Utc>) {
    let nanos = time.timestamp_nanos_opt().unwrap_or_default();
    let took = match (recorded_time(event, "requestReceivedTimestamp"), recorded_time(event, "stageTimestamp")) {
        (Some(received), Some(stage)) => stage - received,
        _ => TimeDelta::zero(),
    };
    let text = |time: DateTime<Utc>| Value::from(time.to_rfc3339_opts(SecondsFormat::Micros, true));
    event["auditID"] =
        format!("{:08x}-{:04x}-4de0-8de0-{:012x}", nanos >> 32 & 0xffff_ffff, nanos & 0xffff, nanos & 0xffff_ffff_ffff)
            .into();
    event["requestReceivedTimestamp"] = text(time - took);
    event["stageTimestamp"] = text(time);
    if let Some(created) = event.pointer_mut("/responseObject/metadata/creationTimestamp") {
        *created = time.to_rfc3339_opts(SecondsFormat::Secs, true).into();
    }
}

fn recorded_time(event: &Value, field: &str) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(event.get(field)?.as_str()?).ok()?.to_utc())
}

/// Falco writes the time three times: as text, as nanoseconds, and at the start of its line.
fn stamp_falco(event: &mut Value, time: DateTime<Utc>) {
    let line = event["output"].as_str().and_then(|line| line.split_once(": ")).map_or("", |(_, line)| line);
    event["output"] = format!("{}: {line}", time.format("%H:%M:%S%.9f")).into();
    event["output_fields"]["evt.time"] = time.timestamp_nanos_opt().unwrap_or_default().into();
    event["time"] = time.to_rfc3339_opts(SecondsFormat::Nanos, true).into();
}

/// Sends steps to a running Vedette as an API server and Falco would.
pub struct Player {
    audit: Webhook,
    falco: Webhook,
    background: Generator,
    /// Events sent.
    pub events: u64,
}

impl Player {
    pub fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let webhook = |source: &str| {
            let url = format!("http://{address}/v1/{source}/demo").parse()?;
            Webhook::new(url, false, None, None, Duration::from_millis(200))
        };
        let background = Generator::new(7).ordinary().starting_at(Utc::now().timestamp_micros());
        Ok(Self { audit: webhook("audit")?, falco: webhook("falco")?, background, events: 0 })
    }

    pub async fn play(&mut self, story: &Story, step: &Step) -> anyhow::Result<()> {
        let mut audit: Vec<String> = (0..BACKGROUND).map(|_| self.ordinary()).collect();
        let mut falco = Vec::new();
        let start = Utc::now() - APART * step.events.len() as i32;
        for (number, event) in step.events.iter().enumerate() {
            let made = story.made(event, start + APART * number as i32)?.to_string();
            match event.source {
                Source::Audit => audit.push(made),
                Source::Falco => falco.push(made),
            }
        }
        self.events += (audit.len() + falco.len()) as u64;
        let list = format!(r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{}]}}"#, audit.join(","));
        deliver(&self.audit, list, audit.len()).await?;
        for event in falco {
            deliver(&self.falco, event, 1).await?;
        }
        Ok(())
    }

    fn ordinary(&mut self) -> String {
        let mut event = String::new();
        self.background.event(&mut event);
        event
    }
}

async fn deliver(webhook: &Webhook, body: String, events: usize) -> anyhow::Result<()> {
    match webhook.deliver(Batch { body: body.into(), events: events as u64 }).await.given_up {
        Some(reason) => bail!("the webhook did not take the story: {reason}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_event_of_the_story_is_whole_and_of_its_time() {
        let story = Story::read().unwrap();
        let start = Utc::now();
        let (mut ids, mut count) = (BTreeSet::new(), 0);
        for event in story.steps.iter().flat_map(|step| &step.events) {
            let time = start + APART * count;
            let made = story.made(event, time).unwrap();
            let (field, id) = match event.source {
                Source::Audit => ("stageTimestamp", &made["auditID"]),
                Source::Falco => ("time", &made["output_fields"]["evt.time"]),
            };
            assert!(ids.insert(id.to_string()), "{made}");
            let stamped = recorded_time(&made, field).unwrap();
            assert!((stamped - time).abs() < TimeDelta::milliseconds(1), "{made}");
            assert!(recorded_time(&made, "requestReceivedTimestamp").is_none_or(|received| received <= time), "{made}");
            // What the recording cluster was called must not shine through.
            let text = made.to_string();
            for strange in ["127.0.0.1", "dana@", "root-shell", "web-7f7f7987cf", "olga-admin"] {
                assert!(!text.contains(strange), "{strange} in {text}");
            }
            count += 1;
        }
        assert!(count >= 15);
    }
}
