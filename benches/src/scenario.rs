//! What happens in the cluster: how often each kind of request comes, and what it looks like.

use crate::event::{Event, Resource, reason};
use crate::random::Random;
use crate::user::{CERTIFICATES, GITOPS, NAMESPACES, PIPELINE, User};
use crate::workload::Place;
use crate::{object, workload};

const fn namespaced(plural: &'static str, group: &'static str, version: &'static str) -> Resource {
    Resource { plural, group, version, cluster_wide: false }
}

const fn cluster_wide(plural: &'static str, group: &'static str, version: &'static str) -> Resource {
    Resource { plural, group, version, cluster_wide: true }
}

const PODS: Resource = namespaced("pods", "", "v1");
const SECRETS: Resource = namespaced("secrets", "", "v1");
const CONFIG_MAPS: Resource = namespaced("configmaps", "", "v1");
const SERVICE_ACCOUNTS: Resource = namespaced("serviceaccounts", "", "v1");
const DEPLOYMENTS: Resource = namespaced("deployments", "apps", "v1");
const LEASES: Resource = namespaced("leases", "coordination.k8s.io", "v1");
const ROLE_BINDINGS: Resource = namespaced("rolebindings", "rbac.authorization.k8s.io", "v1");
const CLUSTER_ROLES: Resource = cluster_wide("clusterroles", "rbac.authorization.k8s.io", "v1");
const NODES: Resource = cluster_wide("nodes", "", "v1");
const ACCESS_REVIEWS: Resource = cluster_wide("subjectaccessreviews", "authorization.k8s.io", "v1");
const TOKEN_REVIEWS: Resource = cluster_wide("tokenreviews", "authentication.k8s.io", "v1");

const APPLICATIONS: [&str; 6] = ["api-gateway", "billing", "checkout", "ingress", "postgres", "search"];

/// What controllers read all day.
const READ: [Resource; 9] = [
    PODS,
    PODS,
    CONFIG_MAPS,
    NODES,
    DEPLOYMENTS,
    namespaced("endpointslices", "discovery.k8s.io", "v1"),
    namespaced("replicasets", "apps", "v1"),
    namespaced("applications", "argoproj.io", "v1alpha1"),
    cluster_wide("customresourcedefinitions", "apiextensions.k8s.io", "v1"),
];

const IMPERSONATED: [&str; 2] = [
    r#"{"username":"cluster-admin","groups":["ops","system:authenticated"]}"#,
    r#"{"username":"system:serviceaccount:kube-system:default","uid":"5c1ad0f4-5f0e-4cbb-a1f7-2a3a9c9a8e11","groups":["system:serviceaccounts","system:serviceaccounts:kube-system","system:authenticated"],"extra":{"reason":["on-call"]}}"#,
];

/// How daring those are who work in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// People debug, break the glass and make mistakes; strangers knock.
    Lively,
    /// Machines work as they are meant to, and people deploy.
    Ordinary,
}

/// The next event.
pub(crate) fn next(random: &mut Random, now: i64, mood: Mood) -> Event {
    match random.below(1000) {
        0..310 => lease(random),
        310..480 => watch(random),
        480..610 => read(random),
        610..660 => node_status(random),
        660..700 => review(random),
        700..720 => token(random),
        720..859 => write_pod(random, now),
        859..939 => write_deployment(random, now),
        939..956 => write_config_map(random, now),
        956..958 => write_role(random, now, mood),
        958..961 => write_binding(random, now, mood),
        961..963 => write_secret(random, now),
        963..972 => read_secret(random, mood),
        _ if mood == Mood::Ordinary => read(random),
        972..980 => execute(random),
        980..984 => impersonate(random),
        984..994 => refused(random, now),
        _ => unauthenticated(random),
    }
}

/// An event with nothing special about it.
fn plain(random: &mut Random, verb: &'static str, resource: Resource, user: User) -> Event {
    Event {
        level: "Metadata",
        stage: "ResponseComplete",
        verb,
        resource,
        namespace: if resource.cluster_wide { "" } else { random.pick(&NAMESPACES) },
        name: String::new(),
        subresource: "",
        query: String::new(),
        user,
        impersonated: "",
        code: if verb == "create" { 201 } else { 200 },
        request_body: String::new(),
        response_body: String::new(),
    }
}

fn object_name(random: &mut Random) -> String {
    let owner =
        random.pick(&["web", "api-gateway", "worker", "kube-proxy", "coredns", "billing-service", "postgres-operator"]);
    format!("{owner}-{}-{}", random.hex(9), random.hex(5))
}

fn lease(random: &mut Random) -> Event {
    if random.once_in(6) {
        let user = User::controller(random);
        let name = user.name.trim_start_matches("system:").to_owned();
        return Event { namespace: "kube-system", name, ..plain(random, "update", LEASES, user) };
    }
    let user = User::node(random);
    let name = user.name.trim_start_matches("system:node:").to_owned();
    let query = "?timeout=10s".into();
    Event { namespace: "kube-node-lease", name, query, ..plain(random, "update", LEASES, user) }
}

fn watch(random: &mut Random) -> Event {
    let user = if random.once_in(2) { User::node(random) } else { User::service_account(random) };
    let resource = random.pick(&READ);
    let query = format!(
        "?allowWatchBookmarks=true&fieldSelector=metadata.name%3Dkube-root-ca.crt&resourceVersion={}&timeout=7m{}s&timeoutSeconds={}&watch=true",
        random.below(900_000_000),
        random.below(60),
        random.below(600)
    );
    let stage = random.pick(&["ResponseStarted", "ResponseComplete"]);
    Event { query, stage, ..plain(random, "watch", resource, user) }
}

fn read(random: &mut Random) -> Event {
    let user = match random.below(10) {
        0..6 => User::service_account(random),
        6..9 => User::controller(random),
        _ => User::person(random),
    };
    let resource = random.pick(&READ);
    if random.once_in(3) {
        let query = format!("?limit=500&resourceVersion={}", random.below(900_000_000));
        return Event { query, ..plain(random, "list", resource, user) };
    }
    let name = object_name(random);
    let code = if random.once_in(25) { 404 } else { 200 };
    Event { name, code, ..plain(random, "get", resource, user) }
}

fn node_status(random: &mut Random) -> Event {
    let user = User::node(random);
    if random.once_in(2) {
        let name = user.name.trim_start_matches("system:node:").to_owned();
        return Event { name, subresource: "status", ..plain(random, "patch", NODES, user) };
    }
    let name = object_name(random);
    Event { name, subresource: "status", ..plain(random, "patch", PODS, user) }
}

fn review(random: &mut Random) -> Event {
    let user = User::service_account(random);
    let resource = random.pick(&[ACCESS_REVIEWS, TOKEN_REVIEWS]);
    plain(random, "create", resource, user)
}

fn token(random: &mut Random) -> Event {
    let user = User::node(random);
    let name = format!("svc-{}", random.below(100));
    Event { name, subresource: "token", ..plain(random, "create", SERVICE_ACCOUNTS, user) }
}

/// A write with its bodies to come.
fn write(random: &mut Random, resource: Resource, user: User) -> Event {
    let verb = random.pick(&["create", "create", "update", "patch"]);
    let name = object_name(random);
    let level = if random.once_in(3) { "RequestResponse" } else { "Request" };
    Event { name, query: write_query(verb), level, ..plain(random, verb, resource, user) }
}

fn write_query(verb: &str) -> String {
    match verb {
        "create" => String::new(),
        _ => "?fieldManager=kubectl-client-side-apply&fieldValidation=Strict&timeout=10s".into(),
    }
}

/// Who changes access rights: the cluster's state in Git, an operator's installation, and now and then an administrator.
fn rights_writer(random: &mut Random, mood: Mood) -> User {
    match random.below(10) {
        _ if mood == Mood::Ordinary => User::account(random, GITOPS),
        0..7 => User::account(random, GITOPS),
        7 => User::account(random, PIPELINE),
        _ => User::administrator(random),
    }
}

/// Fills in the bodies that the event's level asks for.
fn with_bodies(
    random: &mut Random,
    now: i64,
    mut event: Event,
    body: impl Fn(&mut Random, &mut String, Place<'_>, bool),
) -> Event {
    let place = Place { namespace: event.namespace, name: &event.name, now };
    if event.verb == "patch" {
        match random.below(4) {
            0 => workload::label_patch(random, &mut event.request_body),
            _ => workload::image_patch(random, &mut event.request_body),
        }
    } else {
        body(random, &mut event.request_body, place, false);
    }
    if event.level != "RequestResponse" {
        return event;
    }
    if event.code >= 400 {
        let message = event.refusal();
        object::status(&mut event.response_body, &message, reason(event.code), event.code);
    } else {
        body(random, &mut event.response_body, place, true);
    }
    event
}

/// Most pods are made from templates by the built-in controllers. Those of DaemonSets in kube-system are the node's own
/// agents, and the only ones with a claim to the node.
fn write_pod(random: &mut Random, now: i64) -> Event {
    if random.once_in(30) {
        let user = User::built_in_controller("daemon-set-controller");
        let event =
            Event { verb: "create", namespace: "kube-system", query: String::new(), ..write(random, PODS, user) };
        return with_bodies(random, now, event, workload::agent_pod);
    }
    let user = match random.below(10) {
        0..6 => User::built_in_controller(random.pick(&[
            "replicaset-controller",
            "replicaset-controller",
            "job-controller",
        ])),
        6..9 => User::account(random, PIPELINE),
        _ => User::person(random),
    };
    let event = write(random, PODS, user);
    with_bodies(random, now, event, workload::pod)
}

fn write_deployment(random: &mut Random, now: i64) -> Event {
    let user = match random.below(10) {
        0..3 => User::built_in_controller("deployment-controller"),
        3..6 => User::account(random, GITOPS),
        6..8 => User::account(random, PIPELINE),
        _ => User::person(random),
    };
    let event = write(random, DEPLOYMENTS, user);
    with_bodies(random, now, event, workload::deployment)
}

fn write_role(random: &mut Random, now: i64, mood: Mood) -> Event {
    let user = rights_writer(random, mood);
    let verb = random.pick(&["create", "update"]);
    let name = format!("{}-{}", random.pick(&APPLICATIONS), random.pick(&["operator", "viewer", "metrics"]));
    let event = Event { verb, name, query: write_query(verb), ..write(random, CLUSTER_ROLES, user) };
    let powerful = mood == Mood::Lively && random.once_in(20);
    with_bodies(random, now, event, |random, out, place, _| match powerful {
        true => object::powerful_role(random, out, place),
        false => object::role(random, out, place),
    })
}

fn write_binding(random: &mut Random, now: i64, mood: Mood) -> Event {
    let user = rights_writer(random, mood);
    let verb = random.pick(&["create", "update"]);
    let role = if mood == Mood::Lively && random.once_in(100) { "cluster-admin" } else { random.pick(&object::ROLES) };
    let name = format!("{}-{role}", random.pick(&APPLICATIONS));
    let event = Event { verb, name, query: write_query(verb), ..write(random, ROLE_BINDINGS, user) };
    with_bodies(random, now, event, |random, out, place, _| object::binding(random, out, place, role))
}

fn write_config_map(random: &mut Random, now: i64) -> Event {
    let user = if random.once_in(8) { User::person(random) } else { User::service_account(random) };
    let event = Event { verb: "update", query: write_query("update"), ..write(random, CONFIG_MAPS, user) };
    with_bodies(random, now, event, |random, out, place, _| object::config_map(random, out, place))
}

/// A certificate, or a release as Helm keeps it, with its values, which a careless audit policy lets through.
fn write_secret(random: &mut Random, now: i64) -> Event {
    let application = random.pick(&APPLICATIONS);
    let (account, kind, name) = match random.once_in(2) {
        true => (CERTIFICATES, "kubernetes.io/tls", format!("{application}-tls")),
        false => {
            (PIPELINE, "helm.sh/release.v1", format!("sh.helm.release.v1.{application}.v{}", 1 + random.below(40)))
        }
    };
    let user = User::account(random, account);
    let verb = random.pick(&["create", "update"]);
    let event = Event { verb, name, query: write_query(verb), ..write(random, SECRETS, user) };
    with_bodies(random, now, event, |random, out, place, _| object::secret(random, out, place, kind))
}

/// Nodes read what their pods mount, operators what lies beside them.
fn read_secret(random: &mut Random, mood: Mood) -> Event {
    let name = format!("app-secrets-{}", random.below(9));
    if mood == Mood::Lively && random.once_in(6) {
        let user = User::person(random);
        let name = if random.once_in(4) { String::new() } else { name };
        let verb = if name.is_empty() { "list" } else { "get" };
        return Event { name, ..plain(random, verb, SECRETS, user) };
    }
    if random.once_in(5) {
        let operator = random.pick(&[GITOPS, CERTIFICATES]);
        let user = User::account(random, operator);
        return Event { name, namespace: operator.namespace, ..plain(random, "get", SECRETS, user) };
    }
    let user = User::node(random);
    Event { name, ..plain(random, "get", SECRETS, user) }
}

fn execute(random: &mut Random) -> Event {
    let user = User::person(random);
    let name = object_name(random);
    let (subresource, query) = match random.below(4) {
        0 => ("portforward", "?ports=8080"),
        1 => ("attach", "?container=c0&stdin=true&tty=true"),
        2 => ("exec", "?command=%2Fbin%2Fsh&command=-c&command=cat+%2Fetc%2Fpasswd&container=c0&stdout=true"),
        _ => ("exec", "?command=sh&container=c0&stdin=true&stdout=true&tty=true"),
    };
    let verb = random.pick(&["get", "create"]);
    let stage = random.pick(&["ResponseStarted", "ResponseComplete"]);
    Event { name, subresource, query: query.into(), stage, code: 101, ..plain(random, verb, PODS, user) }
}

fn impersonate(random: &mut Random) -> Event {
    let user = User::administrator(random);
    let impersonated = random.pick(&IMPERSONATED);
    let resource = random.pick(&READ);
    Event { name: object_name(random), impersonated, ..plain(random, "get", resource, user) }
}

/// Somebody tries what the authorizer does not allow.
fn refused(random: &mut Random, now: i64) -> Event {
    if random.once_in(5) {
        let user = User::person(random);
        let event = Event { code: 403, verb: "create", ..write(random, PODS, user) };
        return with_bodies(random, now, event, workload::pod);
    }
    let user = if random.once_in(2) { User::person(random) } else { User::service_account(random) };
    let resource = random.pick(&[SECRETS, PODS, CLUSTER_ROLES, NODES]);
    let verb = random.pick(&["get", "list", "delete"]);
    let name = if verb == "list" { String::new() } else { object_name(random) };
    Event { name, code: 403, ..plain(random, verb, resource, user) }
}

/// The authorizer refuses those without credentials; a bad credential gets no further than authentication, and its events
/// have no user and no later stage.
fn unauthenticated(random: &mut Random) -> Event {
    let resource = random.pick(&[PODS, SECRETS, NODES]);
    if random.once_in(3) {
        let user = User::anonymous(random);
        return Event { code: 403, ..plain(random, "list", resource, user) };
    }
    let user = User::unknown(random);
    Event { code: 401, stage: "ResponseStarted", ..plain(random, "list", resource, user) }
}
