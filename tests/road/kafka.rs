//! The road as stages of their own: webhook, real Kafka, rules, real ClickHouse, SQL. Needs the services.

use std::time::{Duration, Instant};

use crate::deployment::Staged;
use crate::embedded::undisturbed;
use crate::facts::Facts;
use crate::load::{self, Part, Sender};
use crate::program::{PATIENCE, Program, until};

const COUNTS: &str = "SELECT count(*), count(DISTINCT event_id) FROM audit";

#[test]
fn counts_are_exact_through_kafka_and_clickhouse() {
    let Some(place) = Staged::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let parts = load::parts(folder.path(), 21, 1, 3000);
    let undisturbed = undisturbed(&parts);
    let (ingest, analytics) = (place.ingest(), place.analytics());

    for round in 1..=2 {
        Sender::start(&parts[0], ingest.address(), 100_000).finish();
        until("the delivery is evaluated", || evaluated(&analytics) >= f64::from(round) * 3000.0);
        until("every event is stored", || stored(&place) >= 3000);
    }
    assert_eq!(ingest.post("/v1/audit/default", "no event\n").0, 200);
    assert_eq!(ingest.metric("vedette_dead_letters_total", &[]), 1.0);
    assert_eq!(analytics.get("/livez").0, 200);
    until("the lag is gone", || analytics.metric("vedette_journal_lag_records", &[]) == 0.0);
    ingest.drain();
    analytics.drain();
    check(&place, &parts, &undisturbed);
}

#[test]
fn kill_9_of_ingest_in_mid_stream_loses_nothing_and_repeats_nothing() {
    let Some(place) = Staged::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let parts = load::parts(folder.path(), 22, 4, 1500);
    let undisturbed = undisturbed(&parts);
    let analytics = place.analytics();
    let mut ingest = place.ingest();
    let mut senders = Vec::new();
    for (part, events) in parts.iter().zip([150.0, 400.0, 700.0, 950.0]) {
        let accepted = |ingest: &Program| ingest.metric("vedette_events_accepted_total", &[]);
        let before = accepted(&ingest);
        let mut sender = Sender::start(part, ingest.address(), 1000);
        until("the moment to kill", || accepted(&ingest) >= before + events);
        ingest.kill();
        assert!(sender.is_sending(), "the kill met no sender at work");
        senders.push(sender);
        ingest = place.ingest();
    }
    senders.into_iter().for_each(Sender::finish);
    wait_until_stored(&place, load::total(&parts), &analytics);
    ingest.drain();
    analytics.drain();
    check(&place, &parts, &undisturbed);
}

#[test]
fn kill_9_of_analytics_in_mid_stream_loses_nothing_and_repeats_nothing() {
    let Some(mut place) = Staged::new() else { return };
    // Nothing beside what is delivered again is looked up, so that what is looked up must be right.
    place.settings = place.settings.with("ANALYTICS__SEEN_MINUTES", 0);
    let folder = tempfile::tempdir().unwrap();
    // Killed as soon as ClickHouse has rows of the table: findings are stored first, derived rows next, events last. Without
    // a table, as soon as more is evaluated.
    let moments = [None, Some("alerts"), Some("containers"), Some("role_subjects"), Some("audit")];
    let parts = load::parts(folder.path(), 23, moments.len(), 1500);
    let undisturbed = undisturbed(&parts);
    let ingest = place.ingest();
    let mut analytics = place.analytics();
    let mut senders = Vec::new();
    for (part, table) in parts.iter().zip(moments) {
        let measure = |analytics: &Program| match table {
            None => evaluated(analytics) as u64,
            Some(table) => place.services.number(&format!("SELECT count() FROM {table}")),
        };
        let before = measure(&analytics);
        senders.push(Sender::start(part, ingest.address(), 500));
        until("the moment to kill", || measure(&analytics) > before);
        analytics.kill();
        analytics = place.analytics();
    }
    senders.into_iter().for_each(Sender::finish);
    wait_until_stored(&place, load::total(&parts), &analytics);
    ingest.drain();
    analytics.drain();
    check(&place, &parts, &undisturbed);
}

/// Events that the analytics process has dealt with, those that it recognised as known included.
fn evaluated(analytics: &Program) -> f64 {
    analytics.metric("vedette_events_evaluated_total", &[]) + analytics.metric("vedette_events_duplicate_total", &[])
}

fn stored(place: &Staged) -> u64 {
    place.services.number("SELECT count() FROM audit")
}

#[track_caller]
fn wait_until_stored(place: &Staged, events: u64, analytics: &Program) {
    let started = Instant::now();
    while stored(place) < events {
        let of = |name: &str| analytics.metric(name, &[]);
        assert!(
            started.elapsed() < PATIENCE,
            "{} of {events} events are stored; evaluated {}, known before {}, lag {}; the log:\n{}",
            stored(place),
            of("vedette_events_evaluated_total"),
            of("vedette_events_duplicate_total"),
            of("vedette_journal_lag_records"),
            analytics.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asks ClickHouse itself, with FINAL and without, and the program; everything must agree with the undisturbed run.
fn check(place: &Staged, parts: &[Part], undisturbed: &Facts) {
    assert_eq!(place.settings.numbers(COUNTS), [load::total(parts); 2]);
    let native = place.settings.succeed(&[
        "query",
        "--native",
        "--format",
        "csv",
        "SELECT count(), uniqExact(event_id) FROM audit",
    ]);
    let total = load::total(parts);
    assert_eq!(native.lines().nth(1), Some(format!("{total},{total}").as_str()));

    let ask = |modifier: &str| {
        Facts::ask(|table, id| {
            let answer = place.services.clickhouse(&format!("SELECT {id} AS id FROM {table} {modifier}"));
            answer.lines().map(str::to_owned).collect()
        })
    };
    ask("").agree(undisturbed);
    ask("FINAL").agree(undisturbed);
    Facts::of(&place.settings).agree(undisturbed);
}
