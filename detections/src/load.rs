//! Loading rules: the built-in pack, or the YAML files of a folder tree.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::lists::BadList;
use crate::pack;
use crate::rule::Rule;

/// Why a rule did not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}:{line}:{column}: {reason}")]
    Yaml { path: PathBuf, line: u64, column: u64, reason: String },
    #[error("{path}: rule {id} is already in {first}")]
    Duplicate { path: PathBuf, id: String, first: PathBuf },
    #[error("{path}: no rule in it: rules are files that end in .yaml")]
    Empty { path: PathBuf },
    #[error("{path}: {source}")]
    List { path: PathBuf, source: BadList },
    /// A file or folder that nothing reads.
    #[error("{path}: nothing reads it: {reason}")]
    Stranger { path: PathBuf, reason: String },
    #[error("detections.{key}: {reason}")]
    Setting { key: &'static str, reason: String },
}

/// The rules embedded in the program, sorted by file.
pub fn builtin() -> Result<Vec<Rule>, LoadError> {
    pack::RULES.iter().map(|(name, text)| parse(&PathBuf::from(format!("{name}.yaml")), text)).collect()
}

/// The rules of one file, or of every `.yaml` file below a folder, sorted by path. Folders named `events` hold recorded
/// events and are passed over. All problems are collected.
pub fn load(path: &Path) -> Result<Vec<Rule>, Vec<LoadError>> {
    let mut errors = Vec::new();
    let mut files = Vec::new();
    // Recorded events are looked for above the rule, beyond the working folder too.
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if path.is_file() {
        files.push(path.to_owned());
    } else {
        walk(path, RULES, &mut files, &mut errors);
        files.sort();
    }
    if files.is_empty() && errors.is_empty() {
        errors.push(LoadError::Empty { path: path.to_owned() });
    }
    let mut rules = Vec::new();
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in files {
        match rule(&file) {
            Ok(rule) => {
                if let Some(first) = seen.get(&rule.id) {
                    errors.push(LoadError::Duplicate { path: file, id: rule.id, first: first.clone() });
                    continue;
                }
                seen.insert(rule.id.clone(), file);
                rules.push(rule);
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

/// How the names of rules' files end.
const RULES: &[&str] = &["yaml", "yml"];

fn walk(folder: &Path, endings: &[&str], files: &mut Vec<PathBuf>, errors: &mut Vec<LoadError>) {
    let failed = |source| LoadError::Read { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) => return errors.push(failed(source)),
    };
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(source) => {
                errors.push(failed(source));
                continue;
            }
        };
        let name = path.file_name().unwrap_or_default();
        // A mounted ConfigMap has everything a second time, in folders that begin with dots.
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if name != "events" {
                walk(&path, endings, files, errors);
            }
        } else if path.extension().is_some_and(|extension| endings.iter().any(|ending| extension == *ending)) {
            files.push(path);
        }
    }
}

fn rule(path: &Path) -> Result<Rule, LoadError> {
    Ok(Rule { file: Some(path.to_owned()), ..parse(path, &read(path)?)? })
}

/// The files below a folder with such endings, sorted, or the one file; none if there is no such folder.
pub(crate) fn sources(path: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if path.is_file() {
        files.push(path.to_owned());
    } else {
        walk(path, endings, &mut files, &mut Vec::new());
    }
    files.sort();
    files
}

pub(crate) fn read(path: &Path) -> Result<String, LoadError> {
    fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })
}

/// YAML as what it is to be. Errors name line and column.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, LoadError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        LoadError::Yaml { path: path.to_owned(), line, column, reason: error.without_snippet().to_string() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "id: a\ntitle: t\ndescription: d\nseverity: low\nsql: SELECT 1\nsummary: s\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_gives_its_rules_sorted_and_passes_events_over() {
        let other = GOOD.replace("id: a", "id: b");
        let folder = folder(&[("z/b.yaml", &other), ("y/a.yaml", GOOD), ("events/x.yaml", "nonsense"), ("n.txt", "")]);
        let rules = load(folder.path()).unwrap();
        assert_eq!(rules.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(rules[0].file.as_deref(), Some(folder.path().join("y/a.yaml").as_path()));
        assert_eq!(rules[0].version, 1);
    }

    #[test]
    fn every_problem_is_told_with_its_file_and_line() {
        let unknown = format!("{GOOD}seveirty: high\n");
        let folder = folder(&[("a.yaml", &unknown), ("b.yaml", "id: b\n"), ("c.yaml", "id: [\n")]);
        let errors: Vec<String> = load(folder.path()).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors[0].contains("a.yaml:7:") && errors[0].contains("seveirty"), "{}", errors[0]);
        assert!(errors[1].contains("b.yaml:") && errors[1].contains("title"), "{}", errors[1]);
        assert!(errors[2].contains("c.yaml:"), "{}", errors[2]);
    }

    #[test]
    fn one_id_twice_nothing_at_all_and_no_such_folder_are_errors() {
        let twice = folder(&[("x/a.yaml", GOOD), ("y/a.yaml", GOOD)]);
        assert!(matches!(load(twice.path()).unwrap_err()[..], [LoadError::Duplicate { .. }]));
        let empty = folder(&[]);
        assert!(matches!(load(empty.path()).unwrap_err()[..], [LoadError::Empty { .. }]));
        assert!(matches!(load(&empty.path().join("gone")).unwrap_err()[..], [LoadError::Read { .. }]));
    }
}
