//! An audit event typed for rsigma-eval, as a careful user of it would write: text borrowed from the event's bytes, a field
//! found by one comparison of its whole path, the body parsed only when a rule asks for it.

use std::borrow::Cow;
use std::cell::OnceCell;

use rsigma_eval::{Event, EventValue};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The path of the authorizer's decision.
pub const DECISION: &str = "annotations.authorization.k8s.io/decision";

const BODY: &str = "requestObject.";

type Text<'a> = Option<Cow<'a, str>>;

/// What rules ask for; the rest is skipped.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent<'a> {
    #[serde(borrow)]
    verb: Text<'a>,
    #[serde(borrow)]
    stage: Text<'a>,
    #[serde(borrow)]
    user_agent: Text<'a>,
    #[serde(borrow, rename = "requestURI")]
    request_uri: Text<'a>,
    #[serde(borrow, default)]
    user: User<'a>,
    #[serde(borrow)]
    impersonated_user: Option<User<'a>>,
    #[serde(borrow)]
    object_ref: Option<ObjectReference<'a>>,
    response_status: Option<Status>,
    #[serde(borrow)]
    annotations: Option<Annotations<'a>>,
    #[serde(borrow)]
    request_object: Option<&'a RawValue>,
    #[serde(skip)]
    body: OnceCell<Value>,
}

#[derive(Deserialize, Default)]
struct User<'a> {
    #[serde(borrow)]
    username: Text<'a>,
    #[serde(borrow, default)]
    groups: Vec<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectReference<'a> {
    #[serde(borrow)]
    resource: Text<'a>,
    #[serde(borrow)]
    subresource: Text<'a>,
    #[serde(borrow)]
    namespace: Text<'a>,
    #[serde(borrow)]
    api_group: Text<'a>,
}

#[derive(Deserialize)]
struct Status {
    code: Option<i64>,
}

#[derive(Deserialize)]
struct Annotations<'a> {
    #[serde(borrow, rename = "authorization.k8s.io/decision")]
    decision: Text<'a>,
}

fn text<'a>(value: &'a Text<'_>) -> Option<EventValue<'a>> {
    value.as_deref().map(|text| EventValue::Str(Cow::Borrowed(text)))
}

impl AuditEvent<'_> {
    fn in_body(&self, path: &str) -> Option<EventValue<'_>> {
        let raw = self.request_object?;
        let body = self.body.get_or_init(|| serde_json::from_str(raw.get()).unwrap_or_default());
        find(body, path)
    }
}

impl Event for AuditEvent<'_> {
    fn get_field(&self, path: &str) -> Option<EventValue<'_>> {
        match path {
            "verb" => text(&self.verb),
            "stage" => text(&self.stage),
            "userAgent" => text(&self.user_agent),
            "requestURI" => text(&self.request_uri),
            "user.username" => text(&self.user.username),
            "user.groups" => {
                let groups = self.user.groups.iter().map(|group| EventValue::Str(Cow::Borrowed(group)));
                Some(EventValue::Array(groups.collect()))
            }
            "impersonatedUser.username" => text(&self.impersonated_user.as_ref()?.username),
            "objectRef.resource" => text(&self.object_ref.as_ref()?.resource),
            "objectRef.subresource" => text(&self.object_ref.as_ref()?.subresource),
            "objectRef.namespace" => text(&self.object_ref.as_ref()?.namespace),
            "objectRef.apiGroup" => text(&self.object_ref.as_ref()?.api_group),
            "responseStatus.code" => self.response_status.as_ref()?.code.map(EventValue::Int),
            DECISION => text(&self.annotations.as_ref()?.decision),
            path => self.in_body(path.strip_prefix(BODY)?),
        }
    }

    /// The roots of the paths that rules ask for, by which the engine chooses the fields to probe.
    fn visit_top_level_keys(&self, visit: &mut dyn FnMut(&str)) -> bool {
        ["verb", "stage", "userAgent", "requestURI", "user"].into_iter().for_each(&mut *visit);
        let sometimes = [
            ("objectRef", self.object_ref.is_some()),
            ("responseStatus", self.response_status.is_some()),
            ("annotations", self.annotations.is_some()),
            ("impersonatedUser", self.impersonated_user.is_some()),
            ("requestObject", self.request_object.is_some()),
        ];
        sometimes.into_iter().filter(|(_, present)| *present).for_each(|(key, _)| visit(key));
        true
    }

    // Rules without a field and correlations ask these; none of the rules here does.

    fn any_string_value(&self, _: &dyn Fn(&str) -> bool) -> bool {
        false
    }

    fn all_string_values(&self) -> Vec<Cow<'_, str>> {
        Vec::new()
    }

    fn to_json(&self) -> Value {
        Value::Null
    }
}

/// What a path leads to; through a list without an index, what it leads to in each element.
fn find<'a>(mut value: &'a Value, path: &str) -> Option<EventValue<'a>> {
    let mut left = path;
    while !left.is_empty() {
        if let Value::Array(elements) = value {
            let mut found: Vec<_> = elements.iter().filter_map(|element| find(element, left)).collect();
            return if found.len() < 2 { found.pop() } else { Some(EventValue::Array(found)) };
        }
        let (step, rest) = left.split_once('.').unwrap_or((left, ""));
        left = rest;
        value = match step.split_once('[') {
            None => value.get(step)?,
            Some((key, index)) => value.get(key)?.get(index.trim_end_matches(']').parse::<usize>().ok()?)?,
        };
    }
    Some(EventValue::from(value))
}
