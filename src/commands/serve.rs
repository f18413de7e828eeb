//! `vedette serve`, `ingest` and `analytics`: the stages, together or alone, until a signal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use clap::Args;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use toml::Value;
use vedette_analytics::engine::Finding;
use vedette_analytics::pipeline::{Pipeline, PipelineError};
use vedette_analytics::scheduler::{Runner, Scheduler};
use vedette_analytics::store::Store;
use vedette_ingest::Ingest as Receivers;
use vedette_journal::Journal;

use super::operating::{self, Operating};
use super::{Common, ExitReason, components, reload};
use crate::config::{Config, ConfigError, Flag, JournalKind};

/// How long the engine may take to store and commit what it holds after the receivers have drained.
const DRAIN: Duration = Duration::from_secs(30);
/// How often the store is tidied.
const MAINTENANCE: Duration = Duration::from_secs(60);

const AFTER: &str = "SIGTERM and SIGINT drain: requests under way are answered, what was accepted is stored. What the engine has not read 10
seconds later stays in the journal for the next start. A second signal leaves at once; nothing accepted is lost by that.

Exit codes: 0 drained after a signal, 1 failure, 2 bad usage or configuration.";

#[derive(Args)]
#[command(after_help = AFTER)]
pub struct Serve {
    #[command(flatten)]
    common: Common,
    /// Address and port of the receivers, /livez, /readyz and /metrics [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

#[derive(Args)]
#[command(after_help = AFTER)]
pub struct Ingest {
    #[command(flatten)]
    common: Common,
    /// Address and port of the receivers, /livez, /readyz and /metrics [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

#[derive(Args)]
#[command(after_help = AFTER)]
pub struct Analytics {
    #[command(flatten)]
    common: Common,
    /// Address and port of /livez, /readyz and /metrics [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

impl Serve {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.common.load_with(listen_flag(&["ingest", "listen"], self.listen))?;
        super::start_log(&config)?;
        let metrics = operating::start_metrics()?;
        let shutdown = operating::shutdown_on_signal()?;
        let whole = Whole::start(&config, metrics, shutdown, None).await?;
        tracing::info!(listen = %whole.address, data = %config.data.display(), "vedette serves");
        whole.finished().await
    }
}

impl Ingest {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.common.load_with(listen_flag(&["ingest", "listen"], self.listen))?;
        super::start_log(&config)?;
        needs_kafka(&config, "ingest")?;
        let metrics = operating::start_metrics()?;
        let shutdown = operating::shutdown_on_signal()?;
        let journal = components::journal(&config).await?;
        let receivers = config.ingest.clone().build(Arc::clone(&journal)).map_err(configuration)?;
        tracing::info!(listen = %receivers.local_addr(), "vedette ingests");
        let operating = Operating { metrics, journal, store: None, shutdown: shutdown.clone() };
        Ok(receivers.serve(operating.router(), shutdown).await?)
    }
}

impl Analytics {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.common.load_with(listen_flag(&["operating", "listen"], self.listen))?;
        super::start_log(&config)?;
        needs_kafka(&config, "analytics")?;
        let metrics = operating::start_metrics()?;
        let shutdown = operating::shutdown_on_signal()?;
        let journal = components::journal(&config).await?;
        let store = components::store(&config).await?;
        let engine = Engine::start(&config, &journal, &store, None).await?;
        let operating = Operating { metrics, journal, store: Some(store), shutdown: shutdown.clone() };
        let listen = config.operating.listen;
        let listener =
            tokio::net::TcpListener::bind(listen).await.with_context(|| format!("operating.listen: {listen}"))?;
        tracing::info!(listen = %listener.local_addr()?, "vedette analyses");
        let server = axum::serve(listener, operating.router());
        tokio::select! {
            result = engine.until(shutdown) => result,
            result = server => result.context("operating endpoints"),
        }
    }
}

/// All of Vedette in one process.
pub struct Whole {
    /// Where the receivers listen.
    pub address: SocketAddr,
    receivers: JoinHandle<anyhow::Result<()>>,
    engine: Engine,
    shutdown: CancellationToken,
}

impl Whole {
    /// Starts everything; senders are answered once this returns.
    pub async fn start(
        config: &Config,
        metrics: PrometheusHandle,
        shutdown: CancellationToken,
        on_finding: Option<UnboundedSender<Finding>>,
    ) -> anyhow::Result<Self> {
        let journal = components::journal(config).await?;
        let store = components::store(config).await?;
        let receivers = config.ingest.clone().build(Arc::clone(&journal)).map_err(configuration)?;
        let address = receivers.local_addr();
        let engine = Engine::start(config, &journal, &store, on_finding).await?;
        let operating = Operating { metrics, journal, store: Some(store), shutdown: shutdown.clone() };
        let receivers = tokio::spawn(receive(receivers, operating.router(), shutdown.clone()));
        Ok(Self { address, receivers, engine, shutdown })
    }

    /// Runs until the shutdown; the engine goes on until the receivers have drained, so that what they accepted at last is
    /// stored too.
    pub async fn finished(self) -> anyhow::Result<()> {
        let drained = CancellationToken::new();
        let (shutdown, token) = (self.shutdown, drained.clone());
        let receivers = async move {
            let result = self.receivers.await;
            token.cancel();
            result.context("receivers")?
        };
        let engine = async {
            let result = self.engine.until(drained).await;
            // Receivers without an engine would only fill the journal.
            shutdown.cancel();
            result
        };
        let (received, analysed) = tokio::join!(receivers, engine);
        analysed.and(received)
    }
}

async fn receive(receivers: Receivers, extra: Router, shutdown: CancellationToken) -> anyhow::Result<()> {
    Ok(receivers.serve(extra, shutdown).await?)
}

/// A rule that can't be planned is the configuration's fault.
fn unusable_rule(error: PipelineError) -> anyhow::Error {
    match error {
        PipelineError::Engine(error) => anyhow::Error::new(ExitReason::Usage).context(format!("detections: {error}")),
        error => error.into(),
    }
}

/// The running pipeline, and beside it the schedule and the store's housekeeping.
struct Engine {
    pipeline: JoinHandle<anyhow::Result<()>>,
    schedule: Option<JoinHandle<()>>,
    maintenance: JoinHandle<()>,
    stop: CancellationToken,
}

impl Engine {
    async fn start(
        config: &Config,
        journal: &Arc<dyn Journal>,
        store: &Arc<dyn Store>,
        on_finding: Option<UnboundedSender<Finding>>,
    ) -> anyhow::Result<Self> {
        store.migrate().await.context("can't migrate the store")?;
        let analytics = &config.analytics;
        let known = config.detections.fingerprint();
        let rules = Arc::new(components::ruleset(config)?);
        let stop = CancellationToken::new();
        let reloads = reload::watch(&config.detections, known, rules.clone(), stop.clone());
        let pipeline = Pipeline::new(analytics.clone(), Arc::clone(journal), Arc::clone(store), rules).await;
        let pipeline = pipeline.map_err(unusable_rule)?.following(reloads);
        let schedule = analytics.schedule.then(|| {
            let runner = Runner::new(Arc::clone(journal), Arc::clone(store), on_finding.clone());
            let (live, elected) = (pipeline.live(), pipeline.elected());
            tokio::spawn(Scheduler::new(analytics, Arc::clone(store), runner, live, elected).run(stop.clone()))
        });
        let token = stop.clone();
        let pipeline = tokio::spawn(async move { pipeline.run(token, on_finding).await.context("the engine stopped") });
        Ok(Self { pipeline, schedule, maintenance: tokio::spawn(maintain(Arc::clone(store), stop.clone())), stop })
    }

    /// Runs until the token is cancelled, then as long as the engine needs to finish, up to a deadline.
    async fn until(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut pipeline = self.pipeline;
        let ended = tokio::select! {
            result = &mut pipeline => Some(result),
            () = shutdown.cancelled() => None,
        };
        self.stop.cancel();
        let result = match ended {
            Some(result) => result,
            None => match tokio::time::timeout(DRAIN, pipeline).await {
                Ok(result) => result,
                Err(_) => bail!("the engine did not finish within {} s; the journal has what it left", DRAIN.as_secs()),
            },
        };
        // Both are safe to stop at any point.
        self.maintenance.abort();
        self.schedule.inspect(JoinHandle::abort);
        result.context("the engine")?
    }
}

async fn maintain(store: Arc<dyn Store>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(MAINTENANCE) => {}
        }
        if let Err(error) = store.maintain().await {
            metrics::counter!("vedette_store_maintenance_errors_total").increment(1);
            tracing::warn!(%error, "the store's housekeeping failed and is tried again");
        }
    }
}

fn listen_flag(path: &'static [&'static str], listen: Option<SocketAddr>) -> Vec<Flag> {
    let value = listen.map(|listen| Value::String(listen.to_string()));
    value.into_iter().map(|value| Flag { name: "--listen", path, value }).collect()
}

/// A stage alone needs a journal that another process can reach.
fn needs_kafka(config: &Config, verb: &str) -> Result<(), ConfigError> {
    match config.journal.kind {
        JournalKind::Kafka => Ok(()),
        JournalKind::Embedded => Err(ConfigError::Flag(format!(
            "journal.kind: `vedette {verb}` needs kafka, since the embedded journal belongs to one process; `vedette serve` \
             runs both stages"
        ))),
    }
}

/// What the receivers refuse to start with is configuration, unless the machine is at fault.
fn configuration(error: vedette_ingest::IngestError) -> anyhow::Error {
    match error {
        vedette_ingest::IngestError::Io(_) | vedette_ingest::IngestError::Bind { .. } => error.into(),
        other => ConfigError::Flag(other.to_string()).into(),
    }
}
