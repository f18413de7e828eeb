//! The reference page of all tables, `docs/tables.md`.

use std::fmt::Write as _;

use super::clickhouse;
use crate::table::{Column, Kind, Table};

const HEAD: &str = "\
# Tables

What rules and analysts see. The same tables exist under the same names in the stream, in the embedded lake and in
ClickHouse. This page is rendered from `schemas/src/table.rs`; a test holds it to the code, and
`VEDETTE_BLESS=1 cargo test -p vedette-schemas` rewrites it.

Every point in time is UTC with microseconds. `day` is the UTC day of receipt, by which tables are partitioned: filter on
it to read less. A column that may be null says so; lists are never null, and empty where the event has none. JSON columns
hold text, read with `->>` and `json_get_*` in Vedette's SQL and with `JSONExtract*` in ClickHouse.

Rows of `containers`, `role_rules` and `role_subjects` come from writes (create, update, patch) whose event carries a body:
the audit policy must log these resources at Request or RequestResponse. Bodies that can't be read as the object, such as
JSON Patches, give no rows.

ClickHouse merges rows that arrived twice in the background: `SELECT … FROM audit FINAL` reads as if it had.
";

/// The whole page.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    for table in Table::ALL {
        let _ = write!(
            page,
            "\n## {}\n\n{}\n\n| column | kind | Arrow | ClickHouse | null | what it holds |\n|---|---|---|---|---|---|\n",
            table.name(),
            table.description()
        );
        for column in table.columns() {
            page.push_str(&row(column));
        }
    }
    page
}

fn row(column: &Column) -> String {
    format!(
        "| `{}` | {} | `{}` | `{}` | {} | {} |\n",
        column.name,
        kind_name(column.kind),
        column.kind.arrow(),
        clickhouse::column_definition(column),
        if column.nullable { "yes" } else { "no" },
        column.description.replace('|', "\\|")
    )
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Label => "label",
        Kind::Json => "JSON",
        Kind::TextList => "list of text",
        Kind::Int32 | Kind::Int64 => "integer",
        Kind::Bool => "boolean",
        Kind::Time => "time",
        Kind::Day => "day",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_what_the_code_renders() {
        crate::notation::tests::check_file("../docs/tables.md", &page());
    }

    #[test]
    fn every_row_has_six_cells() {
        let rows = page().lines().filter(|l| l.starts_with("| `")).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(rows.len(), Table::ALL.iter().map(|t| t.columns().len()).sum::<usize>());
        for row in rows {
            assert_eq!(row.replace("\\|", "").matches('|').count(), 7, "{row}");
        }
    }
}
