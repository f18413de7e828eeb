//! Rows of `role_rules` and `role_subjects`.

use std::borrow::Cow;

use super::body::{self, Metadata};
use super::cells::Rows;
use super::source::Write;
use super::tolerant::Maybe;

/// Appends a row for each policy rule of the role written.
pub fn append_rules(write: &Write<'_>, role_kind: &str, rows: &mut Rows) {
    let Some((body, role)) = write.read(body::role) else { return };
    let name = write.name.or_else(|| name(&role.metadata));
    for (index, rule) in role.rules.0.iter().flatten().enumerate() {
        rows.start(write.event, name, body)
            .text(Some(role_kind))
            .integer(Some(index as i64))
            .list(rule.verbs.0.iter().flatten())
            .list(rule.api_groups.0.iter().flatten())
            .list(rule.resources.0.iter().flatten())
            .list(rule.resource_names.0.iter().flatten())
            .list(rule.non_resource_urls.0.iter().flatten());
    }
}

/// Appends a row for each subject of the binding written.
pub fn append_subjects(write: &Write<'_>, binding_kind: &str, rows: &mut Rows) {
    let Some((body, binding)) = write.read(body::binding) else { return };
    let name = write.name.or_else(|| name(&binding.metadata));
    let role = binding.role_ref.0.as_ref();
    for (index, subject) in binding.subjects.0.iter().flatten().enumerate() {
        rows.start(write.event, name, body)
            .text(Some(binding_kind))
            .text(role.and_then(|role| text(&role.kind)))
            .text(role.and_then(|role| text(&role.name)))
            .integer(Some(index as i64))
            .text(text(&subject.kind))
            .text(text(&subject.name))
            .text(text(&subject.namespace));
    }
}

fn name<'a>(metadata: &'a Maybe<Metadata<'_>>) -> Option<&'a str> {
    text(&metadata.0.as_ref()?.name)
}

fn text<'a>(field: &'a Maybe<Cow<'_, str>>) -> Option<&'a str> {
    field.0.as_deref()
}
