//! The story of the demo: its steps, and how they reach the webhook.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use vedette_benches::Generator;

use crate::commands::send::{Batch, Webhook};

/// One step a line. In the events, `{time}`, `{nanos}` and `{id}` stand for what differs each time.
const STORY: &str = include_str!("story.ndjson");

/// A step: what happens, said to people, and the events it leaves.
#[derive(Debug, Deserialize)]
pub struct Step {
    pub say: String,
    /// Events of ordinary traffic before the step's own.
    background: usize,
    audit: Vec<Box<RawValue>>,
    falco: Vec<Box<RawValue>>,
}

pub fn steps() -> anyhow::Result<Vec<Step>> {
    STORY.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("the story")
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
        let background = Generator::new(7).starting_at(Utc::now().timestamp_micros());
        Ok(Self { audit: webhook("audit")?, falco: webhook("falco")?, background, events: 0 })
    }

    pub async fn play(&mut self, step: &Step) -> anyhow::Result<()> {
        let now = Utc::now();
        let mut events: Vec<String> = (0..step.background).map(|_| self.ordinary()).collect();
        let before = events.len();
        events.extend(step.audit.iter().map(|event| self::now(event.get(), now, before)));
        let count = events.len() as u64;
        let list = format!(r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{}]}}"#, events.join(","));
        deliver(&self.audit, list, count).await?;
        for (number, event) in step.falco.iter().enumerate() {
            deliver(&self.falco, self::now(event.get(), now, number), 1).await?;
        }
        self.events += count + step.falco.len() as u64;
        Ok(())
    }

    fn ordinary(&mut self) -> String {
        let mut event = String::new();
        self.background.event(&mut event);
        event
    }
}

async fn deliver(webhook: &Webhook, body: String, events: u64) -> anyhow::Result<()> {
    match webhook.deliver(Batch { body: body.into(), events }).await.given_up {
        Some(reason) => bail!("the webhook did not take the story: {reason}"),
        None => Ok(()),
    }
}

/// The event with this moment in it.
fn now(event: &str, now: DateTime<Utc>, number: usize) -> String {
    let nanos = now.timestamp_nanos_opt().unwrap_or_default();
    let id = format!("{nanos:016x}-{number:04x}");
    event
        .replace("{time}", &now.to_rfc3339_opts(SecondsFormat::Micros, true))
        .replace("\"{nanos}\"", &nanos.to_string())
        .replace("{id}", &id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_reads_and_its_events_are_whole() {
        let steps = steps().unwrap();
        assert!(steps.len() >= 8);
        for step in &steps {
            for event in step.audit.iter().chain(&step.falco) {
                let event = now(event.get(), Utc::now(), 0);
                let event: serde_json::Value = serde_json::from_str(&event).unwrap();
                let time = event.get("stageTimestamp").or(event.get("time")).unwrap().as_str().unwrap();
                assert!(DateTime::parse_from_rfc3339(time).is_ok(), "{time}");
            }
        }
        assert!(steps.iter().any(|step| !step.falco.is_empty()));
    }
}
