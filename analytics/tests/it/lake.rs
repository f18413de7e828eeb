//! The lake through its interface: what is written is read back, once, whoever else writes, and housekeeping loses nothing.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray,
    StringBuilder, StringViewArray, TimestampMicrosecondArray,
};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use vedette_analytics::store::lake::{Config, Lake};
use vedette_analytics::store::{Store, StoreError, Write};
use vedette_journal::{Partition, Positions, Topic};
use vedette_schemas::table::list_item;
use vedette_schemas::{Column, EventId, Kind, Table};

const DAY: i64 = 86_400_000_000;

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

fn id(row: usize) -> EventId {
    EventId(row as u128 + 1)
}

/// One column of rows `rows`, every third value null where it may be, every third list empty.
fn column(column: &Column, rows: std::ops::Range<usize>, start: i64) -> ArrayRef {
    let null = |row: usize| column.nullable && row.is_multiple_of(3);
    let text = |row: usize| match column.name {
        "event_id" | "alert_id" | "run_id" => id(row).to_string(),
        "cluster" => format!("cluster-{}", row % 2),
        name => format!("{name} of {row}, longer than a view holds inline"),
    };
    let texts = || rows.clone().map(|row| (!null(row)).then(|| text(row)));
    match column.kind {
        Kind::Text | Kind::Json => Arc::new(texts().collect::<StringViewArray>()),
        Kind::Label => cast(&texts().collect::<StringArray>(), &column.kind.arrow()).unwrap(),
        Kind::TextList => {
            let mut lists = ListBuilder::new(StringBuilder::new()).with_field(Arc::new(list_item()));
            for row in rows {
                (0..row % 3).for_each(|at| lists.values().append_value(format!("{at} of {row}")));
                lists.append(true);
            }
            Arc::new(lists.finish())
        }
        Kind::Int32 => Arc::new(rows.map(|row| (!null(row)).then_some(row as i32)).collect::<Int32Array>()),
        Kind::Int64 => Arc::new(rows.map(|row| (!null(row)).then_some(row as i64)).collect::<Int64Array>()),
        Kind::Bool => Arc::new(rows.map(|row| (!null(row)).then_some(row % 2 == 0)).collect::<BooleanArray>()),
        Kind::Time => {
            let times = rows.map(|row| (!null(row)).then_some(start + row as i64));
            Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        Kind::Day => Arc::new(Date32Array::from_iter_values(rows.map(|row| ((start + row as i64) / DAY) as i32))),
    }
}

/// Rows of any table, made from their numbers; row n was received n microseconds after `start`.
fn batch(table: Table, rows: std::ops::Range<usize>, start: i64) -> RecordBatch {
    let columns = table.columns().iter().map(|c| column(c, rows.clone(), start)).collect();
    RecordBatch::try_new(table.schema(), columns).unwrap()
}

fn positions(offset: u64) -> Positions {
    Positions::from([(Partition { topic: Topic::Audit, number: 0 }, offset)])
}

fn write(table: Table, rows: std::ops::Range<usize>, start: i64) -> Write {
    let (from, to) = (positions(rows.start as u64), positions(rows.end as u64));
    Write { table, batches: vec![batch(table, rows, start)], journal: "journal".into(), from, to }
}

fn config(folder: &Path) -> Config {
    Config { url: folder.join("lake").to_str().unwrap().to_owned(), ..Config::default() }
}

async fn open(config: &Config) -> Arc<Lake> {
    let lake = config.open().await.unwrap();
    lake.migrate().await.unwrap();
    lake
}

async fn query(lake: &Lake, table: Table, sql: &str) -> RecordBatch {
    let context = vedette_detections::sql::session().unwrap();
    context.register_table(table.name(), lake.provider(table).await.unwrap()).unwrap();
    let frame = context.sql(sql).await.unwrap();
    let batches = frame.collect().await.unwrap();
    let schema = batches.first().expect("a batch").schema();
    concat_batches(&schema, &batches).unwrap()
}

async fn count(lake: &Lake, table: Table) -> i64 {
    let counted = query(lake, table, &format!("SELECT count(*), count(DISTINCT event_id) FROM {}", table.name())).await;
    let [all, distinct] = [0, 1].map(|at| counted.column(at).as_primitive::<Int64Type>().value(0));
    assert_eq!(all, distinct, "no row is stored twice");
    all
}

/// Data files of the table as it is now.
async fn files(lake_folder: &Path, table: Table) -> usize {
    let url = deltalake::ensure_table_uri(lake_folder.join("lake").join(table.name()).to_str().unwrap()).unwrap();
    deltalake::open_table(url).await.unwrap().snapshot().unwrap().log_data().num_files()
}

/// Text and lists in one form, however the reader presents them.
fn comparable(array: &ArrayRef) -> Vec<String> {
    let plain = match array.data_type() {
        DataType::Dictionary(_, _) | DataType::Utf8View => cast(array, &DataType::Utf8).unwrap(),
        _ => array.clone(),
    };
    let options = arrow::util::display::FormatOptions::new().with_null("null");
    let shown = arrow::util::display::ArrayFormatter::try_new(&plain, &options).unwrap();
    (0..plain.len()).map(|row| shown.value(row).to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_column_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(&config(folder.path())).await;
    let start = now() / DAY * DAY;
    for table in Table::ALL {
        lake.write(write(table, 0..20, start)).await.unwrap();
        let names: Vec<&str> = table.columns().iter().map(|column| column.name).collect();
        let sql = format!("SELECT {} FROM {} ORDER BY received_at", names.join(", "), table.name());
        let found = query(&lake, table, &sql).await;
        let wrote = batch(table, 0..20, start);
        for (at, name) in names.iter().enumerate() {
            let (found, wrote) = (found.column(at), wrote.column(at));
            assert_eq!(comparable(found), comparable(wrote), "{}.{name}", table.name());
            assert_eq!(found.null_count(), wrote.null_count(), "{}.{name}", table.name());
        }
    }
    lake.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_changes_nothing_and_newer_rows_do() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let lake = open(&config).await;
    let start = now();
    lake.write(write(Table::Audit, 0..10, start)).await.unwrap();
    lake.write(write(Table::Audit, 10..20, start)).await.unwrap();
    lake.write(write(Table::Audit, 0..10, start)).await.unwrap();
    assert_eq!(count(&lake, Table::Audit).await, 20);

    let reopened = open(&config).await;
    reopened.write(write(Table::Audit, 10..20, start)).await.unwrap();
    assert_eq!(count(&reopened, Table::Audit).await, 20);

    // Half of the range is new: the caller sends only rows it does not know, and the position moves on.
    let overlapping = Write { from: positions(10), ..write(Table::Audit, 20..30, start) };
    reopened.write(overlapping.clone()).await.unwrap();
    reopened.write(overlapping).await.unwrap();
    assert_eq!(count(&reopened, Table::Audit).await, 30);

    // Another journal's offsets say nothing about this one's, nor does another partition's.
    let other = Write { journal: "other".into(), ..write(Table::Audit, 0..5, start) };
    let renamed = batch(Table::Audit, 100..105, start);
    reopened.write(Write { batches: vec![renamed], ..other }).await.unwrap();
    assert_eq!(count(&reopened, Table::Audit).await, 35);
    let mut both = positions(30);
    both.insert(Partition { topic: Topic::Audit, number: 1 }, 5);
    reopened.write(Write { to: both, ..write(Table::Audit, 200..205, start) }).await.unwrap();
    assert_eq!(count(&reopened, Table::Audit).await, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_is_not_taken_for_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(&config(folder.path())).await;
    let start = now();
    lake.write(write(Table::Audit, 0..20, start)).await.unwrap();
    // The same offsets, other events.
    let anew = |rows| Write { batches: vec![batch(Table::Audit, rows, start)], ..write(Table::Audit, 0..5, start) };
    lake.write(anew(100..105)).await.unwrap();
    lake.write(anew(100..105)).await.unwrap();
    assert_eq!(count(&lake, Table::Audit).await, 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_never_moves_back() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(&config(folder.path())).await;
    let start = now();
    lake.write(write(Table::Falco, 0..30, start)).await.unwrap();
    let mut to = positions(10);
    to.insert(Partition { topic: Topic::Falco, number: 0 }, 1);
    lake.write(Write { to, ..write(Table::Falco, 30..31, start) }).await.unwrap();
    lake.write(write(Table::Falco, 20..30, start)).await.unwrap();
    assert_eq!(count(&lake, Table::Falco).await, 31);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_writers_and_a_reader_share_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let start = now();
    let reader = open(&config).await;
    let writers = ["left", "right"].into_iter().enumerate().map(|(at, journal)| {
        let config = config.clone();
        tokio::spawn(async move {
            let lake = open(&config).await;
            for round in 0..5 {
                let rows = at * 1000 + round * 10..at * 1000 + round * 10 + 10;
                lake.write(Write { journal: journal.into(), ..write(Table::Audit, rows, start) }).await.unwrap();
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut seen = 0;
    while writers.iter().any(|writer| !writer.is_finished()) {
        let found = count(&reader, Table::Audit).await;
        assert!(found >= seen && found % 10 == 0, "whole batches, and never fewer: {seen} then {found}");
        seen = found;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(count(&reader, Table::Audit).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_batch_from_two_processes_is_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let start = now();
    let lakes = [open(&config).await, open(&config).await];
    for round in 0..5 {
        let rows = round * 10..round * 10 + 10;
        let [left, right] = [0, 1].map(|at| lakes[at].write(write(Table::Audit, rows.clone(), start)));
        let (left, right) = tokio::join!(left, right);
        left.unwrap();
        right.unwrap();
    }
    assert_eq!(count(&lakes[0], Table::Audit).await, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn recent_ids_are_the_newest_oldest_first() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(&config(folder.path())).await;
    let midnight = now() / DAY * DAY;
    for table in [Table::Audit, Table::Alerts] {
        assert_eq!(lake.recent_ids(table, 0, 10).await.unwrap(), []);
        // Rows 0 to 9 are of yesterday, 10 to 19 of today.
        lake.write(write(table, 0..20, midnight - 10)).await.unwrap();
        let ids = |rows: std::ops::Range<usize>| rows.map(id).collect::<Vec<_>>();
        assert_eq!(lake.recent_ids(table, 0, 100).await.unwrap(), ids(0..20));
        assert_eq!(lake.recent_ids(table, 0, 5).await.unwrap(), ids(15..20));
        assert_eq!(lake.recent_ids(table, 0, 13).await.unwrap(), ids(7..20));
        assert_eq!(lake.recent_ids(table, midnight - 2, 100).await.unwrap(), ids(8..20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn maintain_makes_files_fewer_and_keeps_rows_positions_and_order() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { checkpoint_interval: 5, ..config(folder.path()) };
    let lake = open(&config).await;
    let start = now() / DAY * DAY;
    for round in 0..12 {
        lake.write(write(Table::Audit, round * 10..round * 10 + 10, start)).await.unwrap();
    }
    let before = files(folder.path(), Table::Audit).await;
    assert_eq!(before, 12);
    let old_reader = lake.provider(Table::Audit).await.unwrap();
    lake.maintain().await.unwrap();
    // Eight became one; the other four wait until they are eight.
    assert_eq!(files(folder.path(), Table::Audit).await, 5);
    assert_eq!(count(&lake, Table::Audit).await, 120);

    // Who read before goes on reading: the files stay for a while.
    let rows = vedette_detections::sql::session().unwrap().read_table(old_reader).unwrap().count().await.unwrap();
    assert_eq!(rows, 120);

    let reopened = open(&config).await;
    reopened.write(write(Table::Audit, 110..120, start)).await.unwrap();
    assert_eq!(count(&reopened, Table::Audit).await, 120);
    reopened.write(write(Table::Audit, 120..130, start)).await.unwrap();
    assert_eq!(count(&reopened, Table::Audit).await, 130);

    let sorted = query(&lake, Table::Audit, "SELECT cluster, event_time FROM audit LIMIT 120").await;
    assert_eq!(sorted.num_rows(), 120);
    let checkpoint = folder.path().join("lake/audit/_delta_log/_last_checkpoint");
    assert!(checkpoint.exists(), "checkpoints are made on the way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_file_is_sorted() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(&config(folder.path())).await;
    let start = now() / DAY * DAY;
    // The newest rows come first, so that a file after file merge would be out of order.
    for round in (0..8).rev() {
        let to = positions(80 - round as u64 * 10);
        lake.write(Write { to, ..write(Table::Audit, round * 10..round * 10 + 10, start) }).await.unwrap();
    }
    lake.maintain().await.unwrap();
    let day = std::fs::read_dir(folder.path().join("lake/audit")).unwrap().map(|entry| entry.unwrap().path());
    let day = day.into_iter().find(|path| path.to_str().unwrap().contains("day=")).unwrap();
    let newest = std::fs::read_dir(day).unwrap().map(|entry| entry.unwrap().path());
    let newest = newest.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let file = std::fs::File::open(newest).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    let all = concat_batches(&batches[0].schema(), &batches).unwrap();
    assert_eq!(all.num_rows(), 80);
    let clusters = comparable(all.column_by_name("cluster").unwrap());
    let times = all.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>().values();
    let keys: Vec<_> = clusters.into_iter().zip(times).collect();
    assert!(keys.is_sorted(), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn days_beyond_the_retention_go_and_alerts_stay_longer() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { retention_days: 30, ..config(folder.path()) };
    let lake = open(&config).await;
    for table in [Table::Audit, Table::Alerts] {
        lake.write(write(table, 0..10, now() - 100 * DAY)).await.unwrap();
        lake.write(write(table, 10..20, now())).await.unwrap();
    }
    lake.maintain().await.unwrap();
    let left: HashSet<EventId> = lake.recent_ids(Table::Audit, 0, 100).await.unwrap().into_iter().collect();
    assert_eq!(left, (10..20).map(id).collect());
    assert_eq!(lake.recent_ids(Table::Alerts, 0, 100).await.unwrap().len(), 20);
    // What is gone by age is not taken back by a redelivery.
    lake.write(write(Table::Audit, 0..10, now() - 100 * DAY)).await.unwrap();
    assert_eq!(count(&lake, Table::Audit).await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn maintain_beside_a_writer_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { compaction_files: 2, ..config(folder.path()) };
    let lake = open(&config).await;
    let start = now() / DAY * DAY;
    let writing = async {
        for round in 0..15 {
            lake.write(write(Table::Audit, round * 10..round * 10 + 10, start)).await.unwrap();
        }
    };
    let maintaining = async {
        for _ in 0..4 {
            lake.maintain().await.unwrap();
        }
    };
    tokio::join!(writing, maintaining);
    assert_eq!(count(&lake, Table::Audit).await, 150);
}

#[tokio::test]
async fn a_table_of_another_shape_is_rejected_and_an_older_one_grows() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let create = async |table: Table, columns: &[&str]| {
        let url = deltalake::ensure_table_uri(folder.path().join("lake").join(table.name()).to_str().unwrap()).unwrap();
        let builder = deltalake::DeltaTableBuilder::from_url(url).unwrap().build().unwrap().create();
        let text = || deltalake::kernel::DataType::Primitive(deltalake::kernel::PrimitiveType::String);
        let day = deltalake::kernel::DataType::Primitive(deltalake::kernel::PrimitiveType::Date);
        let builder = columns.iter().fold(builder, |b, name| b.with_column(*name, text(), true, None));
        builder.with_column("day", day, false, None).with_partition_columns(["day"]).await.unwrap();
    };
    create(Table::Audit, &["event_id", "event_time"]).await;
    let lake = config.open().await.unwrap();
    let error = lake.migrate().await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
    for expected in ["audit", "cluster is missing", "event_time is Utf8"] {
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn writing_before_migration_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let lake = config(folder.path()).open().await.unwrap();
    assert!(lake.ready().await.is_err());
    assert!(lake.write(write(Table::Audit, 0..1, now())).await.is_err());
    assert!(config(Path::new("nowhere://bucket")).open().await.is_err());
}

/// Runs where `VEDETTE_TEST_PYTHON` names an interpreter that has the packages `deltalake` and `pyarrow`, as
/// `docker/services.sh up` does; there must be one if VEDETTE_REQUIRE_SERVICES is set, as it is in CI.
#[tokio::test(flavor = "multi_thread")]
async fn python_reads_the_same_rows() {
    let Ok(python) = std::env::var("VEDETTE_TEST_PYTHON") else {
        assert!(std::env::var_os("VEDETTE_REQUIRE_SERVICES").is_none(), "VEDETTE_TEST_PYTHON is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let lake = open(&config(folder.path())).await;
    let start = now() / DAY * DAY;
    for table in Table::ALL {
        for round in 0..8 {
            lake.write(write(table, round * 10..round * 10 + 10, start)).await.unwrap();
        }
    }
    lake.maintain().await.unwrap();
    // It leaves at once: pyarrow's threads, taken down with the interpreter, now and then abort it.
    let script = "import os, sys, deltalake\n\
        for name in sys.argv[2:]:\n\
        \x20   t = deltalake.DeltaTable(sys.argv[1] + '/' + name).to_pyarrow_table()\n\
        \x20   clusters = sorted(set(t['cluster'].to_pylist()))\n\
        \x20   print(name, t.num_rows, len(t.column_names), clusters)\n\
        sys.stdout.flush()\n\
        os._exit(0)\n";
    let names: Vec<&str> = Table::ALL.iter().map(|table| table.name()).collect();
    let mut command = std::process::Command::new(python);
    let output = command.arg("-c").arg(script).arg(folder.path().join("lake")).args(&names).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: Vec<String> = Table::ALL
        .iter()
        .map(|t| format!("{} 80 {} ['cluster-0', 'cluster-1']", t.name(), t.columns().len()))
        .collect();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(), expected);
}
