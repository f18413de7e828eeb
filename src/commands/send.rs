//! `vedette send`: events from files or a generator to a webhook, the way an API server or Falco sends them.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use url::Url;

use super::ExitReason;
use crate::config::ConfigError;

mod events;
mod webhook;

pub use events::Batch;
use events::Shape;
pub use webhook::Webhook;

const AFTER: &str =
    "Events are sent as they stand, in EventLists of --batch events. A line that is not JSON goes alone, as it is, \
so that the receiver can account for it. A batch is tried 5 times; within a try, Retry-After is honoured on 429 and 5xx.

Exit codes: 0 every batch was taken, 1 a batch was given up, 2 bad usage.";

#[derive(Args)]
#[command(after_help = AFTER)]
pub struct Send {
    /// Files of NDJSON, EventLists or Falco events; - is standard input
    #[arg(value_name = "FILE", required_unless_present = "generate")]
    files: Vec<PathBuf>,
    /// The webhook; a URL without a path gets /v1/audit/default, or /v1/falco/default with --falco
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    to: Url,
    /// The cluster: the last part of the webhook's path
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Sends Falco events, one a request, to /v1/falco/…
    #[arg(long)]
    falco: bool,
    /// Sends this many generated audit events instead of files
    #[arg(long, value_name = "N", conflicts_with_all = ["files", "falco"])]
    generate: Option<u64>,
    /// Seed of the generator; the same seed gives the same events
    #[arg(long, default_value_t = 1, requires = "generate")]
    seed: u64,
    /// Events in a batch
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Events a second, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Batches on their way at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1024))]
    concurrency: u64,
    /// Speaks HTTP/2 without asking first
    #[arg(long)]
    http2: bool,
    /// Bearer token
    #[arg(long, env = "VEDETTE_SEND_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Certificate authorities to trust, in PEM, instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The wait before the second try; each further one is 1.5 times as long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = super::duration)]
    backoff: Duration,
}

impl Send {
    pub async fn run(self) -> anyhow::Result<()> {
        let to = address(self.to.clone(), self.falco, self.cluster.as_deref())?;
        let webhook = Webhook::new(to, self.http2, self.token.clone(), self.ca.as_deref(), self.backoff)?;
        let (sender, batches) = mpsc::channel(self.concurrency as usize);
        let shape = Shape { batch: if self.falco { 1 } else { self.batch as usize }, bare: self.falco };
        let reader = self.reader(shape, sender);
        let total = deliver(&webhook, batches, self.concurrency as usize, self.rate, self.bar()).await;
        // What was sent before a file failed is sent, and is reported first.
        println!("{total}");
        reader.await??;
        if total.failures > 0 {
            bail!(anyhow::Error::new(ExitReason::Failure).context(format!("{} batches were given up", total.failures)));
        }
        Ok(())
    }

    /// Reads or generates batches in a thread of their own, since files block.
    fn reader(&self, shape: Shape, sender: mpsc::Sender<Batch>) -> tokio::task::JoinHandle<anyhow::Result<()>> {
        let (files, generate, seed) = (self.files.clone(), self.generate, self.seed);
        tokio::task::spawn_blocking(move || match generate {
            Some(count) => events::generate(count, seed, shape, sender),
            None => files.iter().try_for_each(|file| events::read(file, shape, &sender)),
        })
    }

    fn bar(&self) -> ProgressBar {
        if !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let (bar, template) = match self.generate {
            Some(count) => (ProgressBar::new(count), "{bar:40} {pos}/{len} events, {per_sec}, {eta} left"),
            None => (ProgressBar::new_spinner(), "{spinner} {pos} events, {per_sec}"),
        };
        bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

/// The webhook's address: a path where none is given, and the cluster in it.
fn address(mut to: Url, falco: bool, cluster: Option<&str>) -> Result<Url, ConfigError> {
    if to.cannot_be_a_base() || !matches!(to.scheme(), "http" | "https") {
        return Err(ConfigError::Flag(format!("--to: {to} is not an http or https URL")));
    }
    if to.path() == "/" {
        to.set_path(if falco { "/v1/falco/default" } else { "/v1/audit/default" });
    }
    if let (Some(cluster), Ok(mut path)) = (cluster, to.path_segments_mut()) {
        path.pop_if_empty().pop().push(cluster);
    }
    // An API server asks for this with every request; the receiver must not mind.
    if !falco {
        to.query_pairs_mut().clear().append_pair("timeout", "30s");
    }
    Ok(to)
}

/// What became of everything sent.
#[derive(Debug, Default)]
pub struct Total {
    pub events: u64,
    pub bytes: u64,
    pub retries: u64,
    pub failures: u64,
    pub lost: u64,
    pub elapsed: Duration,
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.elapsed.as_secs_f64().max(1e-6);
        let (events, bytes) = (self.events, self.bytes);
        write!(f, "{events} events, {bytes} bytes in {seconds:.1} s: {:.0} events/s; ", events as f64 / seconds)?;
        write!(f, "{} retries, {} batches given up with {} events", self.retries, self.failures, self.lost)
    }
}

/// Delivers batches, several at once, none sooner than the rate allows.
pub async fn deliver(
    webhook: &Webhook,
    batches: mpsc::Receiver<Batch>,
    concurrency: usize,
    rate: Option<u64>,
    bar: ProgressBar,
) -> Total {
    let start = Instant::now();
    let paced = futures::stream::unfold((batches, 0u64), |(mut batches, before)| async move {
        let batch = batches.recv().await?;
        if let Some(rate) = rate {
            let due = start + Duration::from_secs_f64(before as f64 / rate as f64);
            tokio::time::sleep_until(due.into()).await;
        }
        let after = before + batch.events;
        Some((batch, (batches, after)))
    });
    let mut outcomes = paced.map(|batch| webhook.deliver(batch)).buffer_unordered(concurrency).boxed_local();
    let mut total = Total::default();
    while let Some(outcome) = outcomes.next().await {
        total.retries += outcome.retries;
        match outcome.given_up {
            None => {
                total.events += outcome.events;
                total.bytes += outcome.bytes;
                bar.inc(outcome.events);
            }
            Some(reason) => {
                total.failures += 1;
                total.lost += outcome.events;
                bar.suspend(|| eprintln!("vedette: gave up a batch of {} events: {reason}", outcome.events));
            }
        }
    }
    bar.finish_and_clear();
    total.elapsed = start.elapsed();
    total
}

#[cfg(test)]
mod tests;
