//! What a user says beside the rules: lists, exceptions, overrides, and rules of their own, in a folder that no update touches.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use datafusion::sql::sqlparser::ast::Expr;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use crate::except::{keep, rest};
use crate::lint::faults;
use crate::lists::{BadList, Lists};
use crate::load::{LoadError, ends_in, is_there, load_own, names, parse, read};
use crate::nearest::did_you_mean;
use crate::rule::{Rule, Severity};
use crate::ruleset::Ruleset;
use crate::span::Span;

/// What the folder holds, by name.
const ENTRIES: [&str; 5] = ["lists", "exceptions", "overrides.yaml", "rules", "events"];

/// The folder, read.
#[derive(Debug, Default)]
pub struct Overlay {
    pub lists: Arc<Lists>,
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
    group_by: Option<Vec<String>>,
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
        overlay.lists = Arc::new(read_lists(folder, &mut errors));
        for path in own(&folder.join("exceptions"), "yaml", &mut errors) {
            match file::<Vec<Exception>>(&path) {
                Ok(exceptions) => overlay.exceptions.extend(exceptions.into_iter().map(|one| (path.clone(), one))),
                Err(error) => errors.push(error),
            }
        }
        let overrides = folder.join("overrides.yaml");
        if is_there(&overrides) {
            match file(&overrides) {
                Ok(read) => overlay.overrides = (overrides, read),
                Err(error) => errors.push(error),
            }
        }
        let rules = folder.join("rules");
        if is_there(&rules) {
            match load_own(&rules) {
                Ok(rules) => overlay.rules = rules,
                Err(failed) => errors.extend(failed),
            }
        }
        if errors.is_empty() { Ok(overlay) } else { Err(errors) }
    }

    /// The lists of the folder and nothing else.
    pub fn lists(folder: &Path) -> Result<Arc<Lists>, Vec<LoadError>> {
        let mut errors = Vec::new();
        let lists = read_lists(folder, &mut errors);
        if errors.is_empty() { Ok(Arc::new(lists)) } else { Err(errors) }
    }

    /// Whether an override takes the rule out.
    pub fn switches_off(&self, id: &str) -> bool {
        self.overrides.1.get(id).is_some_and(|change| change.value.enabled == Some(false))
    }

    /// The rules as the overlay has them, those left out that it switches off. `off` are the ids of rules that are off already.
    /// What is wrong with a rule itself is not the overlay's fault, and is passed over.
    pub fn apply(self, mut rules: Vec<Rule>, off: &[String]) -> Result<Ruleset, Vec<LoadError>> {
        let mut errors = Vec::new();
        let mut notes = Vec::new();
        let ids: Vec<String> = rules.iter().map(|rule| rule.id.clone()).collect();
        let known = |id: &str| {
            let there = ids.iter().chain(off).any(|known| known == id);
            let near = || did_you_mean(id, ids.iter().map(String::as_str));
            if there { Ok(()) } else { Err(format!("there is no rule {id}{}", near())) }
        };
        let lists = &self.lists;
        let now = Utc::now().timestamp_micros();
        for (path, exception) in &self.exceptions {
            let id = &exception.rule;
            if let Err(reason) = known(&id.value) {
                errors.push(at(path, id, reason));
            }
            let runs = ids.contains(&id.value);
            if runs && exception.expires.0.is_some_and(|expiry| expiry <= now) {
                notes.push(at(path, id, format!("the exception for {} has expired", id.value)).to_string());
            }
        }
        for rule in &mut rules {
            let own = |(_, exception): &&(PathBuf, Exception)| exception.rule.value == rule.id;
            let own: Vec<&(PathBuf, Exception)> = self.exceptions.iter().filter(own).collect();
            if !own.is_empty() {
                errors.extend(apply_exceptions(rule, &own, lists));
            }
        }
        let (path, overrides) = &self.overrides;
        for (id, change) in overrides {
            let wrong = |reason: String| at(path, change, format!("{id}: {reason}"));
            errors.extend(known(id).err().map(wrong));
            if change.value.enabled == Some(true) && off.contains(id) {
                errors.push(wrong("enabled here, but off by detections.disabled".into()));
            }
            for rule in rules.iter_mut().filter(|rule| rule.id == *id) {
                let reasons = new_faults(rule, lists, |rule| change.value.apply(rule));
                errors.extend(reasons.into_iter().map(wrong));
            }
        }
        rules.retain(|rule| !self.switches_off(&rule.id));
        if errors.is_empty() { Ok(Ruleset { rules, lists: self.lists, notes }) } else { Err(errors) }
    }
}

impl Override {
    fn apply(&self, rule: &mut Rule) {
        rule.severity = self.severity.unwrap_or(rule.severity);
        rule.risk = self.risk.or(rule.risk);
        rule.suppress = self.suppress.or(rule.suppress);
        if let Some(columns) = &self.group_by {
            rule.group_by.clone_from(columns);
        }
    }
}

/// What is wrong with a rule after a change and was not before.
fn new_faults(rule: &mut Rule, lists: &Arc<Lists>, change: impl FnOnce(&mut Rule)) -> Vec<String> {
    let before = faults(rule, lists);
    change(rule);
    faults(rule, lists).into_iter().filter(|fault| !before.contains(fault)).collect()
}

/// Writes a rule's exceptions into it. Returns what is wrong with them.
fn apply_exceptions(rule: &mut Rule, exceptions: &[&(PathBuf, Exception)], lists: &Arc<Lists>) -> Vec<LoadError> {
    let (mut errors, mut rests) = (Vec::new(), Vec::new());
    for (path, one) in exceptions {
        match one.rest(path, rule) {
            Ok(rest) => rests.push((path, one, rest)),
            Err(error) => errors.push(error),
        }
    }
    let written = rule.clone();
    let wrong = |rule: &mut Rule, rests: Vec<Expr>| {
        let mut kept = Ok(());
        let reasons = new_faults(rule, lists, |rule| kept = keep(rule, rests));
        kept.err().or_else(|| reasons.into_iter().next())
    };
    let Some(together) = wrong(rule, rests.iter().map(|(_, _, rest)| rest.clone()).collect()) else { return errors };
    // Planning takes its time, so that which of them it is, is asked only now.
    let before = errors.len();
    for (path, one, rest) in &rests {
        let reason = wrong(&mut written.clone(), vec![rest.clone()]);
        errors.extend(reason.map(|reason| one.wrong(path, reason)));
    }
    if errors.len() == before {
        errors.extend(rests.last().map(|(path, last, _)| last.wrong(path, together)));
    }
    errors
}

impl Exception {
    /// The condition that it leaves to the rule.
    fn rest(&self, path: &Path, rule: &Rule) -> Result<Expr, LoadError> {
        if self.reason.value.trim().is_empty() {
            return Err(at(path, &self.reason, "reason: empty".into()));
        }
        rest(rule, &self.condition.value, self.expires.0).map_err(|reason| self.wrong(path, reason))
    }

    fn wrong(&self, path: &Path, reason: String) -> LoadError {
        at(path, &self.condition, format!("where, for {}: {reason}", self.rule.value))
    }
}

fn read_lists(folder: &Path, errors: &mut Vec<LoadError>) -> Lists {
    let mut lists = Lists::default();
    for path in own(&folder.join("lists"), "txt", errors) {
        errors.extend(list(&path, &mut lists).err());
    }
    lists
}

/// One entry a line; `#` at its beginning or behind white space begins a comment.
fn list(path: &Path, lists: &mut Lists) -> Result<(), LoadError> {
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let text = read(path)?;
    let lines = (1..).zip(text.lines().map(|line| without_comment(line).trim()));
    let (numbers, entries): (Vec<usize>, Vec<String>) =
        lines.filter(|(_, entry)| !entry.is_empty()).map(|(number, entry)| (number, entry.to_owned())).unzip();
    lists.insert(name, entries).map_err(|source: BadList| {
        let line = source.entry.and_then(|place| numbers.get(place).copied());
        LoadError::List { path: path.to_owned(), line, source }
    })
}

fn without_comment(line: &str) -> &str {
    let begins = |(at, _): &(usize, &str)| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    line.match_indices('#').find(begins).map_or(line, |(at, _)| &line[..at])
}

/// The files of a folder, whose names all end alike.
fn own(folder: &Path, ending: &str, errors: &mut Vec<LoadError>) -> Vec<PathBuf> {
    if !is_there(folder) {
        return Vec::new();
    }
    let known = |name: &str| ends_in(Path::new(name), &[ending]);
    errors.extend(strangers(folder, known, |_| format!("files here end in .{ending}")));
    let (names, failed) = names(folder);
    errors.extend(failed.into_iter().filter(|error| !matches!(error, LoadError::Read { path, .. } if path == folder)));
    names.into_iter().filter(|path| ends_in(path, &[ending]) && path.is_file()).collect()
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
