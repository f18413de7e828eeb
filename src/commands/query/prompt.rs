//! The prompt of `vedette query`: statements up to a semicolon, a history between sessions.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use vedette_schemas::Table;

use super::Source;
use super::format::Output;
use crate::commands::{print_all, told};

const GREETING: &str = "SQL ends with a semicolon. \\d lists tables, \\d TABLE its columns, \\q leaves.\n";

/// What a line asks for.
#[derive(Debug, PartialEq)]
enum Input {
    Nothing,
    Leave,
    Tables,
    Columns(String),
    Sql(String),
    /// The statement goes on in the next line.
    More,
}

/// Prompts until the end of input.
pub async fn run(source: Source, output: Output, limit: Duration) -> anyhow::Result<()> {
    let mut editor = DefaultEditor::new().context("can't open the prompt")?;
    let history = history_file();
    if let Some(path) = &history {
        // The first session has no history.
        let _ = editor.load_history(path);
    }
    print_all(GREETING)?;
    let mut pending = String::new();
    loop {
        let prompt = if pending.is_empty() { "vedette> " } else { "    ...> " };
        let line = match tokio::task::block_in_place(|| editor.readline(prompt)) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                pending.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        let input = understand(&mut pending, &line);
        if !matches!(input, Input::More | Input::Nothing) {
            remember(&mut editor, &history, &input, &line);
        }
        if input == Input::Leave {
            break;
        }
        // A failed statement is reported, and the prompt goes on.
        if let Err(error) = answer(&source, &output, limit, input).await {
            eprintln!("{}", told(&error));
        }
    }
    Ok(())
}

/// Runs statements that no person types. The last one needs no semicolon; the first that fails ends it.
pub async fn run_script(source: Source, output: Output, limit: Duration, script: &str) -> anyhow::Result<()> {
    let mut pending = String::new();
    for line in script.lines() {
        match understand(&mut pending, line) {
            Input::Leave => return Ok(()),
            input => answer(&source, &output, limit, input).await?,
        }
    }
    if pending.trim().is_empty() { Ok(()) } else { statement(&source, &output, limit, &pending).await }
}

/// Answers one input.
async fn answer(source: &Source, output: &Output, limit: Duration, input: Input) -> anyhow::Result<()> {
    match input {
        Input::Nothing | Input::More | Input::Leave => Ok(()),
        Input::Tables => print_all(&Table::ALL.map(|table| format!("{}\n", table.name())).concat()),
        Input::Columns(table) => statement(source, output, limit, &format!("DESCRIBE {table}")).await,
        Input::Sql(sql) => statement(source, output, limit, &sql).await,
    }
}

/// Runs a statement; Ctrl-C stops it.
async fn statement(source: &Source, output: &Output, limit: Duration, sql: &str) -> anyhow::Result<()> {
    tokio::select! {
        result = super::in_time(limit, super::run_one(source, sql, output)) => result,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped"),
    }
}

/// Takes a line in, with the lines before it that wait for their semicolon.
fn understand(pending: &mut String, line: &str) -> Input {
    let text = line.trim();
    if pending.is_empty() {
        match text {
            "" => return Input::Nothing,
            "\\q" | "quit" | "exit" => return Input::Leave,
            "\\d" => return Input::Tables,
            _ => {}
        }
        if let Some(table) = text.strip_prefix("\\d ") {
            return Input::Columns(table.trim().trim_end_matches(';').to_owned());
        }
    }
    if !pending.is_empty() {
        pending.push('\n');
    }
    pending.push_str(text);
    match pending.strip_suffix(';') {
        Some(sql) => {
            let sql = sql.to_owned();
            pending.clear();
            if sql.trim().is_empty() { Input::Nothing } else { Input::Sql(sql) }
        }
        None => Input::More,
    }
}

fn remember(editor: &mut DefaultEditor, history: &Option<PathBuf>, input: &Input, line: &str) {
    let entry = match input {
        Input::Sql(sql) => format!("{};", sql.replace('\n', " ")),
        _ => line.to_owned(),
    };
    let _ = editor.add_history_entry(entry);
    if let Some(path) = history
        && let Err(error) = editor.save_history(path)
    {
        tracing::debug!(%error, "can't keep the history");
    }
}

/// `vedette/history` in the state folder of the user.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let state = state.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")))?;
    let folder = state.join("vedette");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_with_a_semicolon() {
        let mut pending = String::new();
        assert_eq!(understand(&mut pending, "SELECT 1"), Input::More);
        assert_eq!(understand(&mut pending, "  -- \\q\n"), Input::More);
        assert_eq!(understand(&mut pending, "+ 1; "), Input::Sql("SELECT 1\n-- \\q\n+ 1".into()));
        assert_eq!(understand(&mut pending, "\\q"), Input::Leave);
        assert_eq!(understand(&mut pending, "\\d audit;"), Input::Columns("audit".into()));
        assert_eq!(understand(&mut pending, "  "), Input::Nothing);
        assert_eq!(understand(&mut pending, ";"), Input::Nothing);
    }
}
