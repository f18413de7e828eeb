//! The conditions of a hundred typical rules, and of any number like them: equalities, lists, patterns, groups, answers, and
//! fifteen in a hundred that look into bodies.

/// Namespaces that conditions name beside those of the events.
const PLACES: [&str; 10] = [
    "payments-prod",
    "vault",
    "argocd",
    "cert-manager",
    "monitoring",
    "team-a-staging",
    "checkout-prod",
    "istio-system",
    "data-platform",
    "gitlab-runners",
];

/// So many conditions over `audit`. The first hundred are always the same; later hundreds have the same mix, with other
/// values in most places.
pub fn typical(count: usize) -> Vec<String> {
    (0..).flat_map(hundred).take(count).collect()
}

fn hundred(nth: usize) -> Vec<String> {
    let mut rules = Vec::with_capacity(100);
    equalities(nth, &mut rules);
    lists(nth, &mut rules);
    patterns(nth, &mut rules);
    answers(nth, &mut rules);
    bodies(nth, &mut rules);
    rules
}

/// `text` in the first hundred, something like it in others.
fn varied(text: &str, nth: usize) -> String {
    if nth == 0 { text.to_owned() } else { format!("{text}{nth}") }
}

fn equalities(nth: usize, rules: &mut Vec<String>) {
    let people = if nth == 0 { "system:%".to_owned() } else { format!("system:serviceaccount:team-{nth}-%") };
    for (verb, resource) in [
        ("create", "pods"),
        ("delete", "pods"),
        ("patch", "pods"),
        ("create", "secrets"),
        ("get", "secrets"),
        ("list", "secrets"),
        ("delete", "secrets"),
        ("update", "configmaps"),
        ("delete", "configmaps"),
        ("create", "clusterroles"),
        ("patch", "clusterroles"),
        ("create", "rolebindings"),
        ("delete", "rolebindings"),
        ("create", "serviceaccounts"),
        ("delete", "deployments"),
        ("patch", "deployments"),
        ("delete", "nodes"),
        ("patch", "nodes"),
        ("create", "customresourcedefinitions"),
        ("delete", "events"),
    ] {
        rules.push(format!(
            "verb = '{verb}' AND resource = '{}' AND user_name NOT LIKE '{people}'",
            varied(resource, nth / 3)
        ));
    }
    for (place, (verb, resource)) in [
        ("create", "pods"),
        ("delete", "pods"),
        ("get", "secrets"),
        ("list", "secrets"),
        ("update", "configmaps"),
        ("create", "rolebindings"),
        ("patch", "deployments"),
        ("delete", "deployments"),
        ("create", "serviceaccounts"),
        ("update", "secrets"),
    ]
    .into_iter()
    .enumerate()
    {
        let namespace = varied(PLACES[(place + nth) % PLACES.len()], nth / 5);
        rules.push(format!(
            "verb = '{verb}' AND resource = '{resource}' AND namespace = '{namespace}' AND response_code < 400"
        ));
    }
    for subresource in [
        "exec",
        "portforward",
        "log",
        "eviction",
        "binding",
        "status",
        "token",
        "attach",
        "proxy",
        "ephemeralcontainers",
    ] {
        let subresource = varied(subresource, nth);
        rules.push(format!(
            "subresource = '{subresource}' AND verb IN ('create', 'get', 'update') AND stage = 'ResponseComplete'"
        ));
    }
}

fn lists(nth: usize, rules: &mut Vec<String>) {
    for namespaces in [
        "'kube-system', 'vault', 'istio-system'",
        "'payments-prod', 'checkout-prod'",
        "'monitoring', 'data-platform', 'argocd'",
        "'default'",
        "'gitlab-runners', 'team-a-staging', 'team-b-staging'",
    ] {
        let namespaces = if nth == 0 { namespaces.to_owned() } else { format!("{namespaces}, 'team-{nth}'") };
        rules.push(format!("namespace IN ({namespaces}) AND verb IN ('create', 'update', 'patch', 'delete') AND resource NOT IN ('leases', 'events', 'endpointslices')"));
        rules.push(format!("resource IN ('secrets', 'configmaps', 'serviceaccounts') AND verb IN ('get', 'list') AND namespace IN ({namespaces}) AND decision = 'allow'"));
    }
    for group in [
        "system:masters",
        "oidc:team-7",
        "system:unauthenticated",
        "oidc:developers",
        "system:nodes",
        "system:serviceaccounts:vault",
    ] {
        rules.push(format!("array_has(user_groups, '{}') AND verb = 'create'", varied(group, nth)));
    }
}

fn patterns(nth: usize, rules: &mut Vec<String>) {
    for agent in ["kubectl/%", "python-requests%", "%curl%", "Go-http-client%", "Mozilla/%", "%prometheus%"] {
        rules.push(format!("user_agent LIKE '{}' AND verb <> 'watch'", varied(agent, nth)));
    }
    for uri in
        ["%/secrets/%", "%/proxy%", "/apis/rbac%", "%fieldSelector=metadata.name%3Dweb%", "%/exec%", "/api/v1/nodes%"]
    {
        rules.push(format!("request_uri LIKE '{}' AND user_name LIKE 'oidc:%'", varied(uri, nth)));
    }
    for pattern in [
        "^system:serviceaccount:(kube-system|vault):.*$",
        "^oidc:user[0-9]{2}@",
        "^system:node:ip-10-0-",
        "(admin|root|ops)",
        "^system:(anonymous|unauthenticated)$",
    ] {
        let pattern = if nth == 0 { pattern.to_owned() } else { format!("{pattern}|^team{nth}:") };
        rules.push(format!("user_name ~ '{pattern}' AND verb IN ('create', 'delete')"));
        rules.push(format!("regexp_like(user_name, '{pattern}') AND response_code = 403"));
    }
}

fn answers(nth: usize, rules: &mut Vec<String>) {
    let verb = ["create", "patch", "update", "delete"][nth % 4];
    rules.extend([
        format!("response_code BETWEEN {} AND {}", 400 + nth, 403 + nth),
        format!("response_code >= {}", 500 + nth),
        format!("response_code = 409 AND verb = '{verb}'"),
        format!("response_code = 401 AND user_name = '{}'", varied("system:anonymous", nth)),
        format!("response_code = 404 AND resource = '{}'", varied("secrets", nth)),
        "decision = 'forbid'".to_owned(),
        format!("impersonated_user_name IS NOT NULL AND response_code < {}", 300 + nth),
    ]);
}

fn bodies(nth: usize, rules: &mut Vec<String>) {
    let container = format!("request_object, 'spec', 'containers', {}", nth % 3);
    for (verbs, condition) in [
        ("IN ('create', 'update', 'patch')", "json_get_bool(request_object, 'spec', 'hostNetwork')".to_owned()),
        ("IN ('create', 'update', 'patch')", "json_get_bool(request_object, 'spec', 'hostPID')".to_owned()),
        ("= 'create'", format!("json_get_bool({container}, 'securityContext', 'privileged')")),
        ("= 'create'", format!("json_get_str({container}, 'image') NOT LIKE 'registry{nth}.example.com/%'")),
        (
            "= 'create'",
            format!("json_get_str(request_object, 'spec', 'volumes', 1, 'hostPath', 'path') = '{}'", varied("/", nth)),
        ),
        (
            "= 'create'",
            format!(
                "json_get_str({container}, 'securityContext', 'capabilities', 'add', 0) = '{}'",
                varied("SYS_ADMIN", nth)
            ),
        ),
        ("IN ('create', 'patch')", format!("request_object LIKE '%\"{}\"%'", varied("hostPath", nth))),
        (
            "IN ('create', 'patch')",
            format!("json_get_str(request_object, 'spec', 'serviceAccountName') = 'svc-{}'", nth + 7),
        ),
    ] {
        rules.push(format!("resource = 'pods' AND verb {verbs} AND {condition}"));
    }
    for condition in [
        format!("json_get_str(request_object, 'rules', {nth}, 'verbs', 0) = '*'"),
        format!("request_object LIKE '%\"verbs\":[\"{}\"]%'", varied("*", nth)),
        format!("request_object ~ '\"({})\"'", varied("escalate|bind|impersonate", nth)),
    ] {
        rules.push(format!("resource = 'clusterroles' AND verb IN ('create', 'update', 'patch') AND {condition}"));
    }
    for condition in [
        format!("json_get_str(request_object, 'roleRef', 'name') = '{}'", varied("cluster-admin", nth)),
        format!("json_get_str(request_object, 'subjects', 0, 'name') LIKE 'oidc:user{}%'", nth + 1),
    ] {
        rules.push(format!("resource = 'rolebindings' AND verb IN ('create', 'update', 'patch') AND {condition}"));
    }
    for condition in [
        format!("json_get_str(request_object, 'type') = '{}'", varied("helm.sh/release.v1", nth)),
        format!(
            "json_get_str(request_object, 'metadata', 'labels', 'owner') = '{}' AND namespace = 'vault'",
            varied("helm", nth)
        ),
    ] {
        rules.push(format!("resource = 'secrets' AND verb IN ('create', 'update') AND {condition}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_is_a_hundred_and_no_two_are_the_same() {
        assert_eq!(hundred(0).len(), 100);
        let thousand = typical(1000);
        assert_eq!(thousand[..100], hundred(0));
        let bodies = thousand[..100].iter().filter(|rule| rule.contains("request_object")).count();
        assert_eq!(bodies, 15);
        let distinct: std::collections::BTreeSet<_> = thousand.iter().collect();
        assert!(distinct.len() > 950, "{}", distinct.len());
    }
}
