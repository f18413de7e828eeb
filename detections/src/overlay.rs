//! What a user says beside the rules: lists, exceptions, overrides, and rules of their own, in a folder that no update touches.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use crate::except::except;
use crate::lint::unplannable;
use crate::lists::Lists;
use crate::load::{LoadError, load, parse, read, sources};
use crate::nearest::did_you_mean;
use crate::rule::{Rule, Severity};
use crate::ruleset::Ruleset;
use crate::span::Span;

/// What the folder holds, by name.
const ENTRIES: [&str; 5] = ["lists", "exceptions", "overrides.yaml", "rules", "events"];

/// The folder, read.
#[derive(Debug, Default)]
pub struct Overlay {
    lists: Lists,
    exceptions: Vec<(PathBuf, Exception)>,
    overrides: (PathBuf, BTreeMap<String, Spanned<Override>>),
    /// Rules of its own.
    pub rules: Vec<Rule>,
}

/// What a rule is to leave out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    rule: Spanned<String>,
    #[serde(rename = "where")]
    condition: Spanned<String>,
    reason: Spanned<String>,
    expires: Expiry,
}

/// What is otherwise about a rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Override {
    enabled: Option<bool>,
    severity: Option<Severity>,
    risk: Option<u8>,
    suppress: Option<Span>,
    /// For people who read the file.
    #[serde(rename = "reason")]
    _reason: Option<String>,
}

/// When an exception ends, in microseconds since 1970; `None` is never.
#[derive(Clone, Copy, Debug)]
struct Expiry(Option<i64>);

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "never" {
            return Ok(Self(None));
        }
        // A day counts to its end.
        let day = || text.parse::<NaiveDate>().ok()?.checked_add_days(Days::new(1));
        let end = || Some(day()?.and_time(NaiveTime::MIN).and_utc());
        let time = || DateTime::parse_from_rfc3339(&text).ok().map(|time| time.to_utc());
        match end().or_else(time) {
            Some(time) => Ok(Self(Some(time.timestamp_micros()))),
            None => Err(serde::de::Error::custom(format!(
                "{text:?} is not a day (2027-01-31), a time (2027-01-31T12:00:00Z) or never"
            ))),
        }
    }
}

impl Overlay {
    /// Reads the folder. All problems are collected.
    pub fn load(folder: &Path) -> Result<Self, Vec<LoadError>> {
        let folder = &std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let mut overlay = Self::default();
        let said = |name: &str| format!("an overlay has {}{}", ENTRIES.join(", "), did_you_mean(name, ENTRIES));
        let mut errors = strangers(folder, |name| ENTRIES.contains(&name), said);
        read_lists(folder, &mut overlay.lists, &mut errors);
        for path in own(&folder.join("exceptions"), "yaml", &mut errors) {
            match file::<Vec<Exception>>(&path) {
                Ok(exceptions) => overlay.exceptions.extend(exceptions.into_iter().map(|one| (path.clone(), one))),
                Err(error) => errors.push(error),
            }
        }
        let overrides = folder.join("overrides.yaml");
        if overrides.exists() {
            match file(&overrides) {
                Ok(read) => overlay.overrides = (overrides, read),
                Err(error) => errors.push(error),
            }
        }
        let rules = folder.join("rules");
        if rules.exists() {
            match load(&rules) {
                Ok(rules) => overlay.rules = rules,
                // An overlay with no rules of its own is one all the same.
                Err(failed) => errors.extend(failed.into_iter().filter(|e| !matches!(e, LoadError::Empty { .. }))),
            }
        }
        if errors.is_empty() { Ok(overlay) } else { Err(errors) }
    }

    /// The lists of the folder and nothing else.
    pub fn lists(folder: &Path) -> Result<Arc<Lists>, Vec<LoadError>> {
        let (mut lists, mut errors) = (Lists::default(), Vec::new());
        read_lists(folder, &mut lists, &mut errors);
        if errors.is_empty() { Ok(Arc::new(lists)) } else { Err(errors) }
    }

    /// The rules as the overlay has them, those left out that it switches off. `off` are the ids of rules that are off already.
    pub fn apply(self, mut rules: Vec<Rule>, off: &[String]) -> Result<Ruleset, Vec<LoadError>> {
        let mut errors = Vec::new();
        let mut notes = Vec::new();
        let ids: Vec<String> = rules.iter().map(|rule| rule.id.clone()).collect();
        let known = |id: &str| {
            let there = ids.iter().chain(off).any(|known| known == id);
            let near = || did_you_mean(id, ids.iter().map(String::as_str));
            if there { Ok(()) } else { Err(format!("there is no rule {id}{}", near())) }
        };
        let lists = Arc::new(self.lists);
        let now = Utc::now().timestamp_micros();
        for (path, exception) in &self.exceptions {
            let id = &exception.rule;
            if let Err(reason) = known(&id.value) {
                errors.push(at(path, id, reason));
            }
            let Some(rule) = rules.iter_mut().find(|rule| rule.id == id.value) else { continue };
            if let Err(error) = exception.apply(path, rule, &lists) {
                errors.push(error);
            }
            if exception.expires.0.is_some_and(|expiry| expiry <= now) {
                notes.push(at(path, id, format!("the exception for {} has expired", id.value)).to_string());
            }
        }
        let (path, overrides) = &self.overrides;
        for (id, change) in overrides {
            let wrong = |reason: String| at(path, change, format!("{id}: {reason}"));
            errors.extend(known(id).err().map(wrong));
            let change = &change.value;
            if change.risk.is_some_and(|risk| risk > 100) {
                errors.push(wrong("risk: 100 is the most".into()));
            }
            for rule in rules.iter_mut().filter(|rule| rule.id == *id) {
                rule.severity = change.severity.unwrap_or(rule.severity);
                rule.risk = change.risk.or(rule.risk);
                rule.suppress = change.suppress.or(rule.suppress);
            }
        }
        let on = |rule: &Rule| overrides.get(&rule.id).is_none_or(|change| change.value.enabled != Some(false));
        rules.retain(on);
        if errors.is_empty() { Ok(Ruleset { rules, lists, notes }) } else { Err(errors) }
    }
}

impl Exception {
    fn apply(&self, path: &Path, rule: &mut Rule, lists: &Arc<Lists>) -> Result<(), LoadError> {
        if self.reason.value.trim().is_empty() {
            return Err(at(path, &self.reason, "reason: empty".into()));
        }
        // What is wrong with the rule itself is not the exception's fault.
        let sound = unplannable(rule, lists).is_none();
        let wrong = |reason: String| at(path, &self.condition, format!("where, for {}: {reason}", self.rule.value));
        except(rule, &self.condition.value, self.expires.0).map_err(wrong)?;
        match unplannable(rule, lists) {
            Some(reason) if sound => Err(wrong(reason)),
            _ => Ok(()),
        }
    }
}

fn read_lists(folder: &Path, lists: &mut Lists, errors: &mut Vec<LoadError>) {
    for path in own(&folder.join("lists"), "txt", errors) {
        errors.extend(list(&path, lists).err());
    }
}

/// One entry a line; `#` begins a comment.
fn list(path: &Path, lists: &mut Lists) -> Result<(), LoadError> {
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let text = read(path)?;
    let line = |line: &str| line.split(" #").next().unwrap_or_default().trim().to_owned();
    let entries = text.lines().map(line).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lists.insert(name, entries.collect()).map_err(|source| LoadError::List { path: path.to_owned(), source })
}

/// The files of a folder, whose names all end alike.
fn own(folder: &Path, ending: &str, errors: &mut Vec<LoadError>) -> Vec<PathBuf> {
    if folder.exists() {
        let known = |name: &str| Path::new(name).extension().is_some_and(|own| own == ending);
        errors.extend(strangers(folder, known, |_| format!("files here end in .{ending}")));
    }
    sources(folder, &[ending])
}

/// What is in a folder and nothing reads: a name spelt wrong would else be passed over in silence. Names that begin with a dot
/// are others' business, and `.md` files are for people.
fn strangers(folder: &Path, known: impl Fn(&str) -> bool, reason: impl Fn(&str) -> String) -> Vec<LoadError> {
    let failed = |source| LoadError::Read { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) => return vec![failed(source)],
    };
    let stranger = |entry: io::Result<fs::DirEntry>| {
        let name = match entry {
            Ok(entry) => entry.file_name().to_string_lossy().into_owned(),
            Err(source) => return Some(failed(source)),
        };
        let fine = name.starts_with('.') || name.ends_with(".md") || known(&name);
        (!fine).then(|| LoadError::Stranger { reason: reason(&name), path: folder.join(name) })
    };
    entries.filter_map(stranger).collect()
}

fn file<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    parse(path, &read(path)?)
}

fn at<T>(path: &Path, place: &Spanned<T>, reason: String) -> LoadError {
    let (line, column) = (place.referenced.line(), place.referenced.column());
    LoadError::Yaml { path: path.to_owned(), line, column, reason }
}

#[cfg(test)]
mod tests;
