//! What operators and their machines ask of a running Vedette: is it alive, is it ready, what has it counted.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use vedette_analytics::store::Store;
use vedette_journal::Journal;

/// Bounds of the latency histograms in seconds: the p99 asked for is one second.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// How long a component may take to say that it is ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the endpoints ask.
#[derive(Clone)]
pub struct Operating {
    pub metrics: PrometheusHandle,
    pub journal: Arc<dyn Journal>,
    pub store: Option<Arc<dyn Store>>,
    pub shutdown: CancellationToken,
}

/// Starts counting. Once a process.
pub fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .and_then(|builder| builder.install_recorder())
        .context("can't start the metrics")?;
    let upkeep = handle.clone();
    // Without this, samples of histograms pile up until the next scrape, which may never come.
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

impl Operating {
    /// `/livez`, `/readyz` and `/metrics`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self)
    }

    /// Why the process can't do its work now, if it can't.
    async fn problem(&self) -> Option<String> {
        if self.shutdown.is_cancelled() {
            return Some("shutting down".into());
        }
        let asked = async {
            self.journal.ready().await.map_err(|error| error.to_string())?;
            match &self.store {
                Some(store) => store.ready().await.map_err(|error| error.to_string()),
                None => Ok(()),
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err("no answer in time".into())).err()
    }
}

async fn ready(State(operating): State<Operating>) -> impl IntoResponse {
    match operating.problem().await {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(problem) => {
            // The reason names hosts and folders: it is for the log, not for whoever asks.
            tracing::warn!(problem, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())
        }
    }
}

async fn metrics(State(operating): State<Operating>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], operating.metrics.render())
}

/// A token that SIGTERM or SIGINT cancels. A second signal ends the process at once.
pub fn shutdown_on_signal() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            if again {
                tracing::warn!("second signal: leaving at once");
                std::process::exit(1);
            }
            tracing::info!("draining; a second signal leaves at once");
            cancelled.cancel();
        }
    });
    Ok(token)
}
