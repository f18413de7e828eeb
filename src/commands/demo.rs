//! `vedette demo`: the whole program in a folder of its own, an attack played through the real webhook, and what is found.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use toml::Value;
use vedette_analytics::engine::Finding;

use super::serve::Whole;
use super::{operating, print_all};
use crate::config::{Config, Flag};

mod story;
mod words;

use story::{Player, Story};

/// After the last step: this long without a finding, and there are no more to come.
const QUIET: Duration = Duration::from_millis(2000);

const AFTER: &str = "Nothing of the demo leaves this machine. Its folder stays, so that it can be queried.

Exit codes: 0 success, 1 failure, 2 bad usage or configuration.";

#[derive(Args)]
#[command(after_help = AFTER)]
pub struct Demo {
    /// The folder to keep events and findings in [default: a new one among the system's temporary files]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The wait between the steps of the story
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = super::duration)]
    pace: Duration,
}

impl Demo {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = configuration(self.data)?;
        super::start_log(&config)?;
        let metrics = operating::start_metrics()?;
        // A signal ends the play early and the program in good order.
        let shutdown = operating::shutdown_on_signal()?;
        let (sender, mut findings) = mpsc::unbounded_channel();
        let whole = Whole::start(&config, metrics, shutdown.clone(), Some(sender)).await?;
        let address = whole.address;
        print_all(&words::opening(address, &config.data))?;
        let finished = tokio::spawn(whole.finished());
        let mut player = Player::new(address)?;
        let found = play(&mut player, &mut findings, self.pace, &shutdown).await;
        shutdown.cancel();
        finished.await.context("vedette")??;
        print_all(&words::closing(&config.data, player.events, &found?))
    }
}

/// Plays the story, step by step, and shows each finding as it is raised.
async fn play(
    player: &mut Player,
    findings: &mut UnboundedReceiver<Finding>,
    pace: Duration,
    shutdown: &CancellationToken,
) -> anyhow::Result<Vec<Finding>> {
    let mut found = Vec::new();
    let story = Story::read()?;
    for step in &story.steps {
        print_all(&words::step(&step.say))?;
        player.play(&story, step).await?;
        let pause = sleep(pace);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(found),
                () = &mut pause => break,
                Some(finding) = findings.recv() => show(finding, &mut found)?,
            }
        }
    }
    while let Ok(Some(finding)) = timeout(QUIET, findings.recv()).await {
        show(finding, &mut found)?;
    }
    Ok(found)
}

fn show(finding: Finding, found: &mut Vec<Finding>) -> anyhow::Result<()> {
    print_all(&words::finding(&finding))?;
    found.push(finding);
    Ok(())
}

/// The defaults, at a free port, in the given folder or a new one. Files and variables don't count here.
fn configuration(data: Option<PathBuf>) -> anyhow::Result<Config> {
    let data = match data {
        Some(data) => data,
        None => new_folder()?,
    };
    let text = |value: &str| Value::String(value.to_owned());
    let flags = vec![
        Flag { name: "--data", path: &["data"], value: text(&data.display().to_string()) },
        Flag { name: "--data", path: &["ingest", "listen"], value: text("127.0.0.1:0") },
        Flag { name: "--data", path: &["log", "level"], value: text("error") },
        // What rules say once a day is no part of the story, whatever the time is.
        Flag { name: "--data", path: &["analytics", "schedule"], value: Value::Boolean(false) },
    ];
    Ok(Config::load(None, std::iter::empty(), flags)?)
}

/// A folder that only this user can open. It must not exist: what exists, another user may have put there.
fn new_folder() -> anyhow::Result<PathBuf> {
    let now = chrono::Utc::now().format("%Y%m%d-%H%M%S");
    let path = std::env::temp_dir().join(format!("vedette-demo-{now}-{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("can't create {}", path.display()))?;
    Ok(path)
}
