//! Which rules run: where they come from, and what the overlay makes of them.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::lists::Lists;
use crate::load::{LoadError, builtin, load, sources};
use crate::nearest::did_you_mean;
use crate::overlay::Overlay;
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
    /// Reads everything anew. All problems are collected, each with its file, and its line where it has one.
    pub fn load(&self) -> Result<Ruleset, Vec<LoadError>> {
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
        let overlay = match self.overlay.as_deref().map(Overlay::load).transpose() {
            Ok(overlay) => overlay.unwrap_or_default(),
            Err(failed) => {
                errors.extend(failed);
                Overlay::default()
            }
        };
        rules.extend(overlay.rules.iter().cloned());
        errors.extend(twice(&rules));
        for id in self.disabled.iter().filter(|id| !rules.iter().any(|rule| rule.id == **id)) {
            let near = did_you_mean(id, rules.iter().map(|rule| rule.id.as_str()));
            errors.push(LoadError::Setting { key: "disabled", reason: format!("there is no rule {id}{near}") });
        }
        rules.retain(|rule| !self.disabled.contains(&rule.id));
        // What the overlay says of rules that could not be read would only be noise.
        if !errors.is_empty() {
            return Err(errors);
        }
        overlay.apply(rules, &self.disabled)
    }

    /// The overlay's lists alone.
    pub fn lists(&self) -> Result<Arc<Lists>, Vec<LoadError>> {
        self.overlay.as_deref().map_or_else(|| Ok(Arc::default()), Overlay::lists)
    }

    /// A hash over every file that `load` reads, which changes when any of them does.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for file in self.paths.iter().chain(&self.overlay).flat_map(|path| sources(path, &["yaml", "yml", "txt"])) {
            file.hash(&mut hasher);
            // A file that can't be read is another state than any that can.
            fs::read(&file).ok().hash(&mut hasher);
        }
        hasher.finish()
    }
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
