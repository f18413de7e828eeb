//! Who is behind a Kubernetes user name.

use std::borrow::Cow;

use super::Function;
use super::udf::TextFunction;

pub(super) fn functions() -> Vec<TextFunction> {
    vec![
        TextFunction::text(
            Function {
                name: "user_kind",
                family: "Users",
                signature: "user_kind(user_name) -> text",
                description: "human, service_account, node, anonymous, or control_plane for any other system: user.",
                example: "user_kind('system:serviceaccount:shop:checkout')",
                result: "service_account",
            },
            |[user]| Some(Cow::Borrowed(kind(user))),
        ),
        TextFunction::text(
            Function {
                name: "service_account_namespace",
                family: "Users",
                signature: "service_account_namespace(user_name) -> text",
                description: "Namespace of the service account; null if the user is none.",
                example: "service_account_namespace('system:serviceaccount:shop:checkout')",
                result: "shop",
            },
            |[user]| Some(Cow::Borrowed(service_account(user)?.0)),
        ),
        TextFunction::text(
            Function {
                name: "service_account_name",
                family: "Users",
                signature: "service_account_name(user_name) -> text",
                description: "Name of the service account; null if the user is none.",
                example: "service_account_name('system:serviceaccount:shop:checkout')",
                result: "checkout",
            },
            |[user]| Some(Cow::Borrowed(service_account(user)?.1)),
        ),
        TextFunction::text(
            Function {
                name: "node_of_user",
                family: "Users",
                signature: "node_of_user(user_name) -> text",
                description: "Name of the node whose kubelet the user is; null if the user is none.",
                example: "node_of_user('system:node:worker-1')",
                result: "worker-1",
            },
            |[user]| Some(Cow::Borrowed(node(user)?)),
        ),
    ]
}

/// What `user_kind` gives.
pub const KINDS: [&str; 5] = ["human", "service_account", "node", "anonymous", "control_plane"];

fn kind(user: &str) -> &'static str {
    if service_account(user).is_some() {
        "service_account"
    } else if node(user).is_some() {
        "node"
    } else if user == "system:anonymous" {
        "anonymous"
    } else if user.starts_with("system:") {
        "control_plane"
    } else {
        "human"
    }
}

/// Namespace and name. Neither may hold a colon.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let whole = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    whole.then_some((namespace, name))
}

fn node(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::testing::check;

    #[test]
    fn users() {
        let cases = [
            ("kubernetes-admin", "human", ["null"; 3]),
            ("oidc:olga@example.com", "human", ["null"; 3]),
            ("System:node:a", "human", ["null"; 3]),
            ("", "human", ["null"; 3]),
            ("system:serviceaccount:kube-system:coredns", "service_account", ["kube-system", "coredns", "null"]),
            ("system:serviceaccount:a", "control_plane", ["null"; 3]),
            ("system:serviceaccount:a:", "control_plane", ["null"; 3]),
            ("system:serviceaccount::b", "control_plane", ["null"; 3]),
            ("system:serviceaccount:a:b:c", "control_plane", ["null"; 3]),
            ("system:node:worker-1.example.com", "node", ["null", "null", "worker-1.example.com"]),
            ("system:node:", "control_plane", ["null"; 3]),
            ("system:anonymous", "anonymous", ["null"; 3]),
            ("system:anonymous2", "control_plane", ["null"; 3]),
            ("system:kube-scheduler", "control_plane", ["null"; 3]),
            ("system:apiserver", "control_plane", ["null"; 3]),
        ];
        for (user, kind, [namespace, name, node]) in cases {
            check(&[
                (&format!("user_kind('{user}')"), kind),
                (&format!("service_account_namespace('{user}')"), namespace),
                (&format!("service_account_name('{user}')"), name),
                (&format!("node_of_user('{user}')"), node),
            ]);
        }
    }
}
