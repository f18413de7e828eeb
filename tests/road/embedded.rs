//! The road in one process: webhook, embedded journal, rules, lake, SQL. Needs nothing else installed.

use crate::deployment::Embedded;
use crate::facts::Facts;
use crate::load::{self, Part, Sender};
use crate::program::{Program, until};

pub const COUNTS: &str = "SELECT count(*), count(DISTINCT event_id) FROM audit";

#[test]
fn counts_are_exact_and_a_redelivery_adds_nothing() {
    let place = Embedded::new();
    let folder = tempfile::tempdir().unwrap();
    let part = load::parts(folder.path(), 11, 1, 1500).remove(0);
    let serve = place.serve();
    let to = format!("http://{}", serve.address());

    let said = place.settings.succeed(&["send", "--generate", "2000", "--cluster", "made", "--to", &to]);
    assert!(said.starts_with("2000 events, "), "{said}");
    send_twice(&part, &serve);
    until("both deliveries are evaluated", || duplicates(&serve) >= 1500.0);
    assert_eq!(serve.metric("vedette_events_accepted_total", &[]), 5000.0);
    until("rows are stored", || place.settings.numbers(COUNTS)[0] >= 3500);
    let by_cluster = "SELECT cluster, count(*), count(DISTINCT event_id) FROM audit GROUP BY cluster ORDER BY cluster";
    assert_eq!(place.settings.rows(by_cluster), ["default,1500,1500", "made,2000,2000"]);
    serve.drain();

    let before = Facts::of(&place.settings);
    assert!(before.rows("alerts") > 50 && before.rows("containers") > 50, "{}", before.rows("alerts"));
    before.are_unique(&["audit", "alerts"]);

    // A restart does not forget: what comes again is recognised by what the store holds.
    let serve = place.serve();
    send_twice(&part, &serve);
    until("the third and fourth delivery are evaluated", || duplicates(&serve) >= 3000.0);
    serve.drain();
    Facts::of(&place.settings).agree(&before);
}

fn send_twice(part: &Part, serve: &Program) {
    for _ in 0..2 {
        Sender::start(part, serve.address(), 100_000).finish();
    }
}

fn duplicates(program: &Program) -> f64 {
    program.metric("vedette_events_duplicate_total", &[])
}

#[test]
fn what_can_not_be_parsed_is_a_dead_letter_and_its_neighbours_are_stored() {
    let place = Embedded::new();
    let serve = place.serve();
    for path in ["/livez", "/readyz"] {
        assert_eq!(serve.get(path).0, 200, "{path}");
    }
    let body = concat!(
        r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"a","verb":"get"}"#,
        "\nthis is no event\n",
        r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"b","verb":"list"}"#,
        "\n",
    );
    assert_eq!(serve.post("/v1/audit/prod", body).0, 200);
    assert_eq!(serve.post("/v1/audit/prod", r#"{"kind":"EventList","items":[{"auditID":"c","verb":"#).0, 200);
    assert_eq!(serve.post("/v1/falco/prod", "[1, 2").0, 200);
    let dead = |source: &str| serve.metric("vedette_dead_letters_total", &[r#"cluster="prod""#, source]);
    until("dead letters are counted", || dead("source=\"audit\"") == 2.0 && dead("source=\"falco\"") >= 1.0);
    until("the good ones are stored", || place.settings.numbers(COUNTS) == [2, 2]);
    assert_eq!(place.settings.rows("SELECT verb FROM audit ORDER BY verb"), ["get", "list"]);
    serve.drain();
    assert_eq!(place.settings.numbers(COUNTS), [2, 2]);
}

/// When serve is killed, in the middle of a part's delivery.
enum Moment {
    /// So many events of the part are acknowledged.
    Accepted(f64),
    /// The lake has one more commit in the table. The tables are stored one after another, events last.
    Committed(&'static str),
}

impl Moment {
    fn measure(&self, place: &Embedded, serve: &Program) -> f64 {
        match self {
            Moment::Accepted(_) => serve.metric("vedette_events_accepted_total", &[]),
            Moment::Committed(table) => place.commits(table) as f64,
        }
    }

    fn step(&self) -> f64 {
        match self {
            Moment::Accepted(events) => *events,
            Moment::Committed(_) => 1.0,
        }
    }
}

#[test]
fn kill_9_in_mid_stream_loses_nothing_and_repeats_nothing() {
    let moments = [
        Moment::Accepted(300.0),
        Moment::Committed("alerts"),
        Moment::Committed("containers"),
        Moment::Committed("role_subjects"),
        Moment::Committed("audit"),
        Moment::Accepted(600.0),
    ];
    let folder = tempfile::tempdir().unwrap();
    let parts = load::parts(folder.path(), 12, moments.len(), 1200);
    let undisturbed = undisturbed(&parts);

    let place = Embedded::new();
    let mut serve = place.serve();
    let mut senders = Vec::new();
    let mut in_mid_stream = 0;
    for (part, moment) in parts.iter().zip(&moments) {
        let before = moment.measure(&place, &serve);
        let mut sender = Sender::start(part, serve.address(), 300);
        until("the moment to kill", || moment.measure(&place, &serve) >= before + moment.step());
        serve.kill();
        in_mid_stream += u32::from(sender.is_sending());
        senders.push(sender);
        serve = place.serve();
    }
    assert!(in_mid_stream >= 3, "only {in_mid_stream} kills met a sender at work");
    senders.into_iter().for_each(Sender::finish);
    until("every event is stored", || place.settings.numbers(COUNTS)[0] >= load::total(&parts));
    serve.drain();

    assert_eq!(place.settings.numbers(COUNTS), [load::total(&parts); 2]);
    let alerts = place.settings.numbers("SELECT count(*), count(DISTINCT alert_id) FROM alerts");
    assert_eq!(alerts[0], alerts[1]);
    Facts::of(&place.settings).agree(&undisturbed);
}

#[test]
fn sigterm_in_mid_stream_drains() {
    let folder = tempfile::tempdir().unwrap();
    let parts = load::parts(folder.path(), 13, 1, 1500);
    let undisturbed = undisturbed(&parts);

    let place = Embedded::new();
    let serve = place.serve();
    let sender = Sender::start(&parts[0], serve.address(), 700);
    until("events come in", || serve.metric("vedette_events_accepted_total", &[]) >= 500.0);
    serve.drain();
    // What was accepted is stored; the rest is with the sender, who comes back.
    let drained = place.settings.numbers(COUNTS);
    assert!((500..1500).contains(&drained[0]) && drained[0] == drained[1], "{drained:?}");
    let serve = place.serve();
    sender.finish();
    until("every event is stored", || place.settings.numbers(COUNTS)[0] >= 1500);
    serve.drain();
    Facts::of(&place.settings).agree(&undisturbed);
}

/// What the lake holds after these events and nothing else.
pub fn undisturbed(parts: &[Part]) -> Facts {
    let place = Embedded::new();
    let serve = place.serve();
    for part in parts {
        Sender::start(part, serve.address(), 100_000).finish();
    }
    until("every event is stored", || place.settings.numbers(COUNTS)[0] >= load::total(parts));
    serve.drain();
    let facts = Facts::of(&place.settings);
    assert_eq!(facts.rows("audit"), load::total(parts));
    facts.are_unique(&["audit", "alerts", "role_rules", "role_subjects"]);
    facts
}
