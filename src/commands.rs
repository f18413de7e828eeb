//! The command line: verbs, what they share, and exit codes.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use toml::Value;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError, Flag, LogFormat};

mod backtest;
mod check;
mod components;
mod demo;
mod functions;
mod migrate;
mod operating;
mod query;
mod reload;
mod rules;
mod run;
mod send;
mod serve;

const EXIT_CODES: &str =
    "Exit codes: 0 success, 1 failure, 2 bad usage or configuration, 3 a rule failed its check, 4 `run
--exit-code` has new findings.

Configuration: one TOML file (--config), under VEDETTE_… environment variables (journal.kafka.brokers is
VEDETTE_JOURNAL__KAFKA__BROKERS), under flags. `vedette config` prints the effective one.";

/// Kubernetes detection pipeline: audit webhooks and Falco events in, SQL detections on the stream, findings out.
#[derive(Parser)]
#[command(name = "vedette", version, after_help = EXIT_CODES, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs everything in one process: receivers, journal, detection and store.
    Serve(serve::Serve),
    /// Runs the receivers alone: senders to journal. For deployments with Kafka.
    Ingest(serve::Ingest),
    /// Runs the engine alone: journal to findings and store. For deployments with Kafka.
    Analytics(serve::Analytics),
    /// Sends audit or Falco events to a webhook the way an API server or Falco does.
    Send(send::Send),
    /// Queries events and findings in SQL; without SQL, prompts for it.
    Query(query::Query),
    /// Runs rules over the events of a time that has passed, and says what they would have found.
    Backtest(backtest::Backtest),
    /// Runs a scheduled rule once, for a scheduler other than Vedette's own.
    Run(run::Run),
    /// Lists the rules that run; `rules explain ID` says how one of them runs.
    Rules(rules::Rules),
    /// Lints rules and runs their tests through the engine.
    Check(check::Check),
    /// Lists the SQL functions of rules and queries, with examples.
    Functions(functions::Functions),
    /// Creates the store's tables, or brings them up to date. Safe to repeat.
    Migrate(migrate::Migrate),
    /// Starts Vedette in a folder of its own, plays an attack on a cluster, and shows what it finds.
    Demo(demo::Demo),
    /// Prints the effective configuration as TOML, secrets masked.
    Config(ShowConfig),
}

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
struct ShowConfig {
    #[command(flatten)]
    common: Common,
}

/// Flags of every verb that reads the configuration.
#[derive(Args, Clone, Debug, Default)]
pub struct Common {
    /// The configuration file, in TOML [environment: VEDETTE_CONFIG]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The folder of the embedded journal and the lake [default: data, environment: VEDETTE_DATA]
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
}

impl Common {
    fn load(self) -> Result<Config, ConfigError> {
        self.load_with(Vec::new())
    }

    fn load_with(self, mut flags: Vec<Flag>) -> Result<Config, ConfigError> {
        if let Some(data) = self.data {
            flags.push(Flag { name: "--data", path: &["data"], value: Value::String(data.display().to_string()) });
        }
        let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Config::load(Config::file(self.config).as_deref(), environment, flags)
    }
}

/// Runs the verb.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.verb {
        Verb::Serve(serve) => serve.run().await,
        Verb::Ingest(ingest) => ingest.run().await,
        Verb::Analytics(analytics) => analytics.run().await,
        Verb::Send(send) => send.run().await,
        Verb::Query(query) => query.run().await,
        Verb::Backtest(backtest) => backtest.run().await,
        Verb::Run(run) => run.run().await,
        Verb::Rules(rules) => rules.run().await,
        Verb::Check(check) => check.run().await,
        Verb::Functions(functions) => functions.run(),
        Verb::Migrate(migrate) => migrate.run().await,
        Verb::Demo(demo) => demo.run().await,
        Verb::Config(show) => {
            let text = show.common.load()?.to_masked_toml()?;
            print_all(&text)
        }
    }
}

/// Why the program ends as it does, beyond plain failure. Travels inside the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExitReason {
    #[error("failed")]
    Failure,
    #[error("bad usage or configuration")]
    Usage,
    #[error("rules failed their check")]
    CheckFailed,
    #[error("there are findings that were not known")]
    Found,
}

impl ExitReason {
    /// The one place where an error becomes an exit code.
    pub fn of(error: &anyhow::Error) -> Self {
        if let Some(reason) = error.downcast_ref::<ExitReason>() {
            return *reason;
        }
        if error.chain().any(|cause| cause.is::<ConfigError>()) {
            return Self::Usage;
        }
        Self::Failure
    }

    pub fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failure => 1,
            Self::Usage => 2,
            Self::CheckFailed => 3,
            Self::Found => 4,
        })
    }
}

/// An error and what caused it. Many a cause says no more than what it caused.
pub fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

/// Starts the log on standard error.
fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log.level).map_err(|error| {
        ConfigError::Flag(format!("log.level: {:?} is not a level or a filter: {error}", config.log.level))
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.log.format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("can't start the log: {error}"))
}

/// Writes to standard output; a reader that has gone away is no failure.
fn print_all(text: &str) -> anyhow::Result<()> {
    use std::io::{ErrorKind, Write};
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("can't write to standard output"),
    }
}

/// Text from events, for a terminal: an intruder's escape sequences show as what they are.
fn printable(text: &str) -> String {
    let visible = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(visible).collect()
}

/// A duration such as `250ms`, `10s` or `2m`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        unit => return Err(format!("{unit:?} is not ms, s or m")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{digits:?} is not a number"))?;
    Duration::try_from_secs_f64(number * scale).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("1.5").unwrap(), Duration::from_millis(1500));
        assert_eq!(duration("2m").unwrap(), Duration::from_secs(120));
        assert!(duration("2h").unwrap_err().contains("ms, s or m"));
        assert!(duration("-1s").is_err());
    }

    #[test]
    fn escape_sequences_are_shown_not_sent() {
        assert_eq!(printable("a\u{1b}[2Jb\u{9b}\nc"), "a\\u{1b}[2Jb\\u{9b}\nc");
    }

    #[test]
    fn what_an_error_says_is_said_once() {
        let error = anyhow::anyhow!("no field x").context("planning: no field x").context("query");
        assert_eq!(told(&error), "query: planning: no field x");
        assert_eq!(told(&anyhow::anyhow!("x").context("while")), "while: x");
    }

    #[test]
    fn exit_reasons_survive_context() {
        let check = anyhow::Error::new(ExitReason::CheckFailed).context("3 cases");
        assert_eq!(ExitReason::of(&check), ExitReason::CheckFailed);
        let usage = anyhow::Error::new(ConfigError::Flag("x".into())).context("while");
        assert_eq!(ExitReason::of(&usage), ExitReason::Usage);
        assert_eq!(ExitReason::of(&anyhow::anyhow!("x")), ExitReason::Failure);
    }
}
