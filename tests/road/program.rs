//! The program as a process: started, asked, ended and killed.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for anything. A debug build on a busy machine is slow, and a failure only has to be certain.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Configuration as environment variables.
#[derive(Clone, Debug, Default)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.0.push((format!("VEDETTE_{name}"), value.to_string()));
        self
    }

    /// A command under these settings, and none of the machine's.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vedette"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("VEDETTE_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).envs(self.0.iter().cloned()).stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a verb that must succeed; what it prints.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a verb that must fail with this code; what it says.
    #[track_caller]
    pub fn fail(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    /// The rows of a query as lines of CSV, without the header.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<String> {
        self.succeed(&["query", "--format", "csv", sql]).lines().skip(1).map(str::to_owned).collect()
    }

    /// The only row of a query over whole numbers.
    #[track_caller]
    pub fn numbers(&self, sql: &str) -> Vec<u64> {
        let rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows[0].split(',').map(|number| number.parse().unwrap()).collect()
    }
}

/// A running stage, or all of them.
pub struct Program {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Program {
    /// Starts a verb that listens, and waits until it is ready. Its log is added to a file of the folder.
    pub fn start(settings: &Settings, verb: &str, address: SocketAddr, folder: &Path) -> Self {
        let log = folder.join(format!("{verb}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = settings.command(&[verb, "--listen", &address.to_string()]);
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let mut program = Self { child, address, log };
        let started = Instant::now();
        while program.get("/readyz").0 != 200 {
            let ended = program.child.try_wait().unwrap();
            assert!(ended.is_none(), "{verb} ended with {ended:?}:\n{}", program.log());
            assert!(started.elapsed() < PATIENCE, "{verb} does not become ready:\n{}", program.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        program
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Status and body; status 0 if there is no answer.
    pub fn get(&self, path: &str) -> (u16, String) {
        http(reqwest::Method::GET, &format!("http://{}{path}", self.address), Vec::new())
    }

    pub fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> (u16, String) {
        http(reqwest::Method::POST, &format!("http://{}{path}", self.address), body.into())
    }

    /// The sum of a counter's series whose labels include these.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.get("/metrics");
        let series =
            text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with(['{', ' ']));
        let series = series.filter(|rest| labels.iter().all(|label| rest.contains(label)));
        series.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "ended before it was killed:\n{}", self.log());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ends.
    pub fn terminate(mut self) -> ExitStatus {
        let signalled = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(signalled.success());
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "does not drain:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, which must drain and end with 0.
    #[track_caller]
    pub fn drain(self) {
        let log = self.log.clone();
        let status = self.terminate();
        assert_eq!(status.code(), Some(0), "{}", std::fs::read_to_string(log).unwrap_or_default());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A test that fails leaves nothing behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body; status 0 and the reason if there is no answer.
pub fn http(method: reqwest::Method, url: &str, body: Vec<u8>) -> (u16, String) {
    // Fails only where it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(PATIENCE).build().unwrap();
    let answer = runtime.block_on(async {
        let response = client.request(method, url).body(body).send().await?;
        Ok::<_, reqwest::Error>((response.status().as_u16(), response.text().await?))
    });
    answer.unwrap_or_else(|error| (0, error.to_string()))
}

/// An address that nobody listens at, outside the range that the system gives to outgoing connections.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id() as u16).wrapping_mul(31).wrapping_add(step) % 12_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Waits until something holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(3));
    }
}
