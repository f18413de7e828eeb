//! Environment variables and flags, laid over the tree that the file gave.

use toml::{Table, Value};

use super::{Config, ConfigError};

const PREFIX: &str = "VEDETTE_";

/// Whether a variable is configuration. What is not: `VEDETTE_CONFIG`, which names the file; what tests and `send` use; and what
/// Kubernetes sets in every pod beside a service called `vedette` (`VEDETTE_SERVICE_HOST`, `VEDETTE_PORT_8080_TCP`, …).
pub fn is_ours(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    if rest.contains("__") {
        return true;
    }
    let for_others = ["TEST_", "REQUIRE_", "SERVICES_", "SEND_"].iter().any(|start| rest.starts_with(start));
    let of_kubernetes = format!("_{rest}_");
    let of_kubernetes = of_kubernetes.contains("_SERVICE_HOST_")
        || of_kubernetes.contains("_SERVICE_PORT_")
        || of_kubernetes.contains("_PORT_");
    rest != "CONFIG" && !for_others && !of_kubernetes
}

/// Lays one variable over the tree. It is tried as TOML first (numbers, lists, tables), then as plain text, since a
/// password of digits is text and a host name is no TOML.
pub fn variable(tree: Table, name: &str, text: &str) -> Result<Table, ConfigError> {
    let lower = name.trim_start_matches(PREFIX).to_ascii_lowercase();
    let path: Vec<&str> = lower.split("__").collect();
    let mut reason = None;
    for value in readings(text) {
        let mut next = tree.clone();
        put(&mut next, &path, value);
        match parse(&next) {
            Ok(_) => return Ok(next),
            Err(error) => reason = reason.or(Some(error)),
        }
    }
    Err(ConfigError::Variable { name: name.to_owned(), reason: reason.unwrap_or_default() })
}

fn readings(text: &str) -> Vec<Value> {
    let typed = toml::from_str::<Table>(&format!("value = {text}")).ok();
    // A second line would be a second key.
    let typed = typed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    typed.into_iter().chain([Value::String(text.to_owned())]).collect()
}

/// Sets the value at a path, with the tables on the way to it.
pub fn put(tree: &mut Table, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => {
            tree.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            let inner = tree.entry(*key).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// The value at a path.
pub fn get<'a>(tree: &'a Table, path: &[&str]) -> Option<&'a Value> {
    match path {
        [] => None,
        [key] => tree.get(*key),
        [key, rest @ ..] => get(tree.get(*key)?.as_table()?, rest),
    }
}

/// Reads the tree as a configuration; the reason names the key.
pub fn parse(tree: &Table) -> Result<Config, String> {
    Value::Table(tree.clone()).try_into::<Config>().map_err(|error: toml::de::Error| {
        let lines: Vec<_> = error.to_string().lines().map(str::trim).map(str::to_owned).collect();
        lines.join(" ").trim().to_owned()
    })
}
