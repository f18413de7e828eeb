//! The receivers through real sockets, over a journal in memory that can be told to fail or to stall.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use support::{Server, body_of, client, config, token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vedette_ingest::{Certificate, ClientAuth, Tls};
use vedette_journal::{Source, Topic};

const LIST: &str = r#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[{"auditID":"1"},{"auditID":"2","x":"é"}]}"#;

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn every_form_of_body_arrives_as_the_same_events() {
    let server = Server::start(config()).await;
    let two = [r#"{"auditID":"1"}"#, r#"{"auditID":"2","x":"é"}"#];
    let ndjson = format!("{}\n{}\n", two[0], two[1]);
    let array = format!("[{}, {}]", two[0], two[1]);
    let bodies: [(Vec<u8>, &str); 6] = [
        (LIST.into(), ""),
        (ndjson.clone().into(), ""),
        (array.into(), ""),
        (gzip(LIST.as_bytes()), "gzip"),
        (zstd::encode_all(ndjson.as_bytes(), 3).unwrap(), "zstd"),
        (gzip(LIST.as_bytes()), ""),
    ];
    for (body, encoding) in bodies {
        server.journal.clear();
        let mut request = client().post(server.url("/v1/audit/prod?timeout=30s")).body(body);
        if !encoding.is_empty() {
            request = request.header("content-encoding", encoding);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers().get("content-type"), None);
        assert_eq!(answer.bytes().await.unwrap().len(), 0);
        assert_eq!(server.journal.payloads(Topic::Audit), two);
        assert!(server.journal.records(Topic::DeadLetters).is_empty());
        let record = server.journal.records(Topic::Audit).remove(0);
        assert_eq!((&*record.cluster, record.source, record.reason), ("prod", Source::Audit, None));
        assert!((chrono::Utc::now().timestamp_micros() - record.received_at).abs() < 60_000_000);
    }
}

#[tokio::test]
async fn falco_one_or_several() {
    let server = Server::start(config()).await;
    let event = r#"{"rule":"Terminal shell","priority":"Notice","output_fields":{"evt.time":1755953712345678901}}"#;
    for body in [event.to_owned(), format!("[{event}]"), format!("{event}\n")] {
        server.journal.clear();
        assert_eq!(server.post("/v1/falco/edge", body).await, StatusCode::OK);
        assert_eq!(server.journal.payloads(Topic::Falco), [event]);
        assert_eq!(server.journal.records(Topic::Falco)[0].source, Source::Falco);
    }
    assert_eq!(server.post("/v1/falco/edge", "12:00:00 Notice A shell").await, StatusCode::OK);
    assert_eq!(server.journal.payloads(Topic::DeadLetters), ["12:00:00 Notice A shell"]);
}

#[tokio::test]
async fn what_is_no_event_is_a_dead_letter_and_its_neighbours_are_accepted() {
    let server = Server::start(config()).await;
    let cases: [(&[u8], &[&str], &[&str]); 6] = [
        (b"hello", &[], &["hello"]),
        (br#"{"kind":"EventList","items":[{"a":1},7,{"b":"tr"#, &[r#"{"a":1}"#], &["7", r#"{"b":"tr"#]),
        (br#"{"kind":"Pod","metadata":{}}"#, &[], &[r#"{"kind":"Pod","metadata":{}}"#]),
        (b"[{\"a\":\"\xff\"},{\"b\":1}]", &[r#"{"b":1}"#], &["{\"a\":\"\u{fffd}\"}"]),
        (b"", &[], &[]),
        (br#"{"kind":"EventList","items":null}"#, &[], &[]),
    ];
    for (body, events, dead) in cases {
        server.journal.clear();
        assert_eq!(server.post("/v1/audit/prod", body.to_vec()).await, StatusCode::OK);
        assert_eq!(server.journal.payloads(Topic::Audit), events);
        assert_eq!(server.journal.payloads(Topic::DeadLetters), dead);
        assert!(server.journal.records(Topic::DeadLetters).iter().all(|record| record.reason.is_some()));
    }
}

#[tokio::test]
async fn a_body_that_can_not_be_decompressed_is_a_dead_letter_as_sent() {
    let server = Server::start(config()).await;
    let mut body = gzip(LIST.as_bytes());
    let middle = body.len() / 2;
    body[middle] ^= 0xff;
    assert_eq!(server.post("/v1/audit/prod", body.clone()).await, StatusCode::OK);
    let dead = server.journal.records(Topic::DeadLetters);
    let last = dead.last().unwrap();
    assert_eq!(last.payload, body);
    assert!(last.reason.as_ref().unwrap().starts_with("gzip: "), "{last:?}");
}

#[tokio::test]
async fn bombs_are_bounded_and_long_bodies_keep_their_first_events() {
    let mut config = config();
    config.max_body_bytes = 1 << 20;
    config.max_event_bytes = 64 << 10;
    config.in_flight_bytes = 4 << 20;
    let server = Server::start(config).await;
    let bomb = gzip(format!("{{\"auditID\":\"1\"}}\n{}", " ".repeat(64 << 20)).as_bytes());
    assert_eq!(server.post("/v1/audit/prod", bomb).await, StatusCode::OK);
    assert_eq!(server.journal.payloads(Topic::Audit), [r#"{"auditID":"1"}"#]);

    server.journal.clear();
    let line = format!("{{\"auditID\":\"{}\"}}\n", "x".repeat(1000));
    assert_eq!(server.post("/v1/audit/prod", line.repeat(2000)).await, StatusCode::OK);
    let whole = (1 << 20) / line.len();
    assert_eq!(server.journal.records(Topic::Audit).len(), whole);
    let dead = server.journal.records(Topic::DeadLetters);
    assert_eq!(dead.len(), 1);
    assert!(dead[0].reason.as_ref().unwrap().contains("max_body_bytes"));
    assert_eq!(dead[0].payload.len(), (1 << 20) - whole * line.len());
}

#[tokio::test]
async fn success_waits_until_the_journal_has_it() {
    let server = Server::start(config()).await;
    server.journal.stall(true);
    let posting = tokio::spawn(client().post(server.url("/v1/audit/prod")).body(LIST).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!posting.is_finished(), "answered before the events were durable");
    server.journal.stall(false);
    assert_eq!(posting.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(server.journal.records(Topic::Audit).len(), 2);
}

#[tokio::test]
async fn a_journal_that_fails_or_stalls_is_told_to_those_who_listen() {
    let mut config = config();
    config.append_timeout_seconds = 1;
    let server = Server::start(config).await;
    server.journal.fail(true);
    let answer = client().post(server.url("/v1/audit/prod")).body(LIST).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers()["retry-after"], "2");
    assert_eq!(server.post("/v1/falco/prod", r#"{"rule":"r"}"#).await, StatusCode::SERVICE_UNAVAILABLE);

    // Falco does not send again, so its event is appended as soon as the journal takes it.
    let posting = tokio::spawn(client().post(server.url("/v1/falco/prod")).body(r#"{"rule":"r"}"#).send());
    tokio::time::sleep(Duration::from_millis(400)).await;
    server.journal.fail(false);
    assert_eq!(posting.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(server.journal.payloads(Topic::Falco), [r#"{"rule":"r"}"#]);

    server.journal.stall(true);
    let began = Instant::now();
    assert_eq!(server.post("/v1/audit/prod", LIST).await, StatusCode::TOO_MANY_REQUESTS);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn beyond_the_budget_audit_is_told_to_wait_and_falco_waits() {
    let mut config = config();
    config.in_flight_bytes = 64 << 10;
    let server = Server::start(config).await;
    server.journal.stall(true);
    let events = r#"{"auditID":"1"}"#.repeat(3500);
    let first = tokio::spawn(client().post(server.url("/v1/audit/prod")).body(events.clone()).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answer = client().post(server.url("/v1/audit/prod")).body(events).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers()["retry-after"], "2");
    let falco = tokio::spawn(client().post(server.url("/v1/falco/prod")).body(r#"{"rule":"r"}"#).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!falco.is_finished());
    server.journal.stall(false);
    assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(falco.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(server.journal.records(Topic::Audit).len(), 3500);
}

#[tokio::test]
async fn events_are_appended_while_the_body_still_streams() {
    let server = Server::start(config()).await;
    let (sender, body) = body_of();
    let posting = tokio::spawn(client().post(server.url("/v1/audit/prod")).body(body).send());
    sender.send(r#"{"kind":"EventList","items":["#.into()).await.unwrap();
    sender.send(r#"{"auditID":"1"},"#.repeat(1500)).await.unwrap();
    server.journal.wait_for(Topic::Audit, 1000).await;
    assert!(!posting.is_finished());
    sender.send(r#"{"auditID":"2"}]}"#.into()).await.unwrap();
    drop(sender);
    assert_eq!(posting.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(server.journal.records(Topic::Audit).len(), 1501);
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_no_dead_letter() {
    let server = Server::start(config()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/audit/prod HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"auditID\":\"1\"}\n{\"audit";
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(server.journal.records(Topic::DeadLetters).is_empty());
    assert_eq!(server.post("/v1/audit/prod", LIST).await, StatusCode::OK);
}

#[tokio::test]
async fn tokens_are_bound_to_clusters_and_refusals_say_nothing() {
    let mut config = config();
    config.tokens = vec![token("secret", &["prod"]), token("everything", &["*"])];
    let server = Server::start(config).await;
    let cases = [
        ("prod", "Bearer secret", 200),
        ("dev", "Bearer secret", 403),
        ("dev", "Bearer everything", 200),
        ("prod", "Bearer wrong", 401),
        ("prod", "", 401),
        ("a%20b", "Bearer everything", 404),
        ("..", "", 404),
    ];
    for (cluster, header, status) in cases {
        let url = server.url(&format!("/v1/audit/{cluster}"));
        let answer = client().post(url).header("authorization", header).body(LIST).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{cluster} {header}");
        assert_eq!(answer.headers().get("www-authenticate"), None);
        assert_eq!(answer.bytes().await.unwrap().len(), 0);
    }
    assert_eq!(server.journal.records(Topic::Audit).len(), 4);
    let url = server.url("/v1/falco/prod").replace("//", "//falco:secret@");
    assert_eq!(client().post(url).body(r#"{"rule":"r"}"#).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn client_certificates_are_bound_to_clusters() {
    let authority = support::Authority::new();
    let mut config = config();
    let (certificate, key) = authority.files(&["localhost"], "server");
    config.tls = Some(Tls {
        certificate,
        key,
        client_ca: Some(authority.file("ca.pem", &authority.pem)),
        client_auth: ClientAuth::Optional,
    });
    config.certificates = vec![
        Certificate { subject_cn: Some("apiserver".into()), san: None, clusters: vec!["prod".into()] },
        Certificate { subject_cn: None, san: Some("edge.example".into()), clusters: vec!["edge".into()] },
    ];
    let server = Server::start(config).await;
    let url = |cluster: &str| format!("https://localhost:{}/v1/audit/{cluster}", server.address.port());
    let none = authority.client(None);
    assert_eq!(none.post(url("prod")).body(LIST).send().await.unwrap().status(), 401);
    let apiserver = authority.client(Some(authority.identity(&["x.example"], "apiserver")));
    let answer = apiserver.post(url("prod")).body(LIST).send().await.unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, reqwest::Version::HTTP_2));
    assert_eq!(apiserver.post(url("edge")).body(LIST).send().await.unwrap().status(), 403);
    let edge = authority.client(Some(authority.identity(&["edge.example"], "whoever")));
    assert_eq!(edge.post(url("edge")).body(LIST).send().await.unwrap().status(), 200);
    let stranger = authority.client(Some(support::Authority::new().identity(&["edge.example"], "apiserver")));
    assert!(stranger.post(url("prod")).body(LIST).send().await.is_err(), "signed by somebody else");
    assert_eq!(server.journal.records(Topic::Audit).len(), 4);
}

#[tokio::test]
async fn silence_and_endless_heads_are_timed_out() {
    let mut config = config();
    config.header_timeout_seconds = 1;
    config.body_timeout_seconds = 1;
    let server = Server::start(config).await;
    let slow_head = "POST /v1/audit/prod HTTP/1.1\r\nhost: x\r\nx-";
    for sent in ["", "PRI * HT", slow_head] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "still open after {sent:?}");
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/audit/prod HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn shutdown_lets_requests_end_and_takes_no_new_ones() {
    let server = Server::start(config()).await;
    server.journal.stall(true);
    let posting = tokio::spawn(client().post(server.url("/v1/audit/prod")).body(LIST).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(client().post(server.url("/v1/audit/prod")).body(LIST).send().await.is_err());
    server.journal.stall(false);
    assert_eq!(posting.await.unwrap().unwrap().status(), StatusCode::OK);
    let journal = server.journal.clone();
    tokio::time::timeout(Duration::from_secs(5), server.serving).await.unwrap().unwrap().unwrap();
    assert_eq!(journal.records(Topic::Audit).len(), 2);
}

#[tokio::test]
async fn the_drain_has_a_deadline() {
    let mut config = config();
    config.drain_seconds = 1;
    let server = Server::start(config).await;
    server.journal.stall(true);
    let posting = tokio::spawn(client().post(server.url("/v1/audit/prod")).body(LIST).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), server.serving).await.unwrap().unwrap().unwrap();
    assert!(posting.await.unwrap().is_err(), "no success for what is not durable");
}

#[tokio::test]
async fn extra_routes_and_other_methods() {
    let server = Server::start(config()).await;
    assert_eq!(client().get(server.url("/livez")).send().await.unwrap().status(), StatusCode::OK);
    let answer = client().get(server.url("/v1/audit/prod")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(client().get(server.url("/nothing")).send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[test]
fn wrong_configuration_names_its_key() {
    let journal = || std::sync::Arc::new(support::Memory::default());
    let mut wrong = config();
    wrong.tls = Some(Tls { certificate: "/nowhere/cert.pem".into(), ..Tls::default() });
    let error = wrong.build(journal()).err().unwrap().to_string();
    assert!(error.contains("ingest.tls.certificate: /nowhere/cert.pem"), "{error}");
    let mut wrong = config();
    wrong.certificates = vec![Certificate::default()];
    let error = wrong.build(journal()).err().unwrap().to_string();
    assert!(error.contains("tls.client_ca"), "{error}");
    let mut wrong = config();
    wrong.max_body_bytes = 0;
    let error = wrong.build(journal()).err().unwrap().to_string();
    assert!(error.contains("ingest.max_body_bytes"), "{error}");
}
