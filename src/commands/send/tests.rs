//! Delivery against a small server of our own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::IntoResponse;

use super::*;

/// A status, and its Retry-After.
type Answer = (u16, Option<&'static str>);

/// A server that answers with the given statuses, then 200, and keeps what it took.
#[derive(Clone, Default)]
struct Server {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    taken: Arc<Mutex<Vec<(String, Bytes)>>>,
}

async fn answer(State(server): State<Server>, uri: Uri, body: Bytes) -> impl IntoResponse {
    match server.answers.lock().unwrap().pop_front() {
        Some((status, Some(wait))) => {
            (StatusCode::from_u16(status).unwrap(), [(header::RETRY_AFTER, wait)]).into_response()
        }
        Some((status, None)) => StatusCode::from_u16(status).unwrap().into_response(),
        None => {
            server.taken.lock().unwrap().push((uri.to_string(), body));
            StatusCode::OK.into_response()
        }
    }
}

impl Server {
    async fn start(answers: &[(u16, Option<&'static str>)]) -> (Self, Url) {
        let server = Self { answers: Arc::new(Mutex::new(answers.iter().copied().collect())), ..Self::default() };
        let app = Router::new().fallback(answer).with_state(server.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        (server, url)
    }
}

fn provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Sends so many one-event batches, and gives back the total and the server.
async fn send(answers: &[(u16, Option<&'static str>)], count: u64) -> (Total, Server) {
    provider();
    let (server, url) = Server::start(answers).await;
    let to = address(url, false, Some("prod")).unwrap();
    let webhook = Webhook::new(to, false, None, None, Duration::from_millis(1)).unwrap();
    let (sender, batches) = mpsc::channel(100);
    for number in 0..count {
        sender.send(Batch { body: number.to_string().into(), events: 1 }).await.unwrap();
    }
    drop(sender);
    (deliver(&webhook, batches, 2, None, ProgressBar::hidden()).await, server)
}

#[tokio::test]
async fn every_batch_arrives_once_at_the_path_an_api_server_uses() {
    let (total, server) = send(&[], 5).await;
    assert_eq!((total.events, total.retries, total.failures), (5, 0, 0));
    let mut taken = server.taken.lock().unwrap().clone();
    taken.sort();
    let expect: Vec<_> =
        (0..5).map(|n| ("/v1/audit/prod?timeout=30s".to_string(), Bytes::from(n.to_string()))).collect();
    assert_eq!(taken, expect);
}

#[tokio::test]
async fn retry_after_is_waited_for_within_the_try() {
    let start = Instant::now();
    // Seven refusals are more than five tries could bear.
    let mut answers = vec![(429, Some("0")); 6];
    answers.push((503, Some("1")));
    let (total, _) = send(&answers, 1).await;
    assert_eq!((total.events, total.retries, total.failures), (1, 7, 0));
    assert!(start.elapsed() >= Duration::from_secs(1), "came back too soon");
}

#[tokio::test]
async fn five_tries_then_given_up() {
    // A date is not honoured, nor is patience without 429 or 5xx.
    let refusals =
        [(429, Some("Sat, 21 Nov 2026 00:00:00 GMT")), (400, Some("1")), (503, None), (302, None), (401, None)];
    let (total, server) = send(&refusals, 1).await;
    assert_eq!((total.events, total.lost, total.retries, total.failures), (0, 1, 4, 1));
    assert!(server.taken.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_rate_is_kept() {
    provider();
    let (_server, url) = Server::start(&[]).await;
    let webhook = Webhook::new(url, false, Some("secret".into()), None, Duration::ZERO).unwrap();
    let (sender, batches) = mpsc::channel(10);
    for _ in 0..3 {
        sender.send(Batch { body: "[]".into(), events: 10 }).await.unwrap();
    }
    drop(sender);
    let total = deliver(&webhook, batches, 4, Some(100), ProgressBar::hidden()).await;
    assert_eq!(total.events, 30);
    assert!(total.elapsed >= Duration::from_millis(200), "{:?}", total.elapsed);
}

#[tokio::test]
async fn http2_is_spoken_without_asking() {
    provider();
    let (server, url) = Server::start(&[]).await;
    let webhook = Webhook::new(url, true, None, None, Duration::ZERO).unwrap();
    let outcome = webhook.deliver(Batch { body: "[]".into(), events: 1 }).await;
    assert!(outcome.given_up.is_none(), "{outcome:?}");
    assert_eq!(server.taken.lock().unwrap().len(), 1);
}

#[test]
fn addresses() {
    let check = |to: &str, falco, cluster, expect: &str| {
        assert_eq!(address(to.parse().unwrap(), falco, cluster).unwrap().as_str(), expect);
    };
    check("http://h", false, None, "http://h/v1/audit/default?timeout=30s");
    check("http://h", true, None, "http://h/v1/falco/default");
    check("https://h:1/v1/audit/a", false, Some("b c"), "https://h:1/v1/audit/b%20c?timeout=30s");
    check("http://h/prefix/v1/audit/a/", false, Some("b"), "http://h/prefix/v1/audit/b?timeout=30s");
    assert!(address("ftp://h".parse().unwrap(), false, None).unwrap_err().to_string().contains("--to"));
}
