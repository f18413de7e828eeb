//! What the demo says.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;

use vedette_analytics::engine::Finding;
use vedette_detections::Severity;

use crate::commands::printable;

/// What is found once, and what the demo asks people to try.
const QUERY: &str = "SELECT severity, actor, target, title FROM alerts ORDER BY event_time";

pub fn opening(address: SocketAddr, data: &Path) -> String {
    format!(
        "Vedette listens at http://{address} and keeps its data in {}.\nAn attack on a cluster called demo begins.\n\n{}\n",
        data.display(),
        line(["severity", "ACTOR", "TARGET", "RULE"])
    )
}

pub fn step(say: &str) -> String {
    paint("2", &format!("-- {say}\n"))
}

/// A finding in one line.
pub fn finding(finding: &Finding) -> String {
    let (actor, target) = (finding.actor.as_deref().unwrap_or("-"), finding.target.as_deref().unwrap_or("-"));
    let actor: Vec<String> = actor.split(" as ").map(short).collect();
    let cells = [finding.severity.name(), &actor.join(" as "), target, &finding.rule_id];
    let line = line(cells.map(printable).each_ref().map(String::as_str));
    paint(color(finding.severity), &line) + "\n"
}

/// A user's name as people say it: without the words that all names of its kind begin with.
fn short(user: &str) -> String {
    if let Some((namespace, account)) =
        user.strip_prefix("system:serviceaccount:").and_then(|name| name.split_once(':'))
    {
        return format!("sa:{namespace}/{account}");
    }
    user.strip_prefix("system:").filter(|name| name.starts_with("node:")).unwrap_or(user).to_owned()
}

pub fn closing(data: &Path, events: u64, found: &[Finding]) -> String {
    let mut counts: BTreeMap<Severity, usize> = BTreeMap::new();
    for finding in found {
        *counts.entry(finding.severity).or_default() += 1;
    }
    let counts: Vec<_> = counts.iter().rev().map(|(severity, count)| format!("{count} {}", severity.name())).collect();
    let mut text = format!("\n{events} events sent, {} findings raised: {}.\n", found.len(), counts.join(", "));
    let (program, data) = (program(), quoted(&data.display().to_string()));
    let _ = write!(
        text,
        r#"
Try next:

  {program} query --data {data} "{QUERY}"

  {program} serve --data {data}

and while it runs, an event of your own and what Vedette counts:

  curl -s http://127.0.0.1:8080/v1/audit/demo --json '{EXAMPLE}'
  curl -s http://127.0.0.1:8080/metrics

An API server sends its audit events with --audit-webhook-config-file and --audit-policy-file (docker/ has a policy),
where the first names this kubeconfig:

{KUBECONFIG}"#
    );
    text
}

const EXAMPLE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"1","stage":"ResponseComplete","requestURI":"/api/v1/secrets","verb":"list","user":{"username":"mallory"},"sourceIPs":["203.0.113.7"],"objectRef":{"resource":"secrets","apiVersion":"v1"},"responseStatus":{"code":200}}"#;

const KUBECONFIG: &str = "  apiVersion: v1
  kind: Config
  clusters: [{name: vedette, cluster: {server: \"http://127.0.0.1:8080/v1/audit/demo\"}}]
  users: [{name: api-server, user: {}}]
  contexts: [{name: vedette, context: {cluster: vedette, user: api-server}}]
  current-context: vedette
";

/// The program as it was called, so that the lines can be copied.
fn program() -> String {
    let called = std::env::args().next().unwrap_or_else(|| "vedette".into());
    quoted(&called)
}

fn quoted(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// At most 120 columns.
fn line(cells: [&str; 4]) -> String {
    let [severity, actor, target, rule] = cells;
    format!("{:<8} {:<39} {:<38} {}", severity.to_uppercase(), cut(actor, 39), cut(target, 38), cut(rule, 32))
}

/// The end of a long name tells more than its start.
fn cut(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width { text.to_owned() } else { "…".chars().chain(text.chars().skip(count - width + 1)).collect() }
}

fn color(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "1;31",
        Severity::High => "31",
        Severity::Medium => "33",
        Severity::Low | Severity::Info => "36",
    }
}

fn paint(code: &str, text: &str) -> String {
    let colored = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if colored { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("system:serviceaccount", 8), "…account");
    }

    #[test]
    fn users_go_by_their_short_names() {
        assert_eq!(short("system:serviceaccount:ci:deployer"), "sa:ci/deployer");
        assert_eq!(short("system:node:worker-1"), "node:worker-1");
        assert_eq!(short("system:anonymous"), "system:anonymous");
        assert_eq!(short("dana"), "dana");
    }

    #[test]
    fn no_line_is_wider_than_120_columns() {
        let wide = "x".repeat(200);
        assert_eq!(line(["critical", &wide, &wide, &wide]).chars().count(), 120);
        assert!(crate::commands::demo::story::Story::read().unwrap().steps.iter().all(|s| step(&s.say).len() <= 121));
    }

    #[test]
    fn lines_can_be_pasted() {
        assert_eq!(quoted("/tmp/a-b_1.c"), "/tmp/a-b_1.c");
        assert_eq!(quoted("/tmp/it's"), r"'/tmp/it'\''s'");
        assert!(serde_json::from_str::<serde_json::Value>(EXAMPLE).is_ok());
        assert!(closing(Path::new("/d"), 3, &[]).contains("query --data /d \"SELECT"));
    }
}
