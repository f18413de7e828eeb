//! A server on a free port, a journal in memory, and certificates.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vedette_ingest::{Config, IngestError, Token};
use vedette_journal::{Consumer, Journal, JournalError, Record, Topic};

/// A journal in memory.
pub struct Memory {
    records: Mutex<Vec<(Topic, Record)>>,
    largest_append: Mutex<usize>,
    stalled: watch::Sender<bool>,
    failing: watch::Sender<bool>,
}

impl Default for Memory {
    fn default() -> Self {
        let (stalled, failing) = (watch::Sender::new(false), watch::Sender::new(false));
        Self { records: Mutex::default(), largest_append: Mutex::default(), stalled, failing }
    }
}

impl Memory {
    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    pub fn fail(&self, failing: bool) {
        self.failing.send_replace(failing);
    }

    pub fn clear(&self) {
        self.records.lock().unwrap().clear();
    }

    pub fn records(&self, topic: Topic) -> Vec<Record> {
        let records = self.records.lock().unwrap();
        records.iter().filter(|(of, _)| *of == topic).map(|(_, record)| record.clone()).collect()
    }

    /// How many records the largest append had.
    pub fn largest_append(&self) -> usize {
        *self.largest_append.lock().unwrap()
    }

    pub fn payloads(&self, topic: Topic) -> Vec<String> {
        let records = self.records(topic);
        records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned()).collect()
    }

    pub async fn wait_for(&self, topic: Topic, count: usize) {
        for _ in 0..500 {
            if self.records(topic).len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} of {count} records in {topic}", self.records(topic).len());
    }
}

#[async_trait]
impl Journal for Memory {
    async fn append(&self, topic: Topic, records: Vec<Record>) -> Result<(), JournalError> {
        self.stalled.subscribe().wait_for(|stalled| !stalled).await.unwrap();
        if *self.failing.borrow() {
            return Err(JournalError::Closed);
        }
        let mut largest = self.largest_append.lock().unwrap();
        *largest = records.len().max(*largest);
        drop(largest);
        self.records.lock().unwrap().extend(records.into_iter().map(|record| (topic, record)));
        Ok(())
    }

    async fn subscribe(&self, _: &str, _: &[Topic]) -> Result<Box<dyn Consumer>, JournalError> {
        Err(JournalError::Closed)
    }

    async fn ready(&self) -> Result<(), JournalError> {
        Ok(())
    }

    fn id(&self) -> String {
        "memory".into()
    }
}

/// A server under test.
pub struct Server {
    pub address: SocketAddr,
    pub journal: Arc<Memory>,
    pub shutdown: CancellationToken,
    pub serving: JoinHandle<Result<(), IngestError>>,
}

impl Server {
    pub async fn start(config: Config) -> Self {
        let journal = Arc::new(Memory::default());
        let ingest = config.build(journal.clone()).unwrap();
        let address = ingest.local_addr();
        let shutdown = CancellationToken::new();
        let extra = axum::Router::new().route("/livez", axum::routing::get(|| async { "ok" }));
        let serving = tokio::spawn(ingest.serve(extra, shutdown.clone()));
        Self { address, journal, shutdown, serving }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> StatusCode {
        client().post(self.url(path)).body(body).send().await.unwrap().status()
    }

    /// A connection that sends this much.
    pub async fn connect(&self, sent: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        stream
    }

    /// A request that announces so many bytes and sends none, and so holds room for them.
    pub async fn occupy(&self, bytes: usize) -> TcpStream {
        let head = format!("POST /v1/audit/other HTTP/1.1\r\nhost: x\r\ncontent-length: {bytes}\r\n\r\n");
        let stream = self.connect(head.as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream
    }
}

/// The head of the next answer on a connection.
pub async fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.expect("no answer");
        head.push(byte.expect("the connection ended"));
    }
    String::from_utf8(head).unwrap()
}

/// What is counted on this thread, where a test's server runs too. It counts while it is the thread's recorder.
#[derive(Default)]
pub struct Counted(Mutex<HashMap<String, Arc<AtomicU64>>>);

impl Counted {
    /// A counter, as `name{label=value,…}`.
    pub fn get(&self, series: &str) -> u64 {
        self.0.lock().unwrap().get(series).map_or(0, |count| count.load(Ordering::SeqCst))
    }
}

impl Recorder for Counted {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let series = format!("{}{{{}}}", key.name(), labels.join(","));
        Counter::from_arc(Arc::clone(self.0.lock().unwrap().entry(series).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// Defaults on a free port.
pub fn config() -> Config {
    Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() }
}

pub fn token(secret: &str, clusters: &[&str]) -> Token {
    let hash = vedette_ingest::auth::sha256(secret.as_bytes());
    Token {
        name: "test".into(),
        sha256: hash.iter().map(|b| format!("{b:02x}")).collect(),
        clusters: clusters.iter().map(ToString::to_string).collect(),
    }
}

fn builder() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}

pub fn client() -> reqwest::Client {
    builder().tls_certs_only([]).build().unwrap()
}

/// A body that is sent as it is written.
pub fn body_of() -> (mpsc::Sender<String>, reqwest::Body) {
    let (sender, receiver) = mpsc::channel::<String>(1);
    let stream = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|chunk| (Ok::<_, std::io::Error>(chunk), receiver))
    });
    (sender, reqwest::Body::wrap_stream(stream))
}

/// A body whose length is not known beforehand.
pub fn in_chunks(bytes: &[u8]) -> reqwest::Body {
    let chunks: Vec<_> = bytes.chunks(64 << 10).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
    reqwest::Body::wrap_stream(futures::stream::iter(chunks))
}

/// A certificate authority with a folder for its files.
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let pem = issuer.pem();
        Self { folder: tempfile::tempdir().unwrap(), issuer, pem }
    }

    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Certificate and key as PEM.
    fn signed(&self, names: &[&str], cn: &str) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, cn);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub fn files(&self, names: &[&str], cn: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.signed(names, cn);
        (self.file("tls.crt", &certificate), self.file("tls.key", &key))
    }

    pub fn identity(&self, names: &[&str], cn: &str) -> reqwest::Identity {
        let (certificate, key) = self.signed(names, cn);
        reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap()
    }

    pub fn client(&self, identity: Option<reqwest::Identity>) -> reqwest::Client {
        let roots = reqwest::Certificate::from_pem(self.pem.as_bytes()).unwrap();
        let builder = builder().tls_certs_only([roots]);
        match identity {
            Some(identity) => builder.identity(identity).build().unwrap(),
            None => builder.build().unwrap(),
        }
    }
}
