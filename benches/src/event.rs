//! One audit event: its parts, and how they are written as JSON.

use crate::clock::MicroTime;
use crate::random::Random;
use crate::text::put;
use crate::user::User;

/// What a request is about.
#[derive(Clone, Copy)]
pub(crate) struct Resource {
    pub plural: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub cluster_wide: bool,
}

pub(crate) struct Event {
    pub level: &'static str,
    pub stage: &'static str,
    pub verb: &'static str,
    pub resource: Resource,
    /// Empty for cluster-wide resources.
    pub namespace: &'static str,
    /// Empty for lists and the like.
    pub name: String,
    pub subresource: &'static str,
    /// The query of the URI, with its question mark.
    pub query: String,
    pub user: User,
    /// The `impersonatedUser` object, or nothing.
    pub impersonated: &'static str,
    pub code: u16,
    /// Bodies; empty for none.
    pub request_body: String,
    pub response_body: String,
}

impl Event {
    pub fn write(&self, random: &mut Random, received: i64, out: &mut String) {
        put!(
            out,
            r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"{}","auditID":"{}","stage":"{}","requestURI":""#,
            self.level,
            random.uuid(),
            self.stage
        );
        self.write_uri(out);
        put!(out, r#"","verb":"{}","user":{}"#, self.verb, self.user.json);
        if !self.impersonated.is_empty() {
            put!(out, r#","impersonatedUser":{}"#, self.impersonated);
        }
        put!(out, r#","sourceIPs":[{}],"userAgent":"{}","objectRef":"#, self.user.addresses, self.user.agent);
        self.write_object_reference(random, out);
        self.write_response_status(out);
        if !self.request_body.is_empty() {
            put!(out, r#","requestObject":{}"#, self.request_body);
        }
        if !self.response_body.is_empty() {
            put!(out, r#","responseObject":{}"#, self.response_body);
        }
        let took = 500 + random.below(20_000) as i64;
        put!(
            out,
            r#","requestReceivedTimestamp":"{}","stageTimestamp":"{}","annotations":"#,
            MicroTime(received),
            MicroTime(received + took)
        );
        self.write_annotations(random, out);
        out.push('}');
    }

    fn write_uri(&self, out: &mut String) {
        let Resource { plural, group, version, .. } = self.resource;
        match group {
            "" => put!(out, "/api/{version}"),
            _ => put!(out, "/apis/{group}/{version}"),
        }
        if !self.namespace.is_empty() {
            put!(out, "/namespaces/{}", self.namespace);
        }
        put!(out, "/{plural}");
        // A create is sent to the collection: its name is only in the body.
        if !self.name.is_empty() && (self.verb != "create" || !self.subresource.is_empty()) {
            put!(out, "/{}", self.name);
        }
        if !self.subresource.is_empty() {
            put!(out, "/{}", self.subresource);
        }
        out.push_str(&self.query);
    }

    fn write_object_reference(&self, random: &mut Random, out: &mut String) {
        let Resource { plural, group, version, .. } = self.resource;
        put!(out, r#"{{"resource":"{plural}""#);
        let mut field = |name: &str, value: &str| {
            if !value.is_empty() {
                put!(out, r#","{name}":"{value}""#);
            }
        };
        field("namespace", self.namespace);
        field("name", &self.name);
        if matches!(self.verb, "update" | "delete") {
            field("uid", &random.uuid());
        }
        field("apiGroup", group);
        field("apiVersion", version);
        if self.verb == "update" {
            field("resourceVersion", &random.below(900_000_000).to_string());
        }
        field("subresource", self.subresource);
        out.push('}');
    }

    fn write_response_status(&self, out: &mut String) {
        let code = self.code;
        if code < 400 {
            put!(out, r#","responseStatus":{{"metadata":{{}},"code":{code}}}"#);
            return;
        }
        put!(
            out,
            r#","responseStatus":{{"metadata":{{}},"status":"Failure","message":"{}","reason":"{}","details":{{"name":"{}","kind":"{}"}},"code":{code}}}"#,
            self.refusal(),
            reason(code),
            self.name,
            self.resource.plural
        );
    }

    /// The message of a failed request, escaped for JSON.
    pub fn refusal(&self) -> String {
        let Resource { plural, group, .. } = self.resource;
        match self.code {
            401 => "Unauthorized".into(),
            404 => format!(r#"{plural} \"{}\" not found"#, self.name),
            409 => format!(r#"{plural} \"{}\" already exists"#, self.name),
            _ => format!(
                r#"{plural} \"{}\" is forbidden: User \"{}\" cannot {} resource \"{plural}\" in API group \"{group}\" in the namespace \"{}\""#,
                self.name, self.user.name, self.verb, self.namespace
            ),
        }
    }

    fn write_annotations(&self, random: &mut Random, out: &mut String) {
        let decision = if matches!(self.code, 401 | 403) { "forbid" } else { "allow" };
        let reason = if decision == "allow" { self.user.reason.as_str() } else { "" };
        put!(out, r#"{{"authorization.k8s.io/decision":"{decision}","authorization.k8s.io/reason":"{reason}""#);
        if self.resource.plural == "pods" && !self.request_body.is_empty() {
            out.push_str(r#","pod-security.kubernetes.io/audit-violations":"would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c0\" must set securityContext.allowPrivilegeEscalation=false)","pod-security.kubernetes.io/enforce-policy":"privileged:latest""#);
        }
        if random.once_in(40) {
            out.push_str(r#","k8s.io/deprecated":"true","k8s.io/removed-release":"1.36""#);
        }
        out.push('}');
    }
}

/// The `reason` that goes with an HTTP status.
pub(crate) fn reason(code: u16) -> &'static str {
    match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "AlreadyExists",
        _ => "InternalError",
    }
}
