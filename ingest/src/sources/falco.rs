//! Falco's `http_output` and falcosidekick's webhook: one event a request, or several as an array or NDJSON.

use vedette_journal::{Source, Topic};

use super::Sender;
use crate::split::{Form, Reason};

/// Falco takes no notice of the status: what is not stored by the first request is lost. So its requests wait for room and
/// for the journal as long as `append_timeout_seconds`; only then they are answered 503, logged and counted as rejected.
pub const SENDER: Sender =
    Sender { source: Source::Falco, topic: Topic::Falco, retries: false, lists: false, objection };

/// Any object may be Falco's, except for what is an API server's.
fn objection(form: &Form) -> Option<Reason> {
    match form {
        Form::Bare { audit_id: true, .. } => Some("an audit event, not Falco's".into()),
        Form::Bare { kind: Some(kind), .. } if kind == "EventList" => Some("an EventList, not Falco's".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::{Options, split_all};

    fn count(body: &str) -> (usize, usize) {
        let pieces = split_all(body.as_bytes(), Options { lists: false, max_event_bytes: 1 << 20 });
        let judged: Vec<_> = pieces.into_iter().map(|piece| SENDER.judge(piece)).collect();
        (judged.iter().filter(|j| j.is_ok()).count(), judged.iter().filter(|j| j.is_err()).count())
    }

    #[test]
    fn takes_falco_and_leaves_audit() {
        assert_eq!(count(r#"{"rule":"r","items":[{"a":1}],"output_fields":{}}"#), (1, 0));
        assert_eq!(count(r#"[{"rule":"r"},{"rule":"s"}]"#), (2, 0));
        assert_eq!(count("{\"rule\":\"r\"}\n{\"rule\":\"s\"}\n"), (2, 0));
        assert_eq!(count(r#"{"auditID":"a"}"#), (0, 1));
        assert_eq!(count(r#"{"kind":"EventList","items":[{}]}"#), (0, 1));
        assert_eq!(count("17:03 Notice A shell was spawned"), (0, 1));
    }
}
