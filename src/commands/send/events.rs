//! Batches of events, from files of any notation that events come in, or from the generator.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::sync::mpsc::Sender;

const HEAD: &[u8] = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#;

/// A request's body, and how many events are in it.
#[derive(Clone, Debug)]
pub struct Batch {
    pub body: Bytes,
    pub events: u64,
}

/// How events become bodies: so many to a list, or each bare.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub batch: usize,
    pub bare: bool,
}

#[derive(Deserialize)]
struct EventList<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

/// Sends a file's events on as batches. Stops in silence when nobody takes them any more.
pub fn read(path: &Path, shape: Shape, sender: &Sender<Batch>) -> anyhow::Result<()> {
    let name = || format!("can't read {}", path.display());
    let input: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).with_context(name)?)
    };
    read_from(BufReader::with_capacity(1 << 20, input), &mut Batcher::new(shape, sender)).with_context(name)
}

/// Reads lines; an input whose first line is not whole JSON is read as one text of JSON values, pretty-printed perhaps.
fn read_from(mut input: impl BufRead, batcher: &mut Batcher) -> std::io::Result<()> {
    let mut line = Vec::new();
    let mut first = true;
    while input.read_until(b'\n', &mut line)? > 0 {
        let text = line.trim_ascii();
        if first && !text.is_empty() && !is_json(text) {
            let mut rest = line.clone();
            input.read_to_end(&mut rest)?;
            read_values(&rest, batcher);
            return batcher.finish();
        }
        first &= text.is_empty();
        batcher.value(text);
        line.clear();
    }
    batcher.finish()
}

/// A text of JSON values; if it isn't one, its lines, so that the good ones among them get through.
fn read_values(text: &[u8], batcher: &mut Batcher) {
    let values: Result<Vec<&RawValue>, _> = serde_json::Deserializer::from_slice(text).into_iter().collect();
    match values {
        Ok(values) => values.iter().for_each(|value| batcher.value(value.get().as_bytes())),
        Err(_) => text.split(|byte| *byte == b'\n').for_each(|line| batcher.value(line.trim_ascii())),
    }
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Generates events from a seed; their times start now.
pub fn generate(count: u64, seed: u64, shape: Shape, sender: Sender<Batch>) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as i64;
    let mut generator = vedette_benches::Generator::new(seed).starting_at(now);
    let mut batcher = Batcher::new(shape, &sender);
    let mut event = String::new();
    for _ in 0..count {
        event.clear();
        generator.event(&mut event);
        if !batcher.event(event.as_bytes()) {
            break;
        }
    }
    Ok(batcher.finish()?)
}

/// Gathers events into bodies.
struct Batcher<'a> {
    shape: Shape,
    sender: &'a Sender<Batch>,
    body: Vec<u8>,
    events: usize,
    open: bool,
}

impl<'a> Batcher<'a> {
    fn new(shape: Shape, sender: &'a Sender<Batch>) -> Self {
        Self { shape, sender, body: Vec::new(), events: 0, open: true }
    }

    /// A JSON value: an event, a list of them, or what is no JSON at all.
    fn value(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        if !is_json(text) {
            self.send(Bytes::copy_from_slice(text), 1);
            return;
        }
        let list = match text[0] {
            b'{' if !self.shape.bare => serde_json::from_slice::<EventList>(text).map(|list| list.items).ok(),
            b'[' => serde_json::from_slice::<Vec<&RawValue>>(text).ok(),
            _ => None,
        };
        match list {
            Some(items) => items.iter().all(|item| self.event(item.get().as_bytes())),
            None => self.event(text),
        };
    }

    /// One event; false when nobody takes them any more.
    fn event(&mut self, event: &[u8]) -> bool {
        if self.shape.bare {
            self.send(Bytes::copy_from_slice(event), 1);
            return self.open;
        }
        self.body.extend_from_slice(if self.events == 0 { HEAD } else { b"," });
        self.body.extend_from_slice(event);
        self.events += 1;
        if self.events == self.shape.batch {
            self.flush();
        }
        self.open
    }

    fn flush(&mut self) {
        if self.events > 0 {
            self.body.extend_from_slice(b"]}");
            let body = std::mem::take(&mut self.body);
            self.body.reserve(body.len());
            self.send(body.into(), self.events as u64);
            self.events = 0;
        }
    }

    fn finish(&mut self) -> std::io::Result<()> {
        self.flush();
        Ok(())
    }

    fn send(&mut self, body: Bytes, events: u64) {
        self.open = self.open && self.sender.blocking_send(Batch { body, events }).is_ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts what bodies an input becomes, in batches of two.
    fn check(input: &str, bare: bool, expect: &[(&str, u64)]) {
        let (sender, mut batches) = tokio::sync::mpsc::channel(100);
        read_from(input.as_bytes(), &mut Batcher::new(Shape { batch: 2, bare }, &sender)).unwrap();
        drop(sender);
        let head = std::str::from_utf8(HEAD).unwrap();
        let mut got = Vec::new();
        while let Some(batch) = batches.blocking_recv() {
            got.push((String::from_utf8(batch.body.to_vec()).unwrap().replace(head, "LIST["), batch.events));
        }
        let expect: Vec<_> = expect.iter().map(|(body, events)| (body.to_string(), *events)).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn ndjson_goes_in_lists_of_the_batch_size() {
        check(
            "{\"a\":1}\n\n{\"a\":2}\r\n{\"a\": 3}",
            false,
            &[(r#"LIST[{"a":1},{"a":2}]}"#, 2), (r#"LIST[{"a": 3}]}"#, 1)],
        );
    }

    #[test]
    fn lists_are_cut_anew() {
        let lists = "{\"items\":[1,2,3]}\n[4]\n{\"kind\":\"EventList\",\"items\":[5]}";
        check(lists, false, &[("LIST[1,2]}", 2), ("LIST[3,4]}", 2), ("LIST[5]}", 1)]);
    }

    #[test]
    fn pretty_printed_json_is_read_whole() {
        check("{\n \"items\": [\n {\"a\":\n1} ] }\n{\n}", false, &[("LIST[{\"a\":\n1},{\n}]}", 2)]);
    }

    #[test]
    fn what_is_not_json_goes_alone_and_as_it_is() {
        check("{\"a\":1}\n{broken\n{\"a\":2}\n", false, &[("{broken", 1), (r#"LIST[{"a":1},{"a":2}]}"#, 2)]);
        check("{broken\n{\"a\":1}\n", false, &[("{broken", 1), (r#"LIST[{"a":1}]}"#, 1)]);
    }

    #[test]
    fn falco_events_go_bare() {
        check("{\"rule\":\"x\"}\n[{\"rule\":\"y\"}]\n", true, &[("{\"rule\":\"x\"}", 1), ("{\"rule\":\"y\"}", 1)]);
    }
}
