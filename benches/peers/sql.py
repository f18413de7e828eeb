"""A database's side of the comparison that `run` drives: counts the events of each condition, as often as it is asked.

    sql.py clickhouse|duckdb FOLDER

Each line of the input names what to run: `json` reads the events from NDJSON in one query (ClickHouse only); `one query` and
`100 queries` count over a table in memory that holds the columns as Vedette decodes them. One thread.
"""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

import conditions

# The paths of an event that the conditions read. A column does without NULL where every event has the field, or where no
# condition tells NULL from an empty text.
FROM_JSON = """(SELECT
    verb, stage, objectRef.resource AS resource, objectRef.subresource AS subresource, objectRef.namespace AS namespace,
    user.username AS user_name, user.groups AS user_groups, userAgent AS user_agent, requestURI AS request_uri,
    responseStatus.code AS response_code, annotations['authorization.k8s.io/decision'] AS decision,
    impersonatedUser.username AS impersonated_user_name, requestObject AS request_object
FROM file('{events}', JSONEachRow, '
    verb String, stage String, requestURI String, userAgent String,
    objectRef Tuple(resource Nullable(String), subresource Nullable(String), namespace Nullable(String)),
    user Tuple(username Nullable(String), groups Array(String)), impersonatedUser Tuple(username Nullable(String)),
    responseStatus Tuple(code Nullable(Int32)), annotations Map(String, String), requestObject String'))"""

CLICKHOUSE_TABLE = """CREATE TABLE audit (
    verb {label}, stage {label}, resource {label}, subresource {label}, namespace {label}, user_name {label},
    user_groups Array(LowCardinality(String)), user_agent {label}, request_uri Nullable(String),
    response_code Nullable(Int32), decision {label}, impersonated_user_name {label}, request_object Nullable(String)
) ENGINE = Memory"""

ONE_THREAD = {
    "max_threads": 1,
    "max_parsing_threads": 1,
    "input_format_parallel_parsing": 0,
    # Bodies as text; what the structure doesn't name is skipped.
    "input_format_json_read_objects_as_strings": 1,
    "input_format_json_ignore_unknown_keys_in_named_tuple": 1,
    "input_format_skip_unknown_fields": 1,
}


def table(folder):
    with pa.ipc.open_stream(folder / "audit.arrow") as stream:
        return stream.read_all()


class ClickHouse:
    def __init__(self, folder, rules):
        from chdb.session import Session

        self.session = Session()
        self.rules = [conditions.clickhouse(rule) for rule in rules]
        self.session.query("CREATE DATABASE peers")
        self.session.query("USE peers")
        self.session.query(CLICKHOUSE_TABLE.format(label="LowCardinality(Nullable(String))"))
        pa.parquet.write_table(table(folder), folder / "audit.parquet")
        self.session.query(f"INSERT INTO audit SELECT * FROM file('{folder}/audit.parquet')")
        self.json = FROM_JSON.format(events=folder / "events.ndjson")

    def rows(self, query):
        settings = ", ".join(f"{name} = {value}" for name, value in ONE_THREAD.items())
        return json.loads(f"[{str(self.session.query(f'{query} SETTINGS {settings}', 'CSV')).strip()}]")

    def counts(self, asked):
        if asked == "100 queries":
            return [self.rows(f"SELECT count() FROM audit WHERE {rule}")[0] for rule in self.rules]
        source = {"json": self.json, "one query": "audit"}[asked]
        return self.rows(f"SELECT {', '.join(f'countIf({rule})' for rule in self.rules)} FROM {source}")


class DuckDB:
    def __init__(self, folder, rules):
        import duckdb

        self.connection = duckdb.connect(config={"threads": 1})
        self.rules = [conditions.duckdb(rule) for rule in rules]
        self.connection.register("decoded", table(folder))
        self.connection.execute("CREATE TABLE audit AS SELECT * FROM decoded")

    def rows(self, query):
        return list(self.connection.execute(query).fetchone())

    def counts(self, asked):
        if asked == "100 queries":
            return [self.rows(f"SELECT count(*) FROM audit WHERE {rule}")[0] for rule in self.rules]
        counts = ", ".join(f"count(*) FILTER (WHERE {rule})" for rule in self.rules)
        return self.rows({"one query": f"SELECT {counts} FROM audit"}[asked])


def main():
    database, folder = sys.argv[1], Path(sys.argv[2])
    rules = json.loads((folder / "conditions.json").read_text())
    database = {"clickhouse": ClickHouse, "duckdb": DuckDB}[database](folder, rules)
    for asked in sys.stdin:
        print(json.dumps(database.counts(asked.strip())), flush=True)


main()
