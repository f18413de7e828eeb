//! The HTTP receivers: who may write, whether there is room, and what a delivery's outcome is as a status. The one place
//! where an outcome becomes a status.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_LENGTH, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio::time::timeout;
use vedette_journal::Journal;

use crate::auth::{Auth, Denied, valid_cluster};
use crate::body;
use crate::certificate::Names;
use crate::config::Config;
use crate::delivery::{Delivery, FLUSH_BYTES, Outcome};
use crate::limits::{Budget, Hold};
use crate::sources::{Sender, audit, falco};
use crate::telemetry::{Answer, Telemetry};

/// A request holds at least this much of the budget: its buffers exist before its body does.
const LEAST_HOLD: usize = 16 << 10;
/// What a body of unknown length holds to begin with.
const UNKNOWN_HOLD: usize = 1 << 20;
/// An API server waits two seconds when it is told so, and tries again within the same attempt.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("2");
/// How long the body of a refused request is read on, so that its sender gets to read the answer.
pub(crate) const DISCARD: Duration = Duration::from_secs(2);

/// What all requests share.
pub(crate) struct Receiver {
    auth: Auth,
    telemetry: Telemetry,
    pub journal: Arc<dyn Journal>,
    pub budget: Budget,
    pub max_body_bytes: usize,
    pub max_event_bytes: usize,
    pub body_timeout: Duration,
    pub append_timeout: Duration,
}

pub(crate) fn router(receiver: Arc<Receiver>) -> Router {
    Router::new()
        .route("/v1/audit/{cluster}", post(receive_audit))
        .route("/v1/falco/{cluster}", post(receive_falco))
        .with_state(receiver)
}

async fn receive_audit(
    State(receiver): State<Arc<Receiver>>,
    Path(cluster): Path<String>,
    request: Request,
) -> Response {
    receiver.receive(audit::SENDER, &cluster, request).await
}

async fn receive_falco(
    State(receiver): State<Arc<Receiver>>,
    Path(cluster): Path<String>,
    request: Request,
) -> Response {
    receiver.receive(falco::SENDER, &cluster, request).await
}

impl Receiver {
    pub fn new(config: &Config, auth: Auth, journal: Arc<dyn Journal>) -> Self {
        Self {
            auth,
            telemetry: Telemetry::default(),
            journal,
            budget: Budget::new(config.in_flight_bytes),
            max_body_bytes: config.max_body_bytes,
            max_event_bytes: config.max_event_bytes,
            body_timeout: Duration::from_secs(config.body_timeout_seconds),
            append_timeout: Duration::from_secs(config.append_timeout_seconds),
        }
    }

    async fn receive(&self, sender: Sender, cluster: &str, request: Request) -> Response {
        let answer = Answer::pending(sender.source);
        let status = match self.refusal(cluster, &request) {
            Some(status) => status,
            None => status_of(self.deliver(sender, cluster, request).await, sender),
        };
        answer.with(status.as_u16());
        let mut response = status.into_response();
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        response
    }

    /// Why a request is not let in.
    fn refusal(&self, cluster: &str, request: &Request) -> Option<StatusCode> {
        if !valid_cluster(cluster) {
            tracing::warn!(path = request.uri().path(), "refused: the path holds no valid cluster name");
            return Some(StatusCode::NOT_FOUND);
        }
        let names = request.extensions().get::<Arc<Names>>();
        match self.auth.permit(cluster, request.headers(), names.map(AsRef::as_ref)) {
            Ok(()) => None,
            Err(denied) => {
                tracing::warn!(cluster, ?denied, certificate = ?names, "refused a sender");
                Some(match denied {
                    Denied::Unknown => StatusCode::UNAUTHORIZED,
                    Denied::Forbidden => StatusCode::FORBIDDEN,
                })
            }
        }
    }

    async fn deliver(&self, sender: Sender, cluster: &str, request: Request) -> Outcome {
        let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let Some(hold) = self.hold(sender, length).await else {
            self.note_overload(sender, cluster);
            let _ = timeout(DISCARD, body::discard(request.into_body())).await;
            return Outcome::Overload;
        };
        let counts = self.telemetry.of(sender.source, cluster);
        Delivery::new(self, sender, cluster, counts, hold).run(request.into_body()).await
    }

    /// What does not come again is lost here, and counts as one event, unread as it is.
    pub fn note_overload(&self, sender: Sender, cluster: &str) {
        let source = sender.source.name();
        if sender.retries {
            return tracing::warn!(cluster, source, "overload: the in-flight budget is used up");
        }
        let counts = self.telemetry.of(sender.source, cluster);
        counts.received.increment(1);
        counts.rejected.increment(1);
        tracing::error!(cluster, source, "overload: a request that will not come again is lost");
    }

    /// Room for a body. Whoever sends again is told to; whoever does not is kept waiting.
    async fn hold(&self, sender: Sender, length: Option<usize>) -> Option<Hold> {
        let bytes = length.unwrap_or(UNKNOWN_HOLD).clamp(LEAST_HOLD, FLUSH_BYTES);
        match sender.retries {
            true => self.budget.try_hold(bytes),
            false => self.budget.hold_within(bytes, self.append_timeout).await,
        }
    }
}

/// Senders that repeat are told when to; to the others no status means anything, so it says what happened.
fn status_of(outcome: Outcome, sender: Sender) -> StatusCode {
    match outcome {
        Outcome::Durable => StatusCode::OK,
        Outcome::Overload | Outcome::Unavailable if sender.retries => StatusCode::TOO_MANY_REQUESTS,
        Outcome::Overload | Outcome::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Outcome::TooSlow => StatusCode::REQUEST_TIMEOUT,
        Outcome::Broken => StatusCode::BAD_REQUEST,
    }
}
