//! The tables in ClickHouse: column types, DDL and the migrations that create them.

use std::fmt::Write as _;

use crate::table::{Column, Kind, Table};

/// Forward-only migrations: number, name and SQL, in order. One that has been released is never edited.
pub const MIGRATIONS: &[(u32, &str, &str)] = &[(1, "tables", include_str!("../../clickhouse/0001_tables.sql"))];

/// How many inserts' tokens a table remembers. Without it a plain MergeTree ignores them.
const DEDUPLICATION_WINDOW: u32 = 10_000;

/// Columns that analysts look single values up by. Sorting can't serve them, so each gets a Bloom filter.
const LOOKED_UP: [&str; 5] = ["event_id", "alert_id", "audit_id", "user_name", "source_ip"];

/// The statements of a migration, without comments: ClickHouse takes one at a time.
pub fn statements(sql: &str) -> Vec<String> {
    let code: Vec<&str> = sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let code = code.join("\n");
    code.split(";\n").map(|s| s.trim().trim_end_matches(';').to_owned()).filter(|s| !s.is_empty()).collect()
}

/// The column's type as ClickHouse names it.
pub fn column_type(column: &Column) -> String {
    let nullable = |inner: &str| if column.nullable { format!("Nullable({inner})") } else { inner.to_owned() };
    match column.kind {
        Kind::Text | Kind::Json => nullable("String"),
        Kind::Label => format!("LowCardinality({})", nullable("String")),
        // Lists are never null: ClickHouse has no nullable arrays. Elements stay plain text, so that what comes back in
        // Arrow is the list of text that went in.
        Kind::TextList => "Array(String)".to_owned(),
        Kind::Int32 => nullable("Int32"),
        Kind::Int64 => nullable("Int64"),
        Kind::Bool => nullable("Bool"),
        Kind::Time => nullable("DateTime64(6, 'UTC')"),
        Kind::Day => nullable("Date32"),
    }
}

/// The column's type with its codec: what stands after its name in DDL.
pub fn column_definition(column: &Column) -> String {
    let codec = match column.kind {
        // Bodies are most of the bytes and repeat themselves; they are read seldom.
        Kind::Json => " CODEC(ZSTD(3))",
        _ => "",
    };
    format!("{}{codec}", column_type(column))
}

/// What tells two rows of a table apart, most general first: rows that agree in all of it are the same row.
fn sorting_key(table: Table) -> &'static [&'static str] {
    match table {
        Table::Audit | Table::Falco => &["cluster", "event_time", "event_id"],
        Table::Alerts => &["cluster", "event_time", "alert_id"],
        Table::Runs => &["cluster", "event_time", "run_id"],
        // A write that was refused can name two containers alike, or none: the image tells more of them apart.
        Table::Containers => {
            &["cluster", "event_time", "event_id", "container_kind", "ifNull(container_name, '')", "ifNull(image, '')"]
        }
        Table::RoleRules => &["cluster", "event_time", "event_id", "rule_index"],
        Table::RoleSubjects => &["cluster", "event_time", "event_id", "subject_index"],
    }
}

/// Days that rows stay.
fn days_kept(table: Table) -> u32 {
    match table {
        Table::Alerts | Table::Runs => 400,
        _ => 90,
    }
}

/// The statement that creates the table, without a semicolon.
///
/// Rows replace equal ones on merge, which catches what the insert's token and the engine's memory of ids let through.
/// Replicated databases turn the engine into its replicated form by themselves.
pub fn create_table(table: Table) -> String {
    let mut lines: Vec<String> =
        table.columns().iter().map(|column| format!("    {} {}", column.name, column_definition(column))).collect();
    for column in table.columns().iter().filter(|column| LOOKED_UP.contains(&column.name)) {
        lines.push(format!("    INDEX {0}_bloom {0} TYPE bloom_filter(0.01) GRANULARITY 1", column.name));
    }
    lines.push("    INDEX received_at_minmax received_at TYPE minmax GRANULARITY 1".to_owned());

    let mut sql = format!("CREATE TABLE IF NOT EXISTS {}\n(\n{}\n)\n", table.name(), lines.join(",\n"));
    // The partition's name is its day, and a filter on `day` prunes through toYYYYMMDD. toDateTime, since a TTL over
    // Date32 is new to ClickHouse.
    let _ = write!(
        sql,
        "ENGINE = ReplacingMergeTree\n\
         PARTITION BY toYYYYMMDD(day)\n\
         PRIMARY KEY (cluster, event_time)\n\
         ORDER BY ({})\n\
         TTL toDateTime(day) + INTERVAL {} DAY\n\
         SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}",
        sorting_key(table).join(", "),
        days_kept(table),
    );
    sql
}

/// The first migration's text.
pub fn first_migration() -> String {
    let mut sql = String::from(
        "-- Every table, as `vedette_schemas::notation::clickhouse` renders it. A test holds this file to the code.\n\
         -- Once released it is not edited: a change to a table is a new migration with ALTER TABLE.\n",
    );
    for table in Table::ALL {
        let _ = write!(sql, "\n-- {}\n{};\n", table.description(), create_table(table));
    }
    sql
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::datatypes::{DataType, TimeUnit};

    use super::*;
    use crate::table::list_item;

    /// Table and column to definition, after all migrations: columns of CREATE TABLE and of ALTER TABLE … ADD COLUMN.
    fn migrated() -> BTreeMap<(String, String), String> {
        let mut columns = BTreeMap::new();
        let all = MIGRATIONS.iter().flat_map(|(_, _, sql)| statements(sql));
        for statement in all {
            if let Some(rest) = statement.strip_prefix("CREATE TABLE IF NOT EXISTS ") {
                let (table, body) = rest.split_once("\n(\n").unwrap();
                let (body, _) = body.split_once("\n)\n").unwrap();
                for line in body.lines().map(|l| l.trim().trim_end_matches(',')).filter(|l| !l.starts_with("INDEX ")) {
                    let (name, definition) = line.split_once(' ').unwrap();
                    columns.insert((table.to_owned(), name.to_owned()), definition.to_owned());
                }
            } else if let Some((table, rest)) =
                statement.strip_prefix("ALTER TABLE ").and_then(|s| s.split_once(" ADD COLUMN IF NOT EXISTS "))
            {
                let (name, definition) = rest.split_once(' ').unwrap();
                columns.insert((table.to_owned(), name.to_owned()), definition.to_owned());
            }
        }
        columns
    }

    /// What a ClickHouse type is in Arrow, and whether it may be null: read back from the text, not from `Kind`.
    fn arrow_of(definition: &str) -> (DataType, bool) {
        let plain = definition.split(" CODEC").next().unwrap();
        let inside = |prefix: &str, text: &str| Some(text.strip_prefix(prefix)?.strip_suffix(')')?.to_owned());
        if let Some(inner) = inside("LowCardinality(", plain) {
            let (_, nullable) = arrow_of(&inner);
            return (DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), nullable);
        }
        if let Some(inner) = inside("Nullable(", plain) {
            return (arrow_of(&inner).0, true);
        }
        let data_type = match plain {
            "String" => DataType::Utf8View,
            "Array(String)" => DataType::List(list_item().into()),
            "Int32" => DataType::Int32,
            "Int64" => DataType::Int64,
            "Bool" => DataType::Boolean,
            "DateTime64(6, 'UTC')" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            "Date32" => DataType::Date32,
            other => panic!("unknown type {other}"),
        };
        (data_type, false)
    }

    #[test]
    fn the_first_migration_is_what_the_code_renders() {
        crate::notation::tests::check_file("clickhouse/0001_tables.sql", &first_migration());
    }

    #[test]
    fn migrated_tables_have_the_arrow_schema_column_by_column() {
        let columns = migrated();
        let mut expected = 0;
        for table in Table::ALL {
            for field in table.schema().fields() {
                let place = (table.name().to_owned(), field.name().clone());
                let definition = columns.get(&place).unwrap_or_else(|| panic!("no column {place:?}"));
                assert_eq!(arrow_of(definition), (field.data_type().clone(), field.is_nullable()), "{place:?}");
                expected += 1;
            }
        }
        assert_eq!(columns.len(), expected, "columns that Arrow does not have");
    }

    #[test]
    fn migrations_are_numbered_in_order_and_split_into_statements() {
        assert!(MIGRATIONS.iter().map(|m| m.0).eq(1..=MIGRATIONS.len() as u32));
        let first = statements(MIGRATIONS[0].2);
        assert_eq!(first.len(), Table::ALL.len());
        assert!(first.iter().all(|s| s.starts_with("CREATE TABLE IF NOT EXISTS ") && !s.ends_with(';')));
        assert_eq!(statements("-- note;\nSELECT 1;\n\nSELECT 2"), ["SELECT 1", "SELECT 2"]);
    }

    #[test]
    fn sorting_keys_have_no_nullable_column() {
        for table in Table::ALL {
            let nullable = |name: &str| table.columns().iter().any(|c| c.name == name && c.nullable);
            assert!(!sorting_key(table).iter().any(|key| nullable(key)), "{}", table.name());
        }
    }
}
