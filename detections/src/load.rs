//! Loading rules: the built-in pack, or the YAML files of a folder tree.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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
        walk(path, &mut files, &mut errors);
        files.sort();
    }
    if files.is_empty() && errors.is_empty() {
        errors.push(LoadError::Empty { path: path.to_owned() });
    }
    let mut rules = Vec::new();
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in files {
        match read(&file) {
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

fn walk(folder: &Path, files: &mut Vec<PathBuf>, errors: &mut Vec<LoadError>) {
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
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "events") {
                walk(&path, files, errors);
            }
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
}

fn read(path: &Path) -> Result<Rule, LoadError> {
    let text = fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    Ok(Rule { file: Some(path.to_owned()), ..parse(path, &text)? })
}

fn parse(path: &Path, text: &str) -> Result<Rule, LoadError> {
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
