//! API servers' audit webhooks, and whoever sends audit logs on: EventLists, bare events, NDJSON, arrays.

use vedette_journal::{Source, Topic};

use super::Sender;
use crate::split::{Form, Reason};

pub const SENDER: Sender = Sender { source: Source::Audit, topic: Topic::Audit, retries: true, lists: true, objection };

/// An object by itself has to say that it is an event. Items of a list carry no kind.
fn objection(form: &Form) -> Option<Reason> {
    match form {
        Form::Item => None,
        Form::Bare { kind: Some(kind), .. } if kind == "Event" => None,
        Form::Bare { kind: Some(kind), .. } if kind == "EventList" => {
            Some("an EventList whose items are no array".into())
        }
        Form::Bare { kind: Some(kind), .. } => Some(format!("of kind {kind}, not an audit event").into()),
        Form::Bare { kind: None, audit_id: true } => None,
        Form::Bare { kind: None, audit_id: false } => Some("neither kind nor auditID: not an audit event".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::Options;
    use crate::split::split_all;

    fn check(body: &[u8], events: &[&str], reasons: &[&str]) {
        let pieces = split_all(body, Options { lists: true, max_event_bytes: 1 << 20 });
        let (good, bad): (Vec<_>, Vec<_>) =
            pieces.into_iter().map(|piece| SENDER.judge(piece)).partition(Result::is_ok);
        let good: Vec<_> = good.into_iter().flatten().map(|e| String::from_utf8(e.to_vec()).unwrap()).collect();
        assert_eq!(good, events);
        let bad: Vec<_> = bad.into_iter().filter_map(Result::err).map(|r| r.reason.into_owned()).collect();
        assert_eq!(bad.len(), reasons.len(), "{bad:?}");
        for (bad, reason) in bad.iter().zip(reasons) {
            assert!(bad.contains(reason), "{bad} / {reason}");
        }
    }

    #[test]
    fn bare_events_must_say_so() {
        check(br#"{"kind":"Event","level":"Metadata"}"#, &[r#"{"kind":"Event","level":"Metadata"}"#], &[]);
        check(br#"{"auditID":"a"}"#, &[r#"{"auditID":"a"}"#], &[]);
        check(br#"{"kind":"Pod","auditID":"a"}"#, &[], &["kind Pod"]);
        check(br#"{"kind":"PodList","items":[{"a":1}]}"#, &[], &["kind PodList"]);
        check(br#"{"output":"x"}"#, &[], &["neither kind nor auditID"]);
        check(br#"{"kind":"EventList","items":{"a":1}}"#, &[], &["items are no array"]);
    }

    #[test]
    fn an_event_that_is_not_utf8_is_rejected_alone() {
        check(b"{\"kind\":\"EventList\",\"items\":[{\"a\":\"\xff\"},{\"b\":1}]}", &[r#"{"b":1}"#], &["not UTF-8"]);
    }
}
