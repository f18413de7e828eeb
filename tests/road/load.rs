//! Events for the road, the same in every run, and senders of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use vedette_benches::Generator;

use crate::program::Settings;

/// A file of generated events.
#[derive(Clone, Debug)]
pub struct Part {
    pub file: PathBuf,
    pub events: u64,
}

/// Generated events, each different from all others, in several files.
pub fn parts(folder: &Path, seed: u64, count: usize, events: u64) -> Vec<Part> {
    let mut generator = Generator::new(seed);
    let mut part = |number: usize| {
        let mut text = String::new();
        for _ in 0..events {
            generator.event(&mut text);
            text.push('\n');
        }
        let file = folder.join(format!("part-{number}.ndjson"));
        std::fs::write(&file, text).unwrap();
        Part { file, events }
    };
    (0..count).map(&mut part).collect()
}

pub fn total(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.events).sum()
}

/// `vedette send` under way: it repeats what is not acknowledged.
pub struct Sender(Child);

impl Sender {
    /// Sends a file at so many events a second.
    pub fn start(part: &Part, to: SocketAddr, rate: u64) -> Self {
        let (file, to, rate) = (part.file.to_str().unwrap(), format!("http://{to}"), rate.to_string());
        // The five tries of a batch go on for 16 seconds, longer than a stage is ever away.
        let arguments = ["send", file, "--to", &to, "--rate", &rate, "--batch", "100", "--backoff", "2s"];
        let mut command = Settings::default().command(&arguments);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Waits until every event of it is acknowledged.
    pub fn finish(self) {
        let output = self.0.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "not all was acknowledged: {said}");
    }

    pub fn is_sending(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}
