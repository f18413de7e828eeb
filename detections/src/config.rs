//! Which rules run: where they come from, and what the overlay makes of them.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use serde::{Deserialize, Serialize};

use crate::lint::faults;
use crate::lists::Lists;
use crate::load::{LoadError, builtin, ends_in, load, names};
use crate::nearest::did_you_mean;
use crate::overlay::Overlay;
use crate::place::place;
use crate::rule::Rule;
use crate::ruleset::Ruleset;

/// The `detections` section of the configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether the rules that come with Vedette run. Default true.
    pub builtin: bool,
    /// Rule files and folders of them, beside the built-in ones. Default none.
    pub paths: Vec<PathBuf>,
    /// Ids of rules that don't run. Default none.
    pub disabled: Vec<String>,
    /// A folder of lists, exceptions, overrides and rules of one's own. Default none.
    pub overlay: Option<PathBuf>,
    /// How often the files are looked at for changes, in seconds; 0 for never. Default 2.
    pub reload_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { builtin: true, paths: Vec::new(), disabled: Vec::new(), overlay: None, reload_seconds: 2 }
    }
}

impl Config {
    /// Reads everything anew. All problems are collected, each with its file, and its line where it has one. What makes a rule's
    /// findings wrong, or loses them, is a problem too.
    pub fn load(&self) -> Result<Ruleset, Vec<LoadError>> {
        let (rules, overlay) = self.read(Vec::new())?;
        // The built-in rules are held to the same by the pack's own tests, and what the overlay makes of them by `apply`.
        let own: Vec<&Rule> =
            rules.iter().filter(|rule| rule.file.is_some() && !overlay.switches_off(&rule.id)).collect();
        let mut errors = unfit(&own, &overlay.lists);
        match overlay.apply(rules, &self.disabled) {
            Ok(set) if errors.is_empty() => return Ok(set),
            Ok(_) => {}
            Err(more) => errors.extend(more),
        }
        Err(errors)
    }

    /// The same, whatever is wrong with the rules themselves. Rules of the same ids as any of `instead` give way to it.
    pub fn load_unfit(&self, instead: Vec<Rule>) -> Result<Unfit, Vec<LoadError>> {
        let (written, overlay) = self.read(instead)?;
        let set = overlay.apply(written.clone(), &self.disabled)?;
        Ok(Unfit { written, set })
    }

    /// The rules as their files have them, those left out that are disabled, and the overlay.
    fn read(&self, instead: Vec<Rule>) -> Result<(Vec<Rule>, Overlay), Vec<LoadError>> {
        let mut errors = Vec::new();
        let mut rules = Vec::new();
        let mut add = |loaded: Result<Vec<Rule>, Vec<LoadError>>| match loaded {
            Ok(loaded) => rules.extend(loaded),
            Err(failed) => errors.extend(failed),
        };
        if self.builtin {
            add(builtin().map_err(|error| vec![error]));
        }
        self.paths.iter().for_each(|path| add(load(path)));
        let mut overlay = match self.overlay.as_deref().map(Overlay::load).transpose() {
            Ok(overlay) => overlay.unwrap_or_default(),
            Err(failed) => {
                errors.extend(failed);
                Overlay::default()
            }
        };
        rules.append(&mut overlay.rules);
        rules.retain(|rule| !instead.iter().any(|other| other.id == rule.id));
        rules.extend(instead);
        errors.extend(twice(&rules));
        for id in self.disabled.iter().filter(|id| !rules.iter().any(|rule| rule.id == **id)) {
            let near = did_you_mean(id, rules.iter().map(|rule| rule.id.as_str()));
            errors.push(LoadError::Setting { key: "disabled", reason: format!("there is no rule {id}{near}") });
        }
        rules.retain(|rule| !self.disabled.contains(&rule.id));
        // What the overlay says of rules that could not be read would only be noise.
        if errors.is_empty() { Ok((rules, overlay)) } else { Err(errors) }
    }

    /// The overlay's lists alone.
    pub fn lists(&self) -> Result<Arc<Lists>, Vec<LoadError>> {
        self.overlay.as_deref().map_or_else(|| Ok(Arc::default()), Overlay::lists)
    }

    /// A hash over every name that `load` looks at, and what is in the files that it reads. It changes when any of it does.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for root in self.paths.iter().chain(&self.overlay) {
            let (below, errors) = if root.is_file() { Default::default() } else { names(root) };
            for path in below.iter().chain([root]) {
                path.hash(&mut hasher);
                // What can't be read is another state than what can.
                let content = (path == root || ends_in(path, READ)).then(|| fs::read(path).ok());
                content.hash(&mut hasher);
            }
            errors.iter().for_each(|error| error.to_string().hash(&mut hasher));
        }
        hasher.finish()
    }
}

/// What makes findings of some of these rules wrong, or loses them. Planning is most of a load, so all cores share it.
fn unfit(rules: &[&Rule], lists: &Arc<Lists>) -> Vec<LoadError> {
    let one = |rule: &&Rule| {
        let error = |reason: String| LoadError::Rule { place: place(rule, &reason), reason };
        faults(rule, lists).into_iter().map(error).collect::<Vec<_>>()
    };
    let share = rules.len().div_ceil(thread::available_parallelism().map_or(1, usize::from)).max(1);
    thread::scope(|scope| {
        let threads: Vec<_> = rules
            .chunks(share)
            .map(|rules| scope.spawn(move || rules.iter().flat_map(one).collect::<Vec<_>>()))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        joined.flatten().collect()
    })
}

/// How the names of files end that are read.
const READ: &[&str] = &["yaml", "yml", "txt"];

/// What is configured, fit to run or not.
#[derive(Clone, Debug, Default)]
pub struct Unfit {
    /// The rules as their files have them.
    pub written: Vec<Rule>,
    /// The rules as they would run.
    pub set: Ruleset,
}

fn twice(rules: &[Rule]) -> Vec<LoadError> {
    let mut first: BTreeMap<&str, &Rule> = BTreeMap::new();
    let mut errors = Vec::new();
    for rule in rules {
        match first.get(rule.id.as_str()) {
            Some(other) => {
                let path =
                    |rule: &Rule| rule.file.clone().unwrap_or_else(|| Path::new("the built-in rules").to_owned());
                errors.push(LoadError::Duplicate { path: path(rule), id: rule.id.clone(), first: path(other) });
            }
            None => drop(first.insert(&rule.id, rule)),
        }
    }
    errors
}

#[cfg(test)]
mod tests;
