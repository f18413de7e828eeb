//! Loading rules: the built-in pack, or the YAML files of a folder tree.

use std::collections::{BTreeMap, BTreeSet};
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
    #[error("{path}{}: {source}", line.map(|line| format!(":{line}")).unwrap_or_default())]
    List { path: PathBuf, line: Option<usize>, source: BadList },
    /// What makes a rule's findings wrong or loses them.
    #[error("{place}: {reason}")]
    Rule { place: String, reason: String },
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
    // Recorded events are looked for above the rule, beyond the working folder too.
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if path.is_file() {
        return read_rules(vec![path.to_owned()], Vec::new());
    }
    let (names, mut errors) = names(path);
    let files: Vec<PathBuf> = names.into_iter().filter(|path| ends_in(path, RULES) && path.is_file()).collect();
    if files.is_empty() && errors.is_empty() {
        errors.push(LoadError::Empty { path: path.to_owned() });
    }
    read_rules(files, errors)
}

/// The rules of a folder that is for rules alone: what is none is an error, save for `.md` files, which are for people.
pub(crate) fn load_own(folder: &Path) -> Result<Vec<Rule>, Vec<LoadError>> {
    let (names, mut errors) = names(folder);
    let (rules, others): (Vec<_>, Vec<_>) =
        names.into_iter().filter(|path| path.is_file()).partition(|path| ends_in(path, RULES));
    let stranger = |path| LoadError::Stranger { path, reason: "rules are files that end in .yaml".into() };
    errors.extend(others.into_iter().filter(|path| !ends_in(path, &["md"])).map(stranger));
    read_rules(rules, errors)
}

fn read_rules(files: Vec<PathBuf>, mut errors: Vec<LoadError>) -> Result<Vec<Rule>, Vec<LoadError>> {
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

pub(crate) fn ends_in(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|extension| endings.iter().any(|ending| extension == *ending))
}

/// Whether a name is there, whatever is behind it: a link that leads nowhere is there too, and so is what can't be looked at.
pub(crate) fn is_there(path: &Path) -> bool {
    !matches!(fs::symlink_metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// All names below a folder, those of folders too, sorted, and what can't be looked at.
///
/// Names that begin with a dot are passed over: a mounted ConfigMap has everything a second time in such folders. So is what is
/// in folders named `events`. A folder that has several names, through links, is looked into by the first of them.
pub(crate) fn names(folder: &Path) -> (Vec<PathBuf>, Vec<LoadError>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    walk(folder, &mut BTreeSet::new(), &mut found, &mut errors);
    (found, errors)
}

fn walk(folder: &Path, seen: &mut BTreeSet<PathBuf>, found: &mut Vec<PathBuf>, errors: &mut Vec<LoadError>) {
    let entries = fs::canonicalize(folder).and_then(|real| match seen.insert(real) {
        true => fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect(),
        false => Ok(BTreeSet::new()),
    });
    let entries = entries.unwrap_or_else(|source| {
        errors.push(LoadError::Read { path: folder.to_owned(), source });
        BTreeSet::new()
    });
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_owned();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        found.push(path.clone());
        match fs::metadata(&path) {
            Ok(kind) if kind.is_dir() && name != "events" => walk(&path, seen, found, errors),
            Ok(_) => {}
            Err(source) => errors.push(LoadError::Read { path, source }),
        }
    }
}

fn rule(path: &Path) -> Result<Rule, LoadError> {
    Ok(Rule { file: Some(path.to_owned()), ..parse(path, &read(path)?)? })
}

/// A file's text, without the mark that some editors put at its beginning.
pub(crate) fn read(path: &Path) -> Result<String, LoadError> {
    let text = fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
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

    #[cfg(unix)]
    #[test]
    fn links_are_followed_once_and_those_that_lead_nowhere_are_errors() {
        use std::os::unix::fs::symlink;
        let folder = folder(&[("x/a.yaml", GOOD)]);
        let at = |name: &str| folder.path().join(name);
        for name in ["me", "x/up", "x/again", "y"] {
            symlink(folder.path(), at(name)).unwrap();
        }
        let (found, errors) = names(folder.path());
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(found, ["me", "x", "x/a.yaml", "x/again", "x/up", "y"].map(at));
        assert_eq!(load(folder.path()).unwrap().len(), 1);
        for name in ["x/b.yaml", "z"] {
            symlink(at("gone"), at(name)).unwrap();
            let errors = load(folder.path()).unwrap_err();
            assert!(matches!(&errors[..], [LoadError::Read { path, .. }] if *path == at(name)), "{errors:?}");
            fs::remove_file(at(name)).unwrap();
        }
        let rules = at("own");
        fs::create_dir(&rules).unwrap();
        symlink(&rules, rules.join("me")).unwrap();
        assert_eq!(load_own(&rules).unwrap(), []);
    }

    #[test]
    fn a_folder_for_rules_alone_has_nothing_else() {
        let files =
            [("a.yaml", GOOD), ("README.md", ""), (".git/x", ""), ("events/x.json", "{}"), ("b/events/y.json", "")];
        let folder = folder(&files);
        assert_eq!(load_own(folder.path()).unwrap().len(), 1);
        for name in ["b.yamll", "b.yaml.txt", "x/b.yaml~", "c"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, GOOD).unwrap();
            let errors = load_own(folder.path()).unwrap_err();
            assert!(matches!(&errors[..], [LoadError::Stranger { path: of, .. }] if *of == path), "{errors:?}");
            fs::remove_file(&path).unwrap();
        }
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
