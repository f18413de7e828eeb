//! Random rules over random batches: the engine selects what DataFusion selects for each rule alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::compute::concat_batches;
use datafusion::datasource::MemTable;
use proptest::prelude::*;
use proptest::sample::select;
use vedette_analytics::engine::{Engine, Tables, json_rows};
use vedette_benches::{Generator, typical};
use vedette_detections::event::{base_event, base_events};
use vedette_detections::{Rule, sql};
use vedette_schemas::{AuditDecoder, Table};

use crate::engine::rule;

const NOW: i64 = 1_767_225_600_000_000;

/// A condition that no other is part of. Values are such that some rows meet it.
fn simple() -> impl Strategy<Value = String> {
    let label = select(vec!["verb", "resource", "subresource", "namespace", "user_name", "stage", "user_agent"]);
    let value = select(vec![
        "create",
        "get",
        "list",
        "delete",
        "patch",
        "pods",
        "secrets",
        "exec",
        "kube-system",
        "default",
        "system:anonymous",
        "ResponseComplete",
        "",
    ]);
    let pattern =
        select(vec!["%", "system:%", "%kube%", "oidc:user_%", "k%", "", "%s", "%pod_%", "/api%s", "%a%b%", "%=%"]);
    let text = select(vec!["request_uri", "name", "source_ip", "request_object"]);
    let part =
        select(vec!["/", "s", "pods", "/api/v1/", "watch=true", "a", "kube", "-", "1", "exec", "e", "v1", "", "é"]);
    let regex = select(vec!["^system:", "(admin|root)", "[0-9]{2}", "^$", "e"]);
    let number = select(vec![0, 200, 201, 403, 404, 500]);
    let path = select(vec![
        "'spec'",
        "'spec', 'hostNetwork'",
        "'spec', 'containers', 0, 'image'",
        "'metadata', 'name'",
        "'metadata', 'labels', 'app'",
        "'kind'",
        "'rules', 0, 'verbs', 0",
        "'subjects', 0",
        "'spec', 'replicas'",
        "0, 'op'",
        "'spec', 'containers', -1, 'name'",
        "'spec', 'containers', '0', 'name'",
        "'no', 'such'",
    ]);
    let body = select(vec!["request_object", "response_object", "annotations", "user_extra"]);
    let operator = select(vec!["=", "<>", "<", ">=", "IS DISTINCT FROM"]);
    prop_oneof![
        (label.clone(), operator.clone(), value.clone()).prop_map(|(l, o, v)| format!("{l} {o} '{v}'")),
        (label.clone(), value.clone(), value.clone(), any::<bool>())
            .prop_map(|(l, a, b, not)| format!("{l} {} ('{a}', '{b}')", if not { "NOT IN" } else { "IN" })),
        (label.clone(), pattern.clone(), any::<bool>())
            .prop_map(|(l, p, not)| format!("{l} {} '{p}'", if not { "NOT LIKE" } else { "LIKE" })),
        (text.clone(), pattern, any::<bool>())
            .prop_map(|(c, p, not)| format!("{c} {} '{p}'", if not { "NOT LIKE" } else { "LIKE" })),
        (text.clone(), select(vec!["~", "!~", "~*", "!~*"]), regex.clone())
            .prop_map(|(c, o, r)| format!("{c} {o} '{r}'")),
        (text.clone(), regex.clone()).prop_map(|(c, r)| format!("regexp_like({c}, '{r}')")),
        (select(vec!["contains", "starts_with", "ends_with"]), text, part)
            .prop_map(|(f, c, p)| format!("{f}({c}, '{p}')")),
        (label.clone(), regex).prop_map(|(l, r)| format!("{l} ~ '{r}'")),
        (label.clone(), any::<bool>()).prop_map(|(l, not)| format!("{l} IS {}NULL", if not { "NOT " } else { "" })),
        (label.clone(), label.clone()).prop_map(|(a, b)| format!("{a} = {b}")),
        (label, value.clone()).prop_map(|(l, v)| format!("coalesce({l}, 'none') <> '{v}'")),
        (operator.clone(), number).prop_map(|(o, n)| format!("response_code {o} {n}")),
        value.prop_map(|v| format!("array_has(user_groups, '{v}')")),
        Just("array_has(user_groups, 'system:masters')".to_owned()),
        (body.clone(), path.clone(), operator).prop_map(|(b, p, o)| format!("json_get_str({b}, {p}) {o} 'default'")),
        (body.clone(), path.clone()).prop_map(|(b, p)| format!("json_get_bool({b}, {p})")),
        (body.clone(), path.clone()).prop_map(|(b, p)| format!("json_get_int({b}, {p}) > 2")),
        (body.clone(), path.clone()).prop_map(|(b, p)| format!("json_as_text({b}, {p}) IS NOT NULL")),
        (body.clone(), path.clone()).prop_map(|(b, p)| format!("json_length({b}, {p}) >= 1")),
        (body.clone(), path.clone()).prop_map(|(b, p)| format!("json_contains({b}, {p})")),
        (body.clone(), path.clone()).prop_map(|(b, p)| format!("json_get_str({b}, {p}) = name")),
        body.prop_map(|b| format!("{b} LIKE '%\"name\"%'")),
    ]
}

/// A condition made of others.
fn condition() -> impl Strategy<Value = String> {
    simple().prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(|all| format!("({})", all.join(" AND "))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|any| format!("({})", any.join(" OR "))),
            inner.prop_map(|one| format!("NOT ({one})")),
        ]
    })
}

/// Every recorded audit event, and generated ones, in a random order.
fn events() -> Vec<String> {
    let mut generator = Generator::new(23);
    let generated = (0..600).map(|_| {
        let mut event = String::new();
        generator.event(&mut event);
        event
    });
    let recorded = base_events().filter(|name| !name.starts_with("falco_")).filter_map(base_event);
    generated.chain(recorded.map(str::to_owned)).collect()
}

/// What each rule selects of all batches, as JSON rows.
async fn by_engine(
    rules: &[Rule],
    batches: &[Tables],
) -> BTreeMap<String, Vec<serde_json::Map<String, serde_json::Value>>> {
    let mut engine = Engine::new(rules.to_vec()).await.unwrap();
    let mut found: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for tables in batches {
        for (rule, rows) in engine.select(tables).await.unwrap() {
            for rows in rows {
                found.entry(rule.clone()).or_default().extend(json_rows(&rows).unwrap());
            }
        }
    }
    found
}

async fn by_datafusion(rule: &Rule, batches: &[Tables]) -> Vec<serde_json::Map<String, serde_json::Value>> {
    let context = sql::session().unwrap();
    let batches: Vec<_> = batches.iter().map(|tables| tables[&Table::Audit].clone()).collect();
    let all = concat_batches(&Table::Audit.schema(), &batches).unwrap();
    context.register_table("audit", Arc::new(MemTable::try_new(all.schema(), vec![vec![all]]).unwrap())).unwrap();
    let rows = context.sql(&rule.sql).await.unwrap().collect().await.unwrap();
    rows.iter().flat_map(|rows| json_rows(rows).unwrap()).collect()
}

fn compared(conditions: &[String], order: &[usize], cuts: &[usize]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let select = "SELECT event_id, user_name, coalesce(namespace, '-') AS place FROM audit WHERE";
    let rules: Vec<Rule> =
        conditions.iter().enumerate().map(|(nth, c)| rule(&format!("r{nth}"), &format!("{select} {c}"))).collect();
    let (events, mut batches, mut decoder) = (events(), Vec::new(), AuditDecoder::new());
    for (place, event) in order.iter().enumerate() {
        decoder.push("prod", NOW, events[event % events.len()].as_bytes()).unwrap();
        if cuts.contains(&place) || place + 1 == order.len() {
            batches.push(Tables::from([(Table::Audit, decoder.finish())]));
        }
    }
    runtime.block_on(async {
        // A condition that can never be true is refused, as lint does.
        let mut live = Vec::new();
        for rule in rules {
            if Engine::new(vec![rule.clone()]).await.is_ok() {
                live.push(rule);
            }
        }
        let mut found = by_engine(&live, &batches).await;
        for rule in &live {
            let expected = by_datafusion(rule, &batches).await;
            prop_assert_eq!(found.remove(&rule.id).unwrap_or_default(), expected, "{}", rule.sql);
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn random_rules_select_what_datafusion_selects(
        conditions in prop::collection::vec(condition(), 1..12),
        order in prop::collection::vec(0..700_usize, 1..500),
        cuts in prop::collection::vec(0..500_usize, 0..4),
    ) {
        compared(&conditions, &order, &cuts)?;
    }
}

#[test]
fn typical_rules_select_what_datafusion_selects() {
    let order: Vec<usize> = (0..700).collect();
    compared(&typical(150), &order, &[100, 101, 400]).unwrap();
}
