//! The lake in an object store: the same road, and the same answers after kills.

use crate::deployment::Embedded;
use crate::embedded::{COUNTS, undisturbed};
use crate::facts::Facts;
use crate::load::{self, Sender};
use crate::program::until;

#[test]
fn kill_9_in_mid_stream_loses_nothing_and_repeats_nothing() {
    let Some(mut place) = Embedded::in_a_bucket() else { return };
    // Files are merged all the while.
    place.settings = place.settings.with("STORE__LAKE__MAINTAIN_SECONDS", 1).with("STORE__LAKE__COMPACTION_FILES", 2);
    let folder = tempfile::tempdir().unwrap();
    let parts = load::parts(folder.path(), 14, 3, 1200);
    let mut serve = place.serve();
    let mut senders = Vec::new();
    for part in &parts {
        let before = serve.metric("vedette_events_accepted_total", &[]);
        senders.push(Sender::start(part, serve.address(), 300));
        until("events come in", || serve.metric("vedette_events_accepted_total", &[]) >= before + 500.0);
        serve.kill();
        serve = place.serve();
    }
    senders.into_iter().for_each(Sender::finish);
    until("every event is stored", || place.settings.numbers(COUNTS)[0] >= load::total(&parts));
    serve.drain();
    assert_eq!(place.settings.numbers(COUNTS), [load::total(&parts); 2]);
    Facts::of(&place.settings).agree(&undisturbed(&parts));
}
