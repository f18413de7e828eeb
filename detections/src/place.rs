//! Where in its file a rule says what a message is about.

use std::fs;

use crate::rule::Rule;

/// `rules/a.yaml:7: rule a` for a message such as `sql: …`, whose field is in line 7; of one that begins with no field, the line
/// of the SQL. `rule a` for one of the built-in pack.
pub fn place(rule: &Rule, message: &str) -> String {
    let id = &rule.id;
    let Some(file) = &rule.file else { return format!("rule {id}") };
    // The file may have changed or gone meanwhile, as files do that are being written.
    let text = fs::read_to_string(file).unwrap_or_default();
    let field = message.split(':').next().unwrap_or_default();
    let line = match field.contains(' ') {
        true => line(&text, "sql").or_else(|| line(&text, "steps")),
        false => line(&text, field),
    };
    match line {
        Some(line) => format!("{}:{line}: rule {id}", file.display()),
        None => format!("{}: rule {id}", file.display()),
    }
}

/// The line of a field, from 1. What is nested is indented, so that no other line begins with its name. Of `steps.a` it is the
/// line that names the step.
fn line(text: &str, field: &str) -> Option<usize> {
    let (field, step) = field.split_once('.').map_or((field, None), |(field, step)| (field, Some(step)));
    let mut lines = (1..).zip(text.lines());
    let (at, _) = lines.find(|(_, line)| value(line, field).is_some())?;
    let names = |line: &str, step: &str| {
        let name = value(line.trim_start_matches([' ', '-', '{']), "name");
        let name = name.and_then(|name| name.split(',').next());
        name.is_some_and(|name| name.trim().trim_matches(['"', '\'']) == step)
    };
    let step = step.and_then(|step| lines.find(|(_, line)| names(line, step)));
    Some(step.map_or(at, |(at, _)| at))
}

/// What stands behind a key at the beginning of a line.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.trim_start().strip_prefix(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "id: a\nkind: sequence\nsteps:\n  - name: one\n    sql: SELECT 1\n  - {name: 'two', sql: x}\nwhere: y\n";

    #[test]
    fn lines_of_fields_and_steps() {
        for (field, want) in [
            ("id", Some(1)),
            ("steps", Some(3)),
            ("steps.one", Some(4)),
            ("steps.two", Some(6)),
            ("steps.three", Some(3)),
            ("where", Some(7)),
            ("sql", None),
            ("i", None),
        ] {
            assert_eq!(line(TEXT, field), want, "{field}");
        }
    }

    #[test]
    fn a_message_is_placed_by_its_field() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let text = "id: a\ntitle: t\ndescription: d\nseverity: low\nsql: |\n  SELECT 1\nsummary: s\n";
        fs::write(&file, text).unwrap();
        let mut rule: Rule = serde_saphyr::from_str(text).unwrap();
        assert_eq!(place(&rule, "sql: no"), "rule a");
        rule.file = Some(file.clone());
        let path = file.display();
        assert_eq!(place(&rule, "sql: no"), format!("{path}:5: rule a"));
        assert_eq!(place(&rule, "Schema error: no field x"), format!("{path}:5: rule a"));
        assert_eq!(place(&rule, "window: needed"), format!("{path}: rule a"));
        fs::remove_file(&file).unwrap();
        assert_eq!(place(&rule, "sql: no"), format!("{path}: rule a"));
    }
}
