//! One webhook and how an API server treats it: five tries a batch, thirty seconds each, patient with `Retry-After`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Response};
use tokio::time::Instant;
use url::{Host, Url};

use super::Batch;
use crate::config::ConfigError;

/// Tries of a batch.
const TRIES: u32 = 5;
/// How long a try may take, its waits for `Retry-After` included.
const BUDGET: Duration = Duration::from_secs(30);
/// Requests within a try.
const REPEATS: u32 = 10;

/// Where batches go.
pub struct Webhook {
    client: Client,
    to: Url,
    backoff: Duration,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Outcome {
    pub events: u64,
    pub bytes: u64,
    pub retries: u64,
    /// Why the batch was given up, if it was.
    pub given_up: Option<String>,
}

impl Webhook {
    pub fn new(
        to: Url,
        http2: bool,
        token: Option<String>,
        ca: Option<&Path>,
        backoff: Duration,
    ) -> anyhow::Result<Self> {
        // Go's client, which API servers use, would turn a redirected POST into a GET. Here it is an error.
        let mut client = Client::builder().redirect(reqwest::redirect::Policy::none()).default_headers(headers(token)?);
        if http2 {
            client = client.http2_prior_knowledge();
        } else if to.scheme() == "http" {
            client = client.http1_only();
        }
        if let Some(path) = ca {
            client = client.tls_certs_only(certificates(path)?);
        } else if to.scheme() == "http" {
            // Without TLS no certificates are needed, and a machine may have none.
            client = client.tls_certs_only([]);
        }
        if is_loopback(&to) {
            client = client.no_proxy();
        }
        let client = client.build().context("can't set up the HTTP client")?;
        Ok(Self { client, to, backoff })
    }

    /// Delivers a batch, or gives it up after the last try.
    pub async fn deliver(&self, batch: Batch) -> Outcome {
        let mut outcome = Outcome { events: batch.events, bytes: batch.body.len() as u64, retries: 0, given_up: None };
        let mut wait = self.backoff;
        for number in 1..=TRIES {
            match self.attempt(&batch, &mut outcome.retries).await {
                Ok(()) => return outcome,
                Err(reason) if number == TRIES => outcome.given_up = Some(reason),
                Err(reason) => {
                    tracing::debug!(reason, number, "a batch was refused");
                    tokio::time::sleep(jittered(wait)).await;
                    wait = wait.mul_f64(1.5);
                    outcome.retries += 1;
                }
            }
        }
        outcome
    }

    /// One try: requests until one succeeds, fails without asking for patience, or the time is up.
    async fn attempt(&self, batch: &Batch, retries: &mut u64) -> Result<(), String> {
        let deadline = Instant::now() + BUDGET;
        for _ in 0..REPEATS {
            let request = self.client.post(self.to.clone()).body(batch.body.clone());
            let response = match tokio::time::timeout_at(deadline, request.send()).await {
                Err(_) => return Err(format!("no answer within {} s", BUDGET.as_secs())),
                Ok(Err(error)) => return Err(chain(&error)),
                Ok(Ok(response)) => response,
            };
            let status = response.status();
            if (200..=206).contains(&status.as_u16()) {
                // Read to the end, so that the connection is used again.
                return response.bytes().await.map(drop).map_err(|error| chain(&error));
            }
            let Some(wait) = retry_after(&response).filter(|wait| Instant::now() + *wait < deadline) else {
                return Err(format!("the webhook answered {status}"));
            };
            *retries += 1;
            tokio::time::sleep(wait).await;
        }
        Err(format!("the webhook asked for patience {REPEATS} times"))
    }
}

/// `Retry-After` as Go's client honours it: whole seconds, with 429 and every 5xx.
fn retry_after(response: &Response) -> Option<Duration> {
    let status = response.status();
    let patient = status.as_u16() == 429 || status.is_server_error();
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    patient.then(|| Duration::from_secs(seconds))
}

/// One to 1.2 times the wait, so that many senders don't come back together.
fn jittered(wait: Duration) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    wait.mul_f64(1.0 + f64::from(now.subsec_nanos() % 1000) / 5000.0)
}

fn headers(token: Option<String>) -> Result<HeaderMap, ConfigError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
    if let Some(token) = token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| ConfigError::Flag("--token: has characters that no header can carry".into()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, ConfigError> {
    let unusable = |reason: String| ConfigError::Flag(format!("--ca: {}: {reason}", path.display()));
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(chain(&error)))?;
    if certificates.is_empty() {
        return Err(unusable("has no certificate".into()));
    }
    Ok(certificates)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// An error with its causes: reqwest's own says little more than that a request failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
