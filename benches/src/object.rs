//! Bodies of roles, bindings, secrets and config maps, and the Status that answers a refused request.

use crate::random::Random;
use crate::text::{put, put_list};
use crate::workload::{Place, open_metadata};

/// What bindings refer to, besides cluster-admin. The last ones come with applications.
pub(crate) const ROLES: [&str; 7] =
    ["view", "view", "edit", "edit", "admin", "api-gateway-operator", "postgres-operator"];

pub(crate) fn role(random: &mut Random, out: &mut String, place: Place<'_>) {
    open_rbac(random, out, "ClusterRole", place);
    out.push_str(r#","rules":["#);
    let rules = 4 + random.below(20);
    put_list(out, 0..rules, |out, _| policy_rule(random, out));
    out.push_str("]}");
}

/// A role that gives more than it seems to, as the installation of an operator or a hurried administrator brings it.
pub(crate) fn powerful_role(random: &mut Random, out: &mut String, place: Place<'_>) {
    open_rbac(random, out, "ClusterRole", place);
    let verb = random.pick(&["*", "escalate", "bind", "impersonate"]);
    put!(out, r#","rules":[{{"apiGroups":["*"],"resources":["*"],"verbs":["get","{verb}"]}},"#);
    policy_rule(random, out);
    out.push_str("]}");
}

pub(crate) fn binding(random: &mut Random, out: &mut String, place: Place<'_>, role: &str) {
    open_rbac(random, out, "RoleBinding", place);
    put!(
        out,
        r#","roleRef":{{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"{role}"}},"subjects":["#
    );
    let subjects = 1 + random.below(3);
    put_list(out, 0..subjects, |out, _| subject(random, out, place.namespace));
    out.push_str("]}");
}

pub(crate) fn secret(random: &mut Random, out: &mut String, place: Place<'_>, kind: &str) {
    out.push_str(r#"{"kind":"Secret","apiVersion":"v1","#);
    open_metadata(random, out, place);
    out.push_str(r#","labels":{"owner":"helm","status":"deployed"}},"data":{"#);
    let keys = 1 + random.below(4);
    put_list(out, 0..keys, |out, key| {
        let length = 200 + random.below(800) as usize;
        put!(out, r#""key{key}":"{}""#, random.base64(length));
    });
    put!(out, r#"}},"type":"{kind}"}}"#);
}

pub(crate) fn config_map(random: &mut Random, out: &mut String, place: Place<'_>) {
    out.push_str(r#"{"kind":"ConfigMap","apiVersion":"v1","#);
    open_metadata(random, out, place);
    out.push_str(r#"},"data":{"app.properties":""#);
    for line in 0..random.below(30) {
        put!(out, r"app.setting.{line}=grüße-{}\n", random.hex(12));
    }
    out.push_str(r#""}}"#);
}

/// What the API server answers a refused request with.
pub(crate) fn status(out: &mut String, message: &str, reason: &str, code: u16) {
    put!(
        out,
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"{message}","reason":"{reason}","code":{code}}}"#
    );
}

fn open_rbac(random: &mut Random, out: &mut String, kind: &str, place: Place<'_>) {
    put!(out, r#"{{"kind":"{kind}","apiVersion":"rbac.authorization.k8s.io/v1","#);
    open_metadata(random, out, place);
    put!(
        out,
        r#","annotations":{{"kubectl.kubernetes.io/last-applied-configuration":"{{\"apiVersion\":\"rbac.authorization.k8s.io/v1\",\"kind\":\"{kind}\",\"rules\":[{{\"apiGroups\":[\"\"],\"resources\":[\"pods\"],\"verbs\":[\"get\"]}}]}}\n"}}}}"#
    );
}

fn policy_rule(random: &mut Random, out: &mut String) {
    let first = random.pick(&["pods", "configmaps", "deployments", "statefulsets"]);
    let second = random.pick(&["jobs", "services", "ingresses"]);
    let verb = random.pick(&["create", "delete", "patch", "update"]);
    put!(
        out,
        r#"{{"apiGroups":["","apps"],"resources":["{first}","{second}","{first}/status"],"verbs":["get","list","watch","{verb}"]}}"#
    );
}

fn subject(random: &mut Random, out: &mut String, namespace: &str) {
    match random.below(4) {
        0 => put!(out, r#"{{"kind":"ServiceAccount","name":"svc-{}","namespace":"{namespace}"}}"#, random.below(100)),
        1 => put!(
            out,
            r#"{{"kind":"Group","apiGroup":"rbac.authorization.k8s.io","name":"oidc:team-{}"}}"#,
            random.below(20)
        ),
        _ => put!(
            out,
            r#"{{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"oidc:user{}@example.com"}}"#,
            random.below(300)
        ),
    }
}
