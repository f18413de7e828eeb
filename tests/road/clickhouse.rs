//! The store in a real ClickHouse: migrations, and queries in its own dialect. Needs the services.

use crate::deployment::Staged;

const ADD_EVENT: &str = "INSERT INTO audit (event_id, cluster, day, received_at, event_time, verb) \
    VALUES ('00', 'prod', today(), now64(6), now64(6), 'get')";

#[test]
fn migration_is_repeatable_and_goes_forward_only() {
    let Some(place) = Staged::new() else { return };
    let ask = |sql: &str| place.services.clickhouse(sql);
    let said = place.settings.succeed(&["migrate"]);
    assert!(said.contains("up to date"), "{said}");
    let ledger = ask("SELECT number, name FROM schema_migrations ORDER BY number, name");
    assert!(ledger.starts_with("1\ttables\n"), "{ledger}");
    ask(ADD_EVENT);
    let columns = "SELECT table, name, type FROM system.columns WHERE database = currentDatabase() ORDER BY ALL";
    let before = ask(columns);

    // Again, alone and from several processes at once, as a deployment starts them.
    place.settings.succeed(&["migrate"]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| place.settings.succeed(&["migrate"]));
        }
    });
    assert_eq!(ask(columns), before);
    assert_eq!(ask("SELECT number, name FROM schema_migrations ORDER BY number, name"), ledger);
    assert_eq!(ask("SELECT count() FROM audit"), "1\n");

    // A newer Vedette was here: what it did stays.
    ask("ALTER TABLE audit ADD COLUMN later Nullable(String)");
    ask("INSERT INTO schema_migrations (number, name) VALUES (9999, 'later')");
    place.settings.succeed(&["migrate"]);
    assert_eq!(ask("SELECT count() FROM schema_migrations WHERE number = 9999"), "1\n");
    assert_eq!(place.settings.numbers("SELECT count(*) FROM audit"), [1]);

    // A column that is gone is not made up for in silence, since its data would be dropped.
    ask("ALTER TABLE audit DROP COLUMN verb");
    let said = place.settings.fail(&["migrate"], 1);
    assert!(said.contains("audit") && said.contains("verb"), "{said}");
}

#[test]
fn several_processes_may_migrate_a_new_database_at_once() {
    let Some(place) = Staged::new() else { return };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| place.settings.succeed(&["migrate"]));
        }
    });
    let tables = place.services.clickhouse("SELECT count() FROM system.tables WHERE database = currentDatabase()");
    assert_eq!(tables, "8\n");
}

#[test]
fn native_queries_are_clickhouses_own() {
    let Some(place) = Staged::new() else { return };
    place.settings.succeed(&["migrate"]);
    place.services.clickhouse(ADD_EVENT);
    let native = |format: &str, sql: &str| place.settings.succeed(&["query", "--native", "--format", format, sql]);
    assert_eq!(
        native("csv", "SELECT event_id, verb, toYear(toDate('2026-02-03')) AS y FROM audit"),
        "event_id,verb,y\n00,get,2026\n"
    );
    let json = native("json", "SELECT arrayMap(x -> x * 2, [1, 2]) AS list, NULL AS nothing, 'a?b' AS mark FROM audit");
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap(),
        serde_json::json!({"list": [2, 4], "mark": "a?b"})
    );
    assert!(native("table", "SELECT * FROM audit WHERE verb = 'no such verb'").contains("0 rows"));
    assert!(native("table", "SHOW TABLES").contains("role_subjects"));

    let said = place.settings.fail(&["query", "--native", "SELECT no_such_column FROM audit"], 1);
    assert!(said.contains("no_such_column"), "{said}");
    // People's SQL is read-only, in this dialect too.
    for statement in
        ["DROP TABLE audit", "INSERT INTO audit (event_id) VALUES ('01')", "ALTER TABLE audit DELETE WHERE 1"]
    {
        let said = place.settings.fail(&["query", "--native", statement], 1);
        assert!(
            said.to_lowercase().contains("readonly") || said.to_lowercase().contains("read-only"),
            "{statement}: {said}"
        );
    }
    assert_eq!(place.settings.numbers("SELECT count(*) FROM audit"), [1]);
}

#[test]
fn an_account_that_may_only_read_asks_both_ways() {
    let Some(place) = Staged::new() else { return };
    place.settings.succeed(&["migrate"]);
    place.services.clickhouse(ADD_EVENT);
    let account = |name: &str, password: &str| {
        let settings = place.settings.clone().with("STORE__CLICKHOUSE__USER", name);
        settings.with("STORE__CLICKHOUSE__PASSWORD", password)
    };
    let reader = account("reader", "reader-test");
    assert_eq!(reader.numbers("SELECT count(*) FROM audit"), [1]);
    assert!(reader.succeed(&["query", "--native", "--format", "csv", "SELECT verb FROM audit"]).contains("get"));
    reader.fail(&["query", "--native", "DROP TABLE audit"], 1);
    account("reader", "wrong").fail(&["query", "SELECT 1 FROM audit"], 1);
}
