//! The engine: the pack's cases, many rules together against plain DataFusion, and a rule that fails.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use vedette_analytics::engine::{self, Engine, Finding, RULE_FAILED, Tables, check};
use vedette_benches::Generator;
use vedette_detections::event::{base_event, base_events};
use vedette_detections::{Rule, RuleKind, builtin, lint, sql};
use vedette_schemas::{AuditDecoder, FalcoDecoder, Table, derive, rebuild_audit, rebuild_falco};

const NOW: i64 = 1_767_225_600_000_000;
/// Later than every event: two years on.
const END: i64 = NOW + 730 * 86_400_000_000;

#[test]
fn every_recorded_event_comes_back_from_its_row() {
    for name in base_events() {
        let event = base_event(name).unwrap();
        let (mut audit, mut falco) = (AuditDecoder::new(), FalcoDecoder::new());
        let rebuilt = if name.starts_with("falco_") {
            falco.push("recorded", NOW, event.as_bytes()).unwrap();
            rebuild_falco(&falco.finish(), 0)
        } else {
            audit.push("recorded", NOW, event.as_bytes()).unwrap();
            rebuild_audit(&audit.finish(), 0)
        };
        assert_eq!(rebuilt.unwrap(), serde_json::from_str::<serde_json::Value>(event).unwrap(), "{name}");
    }
}

/// Every recorded event and some thousands of generated ones, decoded.
fn tables() -> Tables {
    let (mut decoder, mut falco) = (AuditDecoder::new(), FalcoDecoder::new());
    for name in base_events() {
        let event = base_event(name).unwrap().as_bytes();
        match name.starts_with("falco_") {
            true => falco.push("recorded", NOW, event).unwrap(),
            false => decoder.push("recorded", NOW, event).unwrap(),
        };
    }
    let mut generator = Generator::new(11);
    for _ in 0..5_000 {
        let mut event = String::new();
        generator.event(&mut event);
        decoder.push("generated", NOW, event.as_bytes()).unwrap();
    }
    let mut tables = derive::tables(decoder.finish());
    tables.insert(Table::Falco, falco.finish());
    tables
}

/// A rule with the given SQL and nothing to say.
pub fn rule(id: &str, sql: &str) -> Rule {
    Rule { id: id.into(), sql: sql.into(), summary: id.into(), tests: Vec::new(), ..matches().remove(0) }
}

/// The pack's rules that look at one row at a time.
fn matches() -> Vec<Rule> {
    builtin().unwrap().into_iter().filter(|rule| rule.kind == RuleKind::Match).collect()
}

fn of<'a>(findings: &'a [Finding], rule: &'a str) -> impl Iterator<Item = &'a Finding> {
    findings.iter().filter(move |finding| finding.rule_id == rule)
}

#[tokio::test]
async fn every_rule_of_the_pack_is_well() {
    let rules = builtin().unwrap();
    assert!(rules.len() >= 20);
    for rule in &rules {
        let problems = lint(rule, &Arc::default());
        assert!(problems.is_empty(), "{}: {problems:?}", rule.id);
        let outcomes = check::run(rule, &Arc::default()).await.unwrap();
        assert!(outcomes.iter().any(|outcome| !outcome.expected.is_empty()), "{}: no firing case", rule.id);
        assert!(outcomes.iter().any(|outcome| outcome.expected.is_empty()), "{}: no quiet case", rule.id);
        for outcome in outcomes {
            assert!(outcome.passed(), "{}: {outcome:#?}", rule.id);
        }
    }
}

/// Conditions that rules share, their order and the selection by survivors must not change what a rule finds.
#[tokio::test]
async fn rules_together_find_what_datafusion_finds_for_each_alone() {
    let tables = tables();
    let rules = matches();
    let mut engine = Engine::new(rules.clone()).await.unwrap();
    assert_eq!(engine.len(), rules.len());
    let findings = engine.evaluate(&tables, NOW).await;
    let mut fired = 0;
    for rule in &rules {
        let context = sql::session().unwrap();
        for (table, batch) in &tables {
            let memory = MemTable::try_new(batch.schema(), vec![vec![batch.clone()]]).unwrap();
            context.register_table(table.name(), Arc::new(memory)).unwrap();
        }
        let rows = context.sql(&rule.sql).await.unwrap().collect().await.unwrap();
        let mut expected = Vec::new();
        for batch in &rows {
            expected.extend(engine::json_rows(batch).unwrap());
        }
        let found: Vec<_> =
            of(&findings, &rule.id).map(|finding| finding.details.as_object().unwrap().clone()).collect();
        assert_eq!(found, expected, "{}:\n{}", rule.id, pretty_format_batches(&rows).unwrap());
        fired += usize::from(!found.is_empty());
    }
    assert!(fired > 25, "{fired} of {} rules fired", rules.len());
}

#[tokio::test]
async fn the_same_events_give_the_same_ids_however_they_are_batched() {
    let tables = tables();
    let ids = |findings: &[Finding]| findings.iter().map(|finding| finding.alert_id).collect::<BTreeSet<_>>();
    let mut engine = Engine::new(builtin().unwrap()).await.unwrap();
    let mut whole = engine.evaluate(&tables, NOW).await;
    whole.extend(engine.pass(END, NOW).await);
    assert_eq!(ids(&whole).len(), whole.len(), "no two findings share an id");
    let mut engine = Engine::new(builtin().unwrap()).await.unwrap();
    let falco = Tables::from([(Table::Falco, tables[&Table::Falco].clone())]);
    let mut parts = ids(&engine.evaluate(&falco, NOW + 1).await);
    for start in (0..tables[&Table::Audit].num_rows()).step_by(777) {
        let audit = &tables[&Table::Audit];
        let audit = audit.slice(start, 777.min(audit.num_rows() - start));
        let part = derive::tables(audit);
        parts.extend(ids(&engine.evaluate(&part, NOW + 1).await));
    }
    parts.extend(ids(&engine.pass(END, NOW + 1).await));
    let differ: Vec<_> =
        whole.iter().filter(|finding| !parts.contains(&finding.alert_id)).map(|f| &f.summary).collect();
    assert!(differ.is_empty() && parts.len() == whole.len(), "{differ:?}");
}

#[tokio::test]
async fn a_scheduled_rule_that_can_never_run_is_refused_with_the_reason() {
    let scheduled = |schedule: &str, sql: &str| Rule {
        kind: RuleKind::Scheduled,
        schedule: Some(schedule.into()),
        ..rule("nightly", sql)
    };
    let good = "SELECT cluster, rule_id FROM runs WHERE event_time < period_end()";
    assert!(Engine::new(vec![scheduled("0 6 * * *", good)]).await.unwrap().is_empty());
    for (schedule, sql, reason) in
        [("0 25 * * *", good, "schedule"), ("0 6 * * *", "SELECT no_such_column FROM audit", "no_such_column")]
    {
        let error = Engine::new(vec![scheduled(schedule, sql)]).await.err().unwrap().to_string();
        assert!(error.contains("rule nightly: ") && error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_rule_that_fails_is_taken_out_and_said_while_others_go_on() {
    let tables = tables();
    let failing = rule(
        "failing",
        "SELECT cluster, event_id, event_time FROM audit WHERE verb = 'create' AND CAST(user_name AS BIGINT) = 1",
    );
    let good = rule("good", "SELECT cluster, event_id, event_time FROM audit WHERE verb = 'create'");
    let mut engine = Engine::new(vec![failing, good]).await.unwrap();
    let first = engine.evaluate(&tables, NOW).await;
    let about: Vec<_> = of(&first, RULE_FAILED).collect();
    assert_eq!(about.len(), 1);
    assert_eq!(about[0].target.as_deref(), Some("failing"));
    assert!(about[0].summary.contains("Cannot cast"), "{}", about[0].summary);
    let second = engine.evaluate(&tables, NOW).await;
    assert_eq!(of(&second, RULE_FAILED).count(), 0, "it is said once");
    assert!(of(&first, "good").count() > 100);
    assert_eq!(of(&first, "good").count(), of(&second, "good").count());
    assert_eq!(engine.len(), 1);
}

#[tokio::test]
async fn sql_that_can_not_run_is_refused_with_the_rules_name() {
    let name = "broken";
    for (sql, reason) in [
        ("SELECT event_id FROM nowhere", "nowhere"),
        ("SELECT no_such_column FROM audit", "no_such_column"),
        ("SELECT a.event_id FROM audit a JOIN containers c ON a.event_id = c.event_id", "one table"),
    ] {
        let error = Engine::new(vec![rule(name, sql)]).await.err().unwrap().to_string();
        assert!(error.contains(name) && error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn an_aggregate_that_can_not_slide_is_named_with_one_that_can() {
    for (aggregate, instead) in [
        ("approx_distinct(name)", "approx_distinct() can't slide over time; count(DISTINCT …) can"),
        ("bool_or(name = 'x')", "bool_or() can't slide over time; count(*) FILTER (WHERE …) > 0 can"),
        ("string_agg(name, ',')", "string_agg() can't slide over time; array_agg can"),
        ("first_value(name)", "first_value() can't slide over time; min or max can"),
    ] {
        let sql = format!("SELECT cluster, {aggregate} AS n FROM audit GROUP BY cluster");
        let window = Some(vedette_detections::Span::from_seconds(60));
        let rule = Rule { kind: RuleKind::Window, window, ..rule("sliding", &sql) };
        let error = Engine::new(vec![rule]).await.err().unwrap().to_string();
        assert!(error.contains(instead), "{error}");
    }
}

#[tokio::test]
async fn conditions_that_every_row_pays_for_are_named() {
    let select = "SELECT cluster, event_id, event_time FROM audit WHERE stage = 'ResponseComplete'";
    let advice = async |condition: &str| {
        let rule = rule("r", &format!("{select} {condition}"));
        check::advice(&rule, &Arc::default()).await.unwrap()
    };
    let body = "AND json_get_str(request_object, 'kind') = 'Pod'";
    let lines = advice(body).await;
    assert!(lines.len() == 1 && lines[0].contains("is asked of every row of audit"), "{lines:?}");
    assert_eq!(advice(&format!("{body} AND verb = 'create'")).await, [""; 0]);
    assert_eq!(advice("AND verb LIKE 'cr%'").await, [""; 0]);
}
