//! Which events of a batch write an object that the derived tables show. Decided on dictionary values first, so that a
//! batch without such events costs next to nothing.

use arrow::array::{Array, AsArray, DictionaryArray, StringArray, StringViewArray};
use arrow::datatypes::Int32Type;
use arrow::record_batch::RecordBatch;

/// What kind of object a resource holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    Pods(Holder),
    /// With its kind.
    Role(&'static str),
    /// With its kind.
    Binding(&'static str),
}

/// Where an object keeps its pod spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// `spec`
    Pod,
    /// `template.spec`
    PodTemplate,
    /// `spec.template.spec`
    Workload,
    /// `spec.jobTemplate.spec.template.spec`
    CronJob,
}

impl Object {
    fn of_resource(resource: &str) -> Option<Self> {
        Some(match resource {
            "pods" => Object::Pods(Holder::Pod),
            "podtemplates" => Object::Pods(Holder::PodTemplate),
            "replicationcontrollers" | "deployments" | "replicasets" | "statefulsets" | "daemonsets" | "jobs" => {
                Object::Pods(Holder::Workload)
            }
            "cronjobs" => Object::Pods(Holder::CronJob),
            "roles" => Object::Role("Role"),
            "clusterroles" => Object::Role("ClusterRole"),
            "rolebindings" => Object::Binding("RoleBinding"),
            "clusterrolebindings" => Object::Binding("ClusterRoleBinding"),
            _ => return None,
        })
    }
}

/// One write of such an object.
pub struct Write<'a> {
    /// Row of the audit batch.
    pub event: usize,
    pub object: Object,
    pub name: Option<&'a str>,
    pub verb: &'a str,
    /// responseObject and requestObject, each with what the `body` column calls it, in order of preference.
    pub bodies: [(&'static str, Option<&'a str>); 2],
}

impl<'a> Write<'a> {
    /// The object as `read` finds it in the response, else in the request, with what the `body` column calls that.
    pub fn read<T>(&self, read: impl Fn(&'a str) -> Option<T>) -> Option<(&'static str, T)> {
        self.bodies.iter().find_map(|(body, text)| Some((*body, read((*text)?)?)))
    }
}

/// The columns of an audit batch that decide.
pub struct Source<'a> {
    resource: &'a DictionaryArray<Int32Type>,
    objects: Vec<Option<Object>>,
    verb: &'a DictionaryArray<Int32Type>,
    verb_counts: Vec<bool>,
    api_group: &'a DictionaryArray<Int32Type>,
    api_group_counts: Vec<bool>,
    subresource: &'a DictionaryArray<Int32Type>,
    name: &'a StringViewArray,
    request_object: &'a StringViewArray,
    response_object: &'a StringViewArray,
}

impl<'a> Source<'a> {
    /// `None` if no event of the batch can give rows.
    pub fn of(audit: &'a RecordBatch) -> Option<Self> {
        let label = |name| column(audit, name).as_dictionary::<Int32Type>();
        let text = |name| column(audit, name).as_string_view();
        let resource = label("resource");
        let objects = by_value(resource, Object::of_resource);
        let verb = label("verb");
        let verb_counts = by_value(verb, |verb| matches!(verb, "create" | "update" | "patch"));
        if !objects.iter().any(Option::is_some) || !verb_counts.contains(&true) {
            return None;
        }
        let api_group = label("api_group");
        // Other groups have resources of the same names, such as Volcano's jobs.
        let own = ["", "apps", "batch", "extensions", "rbac.authorization.k8s.io"];
        let api_group_counts = by_value(api_group, |group| own.contains(&group));
        Some(Self {
            resource,
            objects,
            verb,
            verb_counts,
            api_group,
            api_group_counts,
            subresource: label("subresource"),
            name: text("name"),
            request_object: text("request_object"),
            response_object: text("response_object"),
        })
    }

    pub fn writes(&self) -> impl Iterator<Item = Write<'a>> {
        (0..self.resource.len()).filter_map(|event| self.write(event))
    }

    fn write(&self, event: usize) -> Option<Write<'a>> {
        let object = self.objects[self.resource.key(event)?]?;
        let verb = self.verb.key(event)?;
        if !self.verb_counts[verb] {
            return None;
        }
        if self.api_group.key(event).is_some_and(|group| !self.api_group_counts[group]) {
            return None;
        }
        let subresource = value(self.subresource, event).unwrap_or_default();
        let is_pod = object == Object::Pods(Holder::Pod);
        if !(subresource.is_empty() || is_pod && subresource == "ephemeralcontainers") {
            return None;
        }
        Some(Write {
            event,
            object,
            name: text(self.name, event),
            verb: value(self.verb, event)?,
            bodies: [("response", text(self.response_object, event)), ("request", text(self.request_object, event))],
        })
    }
}

fn column<'a>(audit: &'a RecordBatch, name: &str) -> &'a dyn Array {
    match audit.column_by_name(name) {
        Some(column) => column.as_ref(),
        None => panic!("a batch of the audit table has a column {name}"),
    }
}

fn values(label: &DictionaryArray<Int32Type>) -> &StringArray {
    label.values().as_string()
}

/// What `decide` says of each value of a dictionary.
fn by_value<T>(label: &DictionaryArray<Int32Type>, decide: impl Fn(&str) -> T) -> Vec<T> {
    values(label).iter().map(|value| decide(value.unwrap_or_default())).collect()
}

fn value(label: &DictionaryArray<Int32Type>, row: usize) -> Option<&str> {
    label.key(row).map(|key| values(label).value(key))
}

fn text(column: &StringViewArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}
