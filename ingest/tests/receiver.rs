//! The receivers through real sockets, over a journal in memory that can be told to fail or to stall.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use support::{Counted, Server, body_of, client, config, head_of, in_chunks, token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vedette_ingest::{Certificate, ClientAuth, Config, Tls};
use vedette_journal::{Source, Topic};

const LIST: &str = r#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[{"auditID":"1"},{"auditID":"2","x":"é"}]}"#;

/// A request to nowhere, whose answer has no body.
const NOTHING: &[u8] = b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n";

/// Gzip of nothing whose header takes so many bytes.
fn hollow_gzip(bytes: usize) -> Vec<u8> {
    let header = flate2::GzBuilder::new().filename("x".repeat(bytes));
    header.write(Vec::new(), flate2::Compression::fast()).finish().unwrap()
}

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
async fn a_body_that_can_be_neither_decompressed_nor_kept_whole_says_so() {
    let counted = Counted::default();
    let _counting = metrics::set_default_local_recorder(&counted);
    let mut config = config();
    config.max_event_bytes = 64 << 10;
    let server = Server::start(config.clone()).await;
    let body = [b"\x1f\x8b".as_slice(), &[b'x'; 200_000]].concat();
    assert_eq!(server.post("/v1/audit/prod", body.clone()).await, StatusCode::OK);
    let dead = server.journal.records(Topic::DeadLetters);
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].payload, body[..64 << 10]);
    let reason = dead[0].reason.as_deref().unwrap();
    assert!(reason.starts_with("gzip: ") && reason.ends_with("cut off after 65536 bytes"), "{reason}");
    assert_eq!(counted.get("vedette_ingest_bodies_cut_total{cluster=prod,source=audit}"), 1);

    // Too long for both: what is wrong with it counts.
    config.max_body_bytes = 1 << 10;
    let server = Server::start(config).await;
    assert_eq!(server.post("/v1/audit/prod", body.clone()).await, StatusCode::OK);
    assert_eq!(server.journal.records(Topic::DeadLetters)[0].payload, body[..1 << 10]);
    assert_eq!(counted.get("vedette_ingest_bodies_cut_total{cluster=prod,source=audit}"), 2);
}

#[tokio::test]
async fn a_body_that_is_too_long_before_decompression_is_cut_and_counted() {
    let counted = Counted::default();
    let _counting = metrics::set_default_local_recorder(&counted);
    let mut config = config();
    config.max_body_bytes = 64 << 10;
    let server = Server::start(config).await;
    let body = [gzip(LIST.as_bytes()), hollow_gzip(200_000)].concat();
    assert_eq!(server.post("/v1/audit/prod", body).await, StatusCode::OK);
    assert_eq!(server.journal.records(Topic::Audit).len(), 2);
    assert!(server.journal.records(Topic::DeadLetters).is_empty());
    assert_eq!(counted.get("vedette_ingest_bodies_cut_total{cluster=prod,source=audit}"), 1);
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
async fn every_append_that_fails_is_counted() {
    let counted = Counted::default();
    let _counting = metrics::set_default_local_recorder(&counted);
    let mut config = config();
    config.append_timeout_seconds = 1;
    let server = Server::start(config).await;
    server.journal.fail(true);
    assert_eq!(server.post("/v1/audit/prod", LIST).await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(counted.get("vedette_journal_append_errors_total{topic=audit}"), 1);
    server.journal.fail(false);
    server.journal.stall(true);
    assert_eq!(server.post("/v1/audit/prod", LIST).await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(counted.get("vedette_journal_append_errors_total{topic=audit}"), 2);
    assert_eq!(server.post("/v1/audit/prod", "hello").await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(counted.get("vedette_journal_append_errors_total{topic=dead-letters}"), 1);
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
async fn what_is_kept_of_a_body_that_gives_nothing_is_accounted_for() {
    let mut config = config();
    config.in_flight_bytes = 2 << 20;
    let server = Server::start(config).await;
    let other = server.occupy(600_000).await;
    let body = hollow_gzip(3 << 20);
    let answer = client().post(server.url("/v1/audit/prod")).body(in_chunks(&body)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers()["retry-after"], "2");
    drop(other);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.post("/v1/audit/prod", in_chunks(&body)).await, StatusCode::OK);
    assert!(server.journal.records(Topic::DeadLetters).is_empty());
}

#[tokio::test]
async fn tiny_events_are_accounted_for_with_all_that_they_take() {
    let mut config = config();
    config.in_flight_bytes = 1 << 20;
    let server = Server::start(config).await;
    let other = server.occupy(960_000).await;
    let events = r#"{"auditID":"1"}"#.repeat(1500);
    assert_eq!(server.post("/v1/audit/prod", events.clone()).await, StatusCode::TOO_MANY_REQUESTS);
    drop(other);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.post("/v1/audit/prod", events).await, StatusCode::OK);
    assert_eq!(server.journal.records(Topic::Audit).len(), 1500);
}

#[tokio::test]
async fn events_that_come_at_once_are_appended_in_batches() {
    let server = Server::start(config()).await;
    let body = format!("[{}]", vec!["{}"; 20_000].join(","));
    assert_eq!(server.post("/v1/audit/prod", body).await, StatusCode::OK);
    assert_eq!(server.journal.records(Topic::Audit).len(), 20_000);
    assert!(server.journal.largest_append() <= 1000, "{} at once", server.journal.largest_append());
}

/// Sends half a body, and the rest when the answer is due: it is read, and the connection goes on.
async fn check_refusal_in_mid_body(server: &Server) {
    let half = r#"{"auditID":"1"}"#.repeat(1500);
    let length = 2 * half.len();
    let start = format!("POST /v1/audit/prod HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{half}");
    let mut stream = server.connect(start.as_bytes()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stream.write_all(half.as_bytes()).await.unwrap();
    let answer = head_of(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after: 2"), "{answer}");
    stream.write_all(NOTHING).await.unwrap();
    assert!(head_of(&mut stream).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn who_is_refused_in_mid_body_gets_to_read_the_answer() {
    let mut config = config();
    config.in_flight_bytes = 1 << 20;
    let server = Server::start(config).await;
    server.journal.fail(true);
    check_refusal_in_mid_body(&server).await;
    server.journal.fail(false);
    let _other = server.occupy(960_000).await;
    check_refusal_in_mid_body(&server).await;
}

#[tokio::test]
async fn falco_waits_for_the_room_that_decompressing_takes() {
    let counted = Counted::default();
    let _counting = metrics::set_default_local_recorder(&counted);
    let body = zstd::encode_all(br#"{"rule":"r"}"#.as_slice(), 3).unwrap();
    let mut config = config();
    config.in_flight_bytes = 10 << 20;
    let server = Server::start(config.clone()).await;
    let other = server.occupy(4 << 20).await;
    let posting = tokio::spawn(client().post(server.url("/v1/falco/prod")).body(body.clone()).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!posting.is_finished(), "answered while there was no room");
    drop(other);
    assert_eq!(posting.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(server.journal.payloads(Topic::Falco), [r#"{"rule":"r"}"#]);

    config.append_timeout_seconds = 1;
    let server = Server::start(config).await;
    let _other = server.occupy(4 << 20).await;
    assert_eq!(server.post("/v1/falco/lost", body).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(counted.get("vedette_events_received_total{cluster=lost,source=falco}"), 1);
    assert_eq!(counted.get("vedette_events_rejected_total{cluster=lost,source=falco}"), 1);
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
async fn beyond_max_connections_the_next_one_waits_for_a_place() {
    let mut config = config();
    config.max_connections = 2;
    let server = Server::start(config).await;
    let mut first = server.connect(NOTHING).await;
    let mut second = server.connect(NOTHING).await;
    for stream in [&mut first, &mut second] {
        assert!(head_of(stream).await.starts_with("HTTP/1.1 404"));
    }
    let mut third = server.connect(NOTHING).await;
    let early = tokio::time::timeout(Duration::from_millis(500), third.read_u8()).await;
    assert!(early.is_err(), "served beyond max_connections");
    drop(first);
    assert!(head_of(&mut third).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn connections_are_closed_when_they_rest_and_not_before() {
    let mut config = config();
    config.header_timeout_seconds = 1;
    config.idle_timeout_seconds = 2;
    let server = Server::start(config).await;
    server.journal.stall(true);
    let posting = tokio::spawn(client().post(server.url("/v1/audit/prod")).body(LIST).send());
    let mut stream = server.connect(NOTHING).await;
    assert!(head_of(&mut stream).await.starts_with("HTTP/1.1 404"));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stream.write_all(NOTHING).await.unwrap();
    assert!(head_of(&mut stream).await.starts_with("HTTP/1.1 404"), "kept between requests");
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(6), stream.read_to_end(&mut rest)).await;
    assert_eq!(read.expect("at rest, and still open").unwrap(), 0);
    assert!(!posting.is_finished(), "a request under way is no rest");
    server.journal.stall(false);
    assert_eq!(posting.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn http2_connections_at_rest_are_told_goodbye() {
    let mut config = config();
    config.header_timeout_seconds = 1;
    config.idle_timeout_seconds = 1;
    let server = Server::start(config).await;
    // Empty settings, then a request's only frame: GET, http, the path, the authority.
    let headers = b"\x82\x86\x04\x08/nothing\x01\x01x";
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    sent.extend_from_slice(&[0, 0, headers.len() as u8, 1, 5, 0, 0, 0, 1]);
    sent.extend_from_slice(headers);
    let mut stream = server.connect(&sent).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "at rest, and still open");
    let mut kinds = Vec::new();
    let mut rest = answer.as_slice();
    while let [high, middle, low, kind, ..] = rest {
        let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        kinds.push(*kind);
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    let (headers, goodbye) = (1, 7);
    assert!(kinds.contains(&headers) && kinds.contains(&goodbye), "{kinds:?}");
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

#[test]
fn settings_that_lose_events_whatever_happens_are_refused() {
    fn build(change: impl FnOnce(&mut Config)) -> Option<String> {
        let mut config = config();
        change(&mut config);
        config.build(std::sync::Arc::new(support::Memory::default())).err().map(|error| error.to_string())
    }
    fn check(key: &str, change: impl FnOnce(&mut Config)) {
        let error = build(change).unwrap_or_default();
        assert!(error.contains(&format!("ingest.{key} is ")), "{key}: {error:?}");
    }
    const MOST: usize = (64 << 20) - (64 << 10);
    check("max_event_bytes", |config| config.max_event_bytes = MOST + 1);
    check("body_timeout_seconds", |config| config.body_timeout_seconds = 28);
    check("append_timeout_seconds", |config| config.append_timeout_seconds = u64::MAX);
    check("max_connections", |config| config.max_connections = 0);
    check("idle_timeout_seconds", |config| config.idle_timeout_seconds = 0);
    assert_eq!(build(|config| config.max_event_bytes = MOST), None);
    assert_eq!(build(|config| config.body_timeout_seconds = 27), None);
    assert_eq!(build(|config| config.append_timeout_seconds = 120), None);
}
