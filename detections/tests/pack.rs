//! The built-in pack holds what it promises: rules that lint clean, and recorded events that every case can use.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;

use vedette_detections::event::base_events;
use vedette_detections::rule::{RuleTest, Step, TestEvent};
use vedette_detections::{Config, Rule, base_event, builtin, case_events, lint, load};

#[test]
fn the_pack_lints_clean_and_is_what_the_folder_holds() {
    let embedded = builtin().unwrap();
    let folder = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("rules")).unwrap();
    let ids = |rules: &[Rule]| rules.iter().map(|r| r.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&embedded), ids(&folder));
    assert!(embedded.len() >= 20, "{} rules", embedded.len());
    let problems: Vec<String> =
        folder.iter().flat_map(|rule| lint(rule, &Default::default())).map(|problem| problem.to_string()).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_pack_covers_its_part_of_the_checklist() {
    let covered: BTreeSet<String> = builtin().unwrap().into_iter().flat_map(|rule| rule.checklist).collect();
    for id in [
        "SEC-01", "SEC-02", "SEC-06", "RBAC-01", "RBAC-02", "RBAC-03", "RBAC-04", "RBAC-05", "RBAC-08", "AUTH-01",
        "AUTH-02", "AUTH-08", "NET-05", "RT-01", "RT-03", "RT-04", "WL-01", "WL-02", "WL-03", "WL-04",
    ] {
        assert!(covered.contains(id), "{id} is covered by no rule");
    }
}

#[test]
fn every_recorded_event_is_used_small_and_without_secrets() {
    let rules = builtin().unwrap();
    let used: BTreeSet<&str> =
        rules.iter().flat_map(|r| &r.tests).flat_map(|t| &t.events).map(|e| e.base.as_str()).collect();
    for name in base_events() {
        assert!(used.contains(name), "no test uses {name}");
        let text = base_event(name).unwrap();
        assert!(text.len() < 8 * 1024, "{name} has {} bytes", text.len());
        let event: serde_json::Value = serde_json::from_str(text).unwrap();
        let falco = event["source"] == "syscall" && event["output_fields"].is_object();
        assert!(falco || event["kind"] == "Event", "{name}");
        for noise in ["managedFields", "eyJ", "PRIVATE KEY"] {
            assert!(!text.contains(noise), "{name} holds {noise}");
        }
    }
}

#[test]
fn every_case_makes_its_events() {
    for rule in builtin().unwrap() {
        for event in rule.tests.iter().flat_map(|test| case_events(test, &rule).unwrap()) {
            serde_json::from_slice::<serde_json::Value>(&event.bytes).unwrap();
        }
    }
}

/// The fields that serde knows of a type, as it tells them to whoever names another.
fn fields<T: serde::de::DeserializeOwned + std::fmt::Debug>() -> BTreeSet<String> {
    let error = serde_json::from_value::<T>(serde_json::json!({"?": 0})).unwrap_err().to_string();
    error.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect()
}

#[test]
fn the_schema_for_editors_knows_every_field() {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../rule.schema.json")).unwrap();
    for (place, known) in [
        ("/properties", fields::<Rule>()),
        ("/$defs/step/properties", fields::<Step>()),
        ("/$defs/test/properties", fields::<RuleTest>()),
        ("/$defs/event/properties", fields::<TestEvent>()),
    ] {
        let named: BTreeSet<String> = schema.pointer(place).unwrap().as_object().unwrap().keys().cloned().collect();
        assert_eq!(named, known, "{place}");
    }
}

/// The YAML in the document, without what it is indented by.
fn blocks() -> Vec<String> {
    let document = include_str!("../../docs/writing-rules.md");
    let blocks = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let flush = |block: &str| {
        let indent = block.len() - block.trim_start().len();
        block.lines().map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect()
    };
    blocks.map(flush).collect()
}

#[test]
fn the_documents_overlay_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    for block in blocks().iter().filter(|block| !block.starts_with("id: ")) {
        let exceptions = block.starts_with("- rule: ");
        let name = if exceptions { "exceptions/e.yaml" } else { "overrides.yaml" };
        let path = folder.path().join(name);
        assert!(!path.exists(), "another example: {block}");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, block).unwrap();
    }
    assert!(folder.path().join("exceptions/e.yaml").exists() && folder.path().join("overrides.yaml").exists());
    let before = builtin().unwrap().len();
    let config = Config { overlay: Some(folder.path().to_owned()), ..Config::default() };
    let set = config.load().unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!(set.rules.len(), before - 1);
}

#[test]
fn the_documents_examples_lint_clean() {
    let blocks = blocks();
    let of_rules = blocks.iter().filter(|block| block.starts_with("id: "));
    let examples: Vec<Rule> = of_rules.map(|block| serde_saphyr::from_str(block).unwrap()).collect();
    let kinds: BTreeSet<&str> = examples.iter().map(|rule| rule.kind.name()).collect();
    assert_eq!(kinds.len(), 6, "{kinds:?}");
    for rule in &examples {
        assert_eq!(lint(rule, &Default::default()), [], "{}", rule.id);
    }
}
