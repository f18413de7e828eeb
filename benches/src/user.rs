//! Who sends a request: name, groups, token details, address and user agent.

use crate::random::Random;
use crate::text::put;

pub(crate) const NAMESPACES: [&str; 14] = [
    "kube-system",
    "default",
    "payments-prod",
    "checkout-prod",
    "monitoring",
    "istio-system",
    "data-platform",
    "team-a-staging",
    "team-b-staging",
    "argocd",
    "cert-manager",
    "ingress-nginx",
    "vault",
    "gitlab-runners",
];

/// A service account with the agent that it runs as.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    pub namespace: &'static str,
    pub name: &'static str,
    agent: &'static str,
}

const fn account(namespace: &'static str, name: &'static str, agent: &'static str) -> Account {
    Account { namespace, name, agent }
}

/// Applies to the cluster what Git holds.
pub(crate) const GITOPS: Account = account(
    "argocd",
    "argocd-application-controller",
    "argocd-application-controller/v0.0.0 (linux/amd64) kubernetes/$Format",
);
pub(crate) const CERTIFICATES: Account =
    account("cert-manager", "cert-manager", "cert-manager-controller/v1.18.0 (linux/amd64) cert-manager/f0b5e4c");
pub(crate) const PIPELINE: Account = account("gitlab-runners", "ci-deployer", "Helm/3.18.3");

const ACCOUNTS: [Account; 9] = [
    GITOPS,
    CERTIFICATES,
    PIPELINE,
    account("monitoring", "prometheus-k8s", "Prometheus/3.4.1"),
    account("monitoring", "prometheus-operator", "prometheus-operator/0.83.0"),
    account("istio-system", "istiod", "istiod/1.26.1 pilot-discovery (linux/amd64)"),
    account("kube-system", "metrics-server", "metrics-server/v0.7.2 (linux/amd64) kubernetes/ec5ffe3"),
    account("kube-system", "coredns", "coredns/1.12.0 Go-http-client/2.0"),
    account("data-platform", "spark-operator", "python-requests/2.32.3"),
];

const CONTROLLERS: [(&str, &str); 3] = [
    (
        "system:kube-controller-manager",
        "kube-controller-manager/v1.33.2 (linux/amd64) kubernetes/a57b6f7/leader-election",
    ),
    ("system:kube-scheduler", "kube-scheduler/v1.33.2 (linux/amd64) kubernetes/a57b6f7/leader-election"),
    ("system:apiserver", "kube-apiserver/v1.33.2 (linux/amd64) kubernetes/a57b6f7"),
];

const PEOPLE_AGENTS: [&str; 4] = [
    "kubectl/v1.33.1 (darwin/arm64) kubernetes/8adc0f0",
    "kubectl/v1.32.5 (linux/amd64) kubernetes/0ed37c6",
    "k9s/v0.50.6 (darwin/arm64) kubernetes/$Format",
    r#"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 \"quoted\" Chrome/137.0"#,
];

const NODES: u64 = 400;
const PEOPLE: u64 = 300;
/// The first of the people.
const ADMINISTRATORS: u64 = 5;

pub(crate) struct User {
    pub name: String,
    /// The `user` object.
    pub json: String,
    /// The elements of `sourceIPs`.
    pub addresses: String,
    pub agent: &'static str,
    /// The authorizer's reason for letting this user in, escaped for JSON.
    pub reason: String,
}

fn node_name(number: u64) -> String {
    format!("ip-10-1-{}-{}.eu-west-1.compute.internal", number / 64, number % 64 + 10)
}

impl User {
    pub fn node(random: &mut Random) -> Self {
        let number = random.below(NODES);
        let node = node_name(number);
        // A node's client certificate stays the same for months: its id follows from the node.
        let certificate = Random::new(number).hex(64);
        let json = format!(
            r#"{{"username":"system:node:{node}","groups":["system:nodes","system:authenticated"],"extra":{{"authentication.kubernetes.io/credential-id":["X509SHA256={certificate}"]}}}}"#
        );
        Self {
            name: format!("system:node:{node}"),
            json,
            addresses: format!(r#""10.1.{}.{}""#, number / 64, number % 64 + 10),
            agent: "kubelet/v1.33.2 (linux/amd64) kubernetes/a57b6f7",
            reason: String::new(),
        }
    }

    pub fn service_account(random: &mut Random) -> Self {
        let account = random.pick(&ACCOUNTS);
        Self::account(random, account)
    }

    pub fn account(random: &mut Random, account: Account) -> Self {
        let Account { namespace, name: account, agent } = account;
        // Uids belong to the account and its pod, the credential id to a token that lives an hour.
        let mut fixed = Random::new(account.len() as u64 + 1000);
        let number = random.below(NODES);
        let mut json = format!(
            r#"{{"username":"system:serviceaccount:{namespace}:{account}","uid":"{}","groups":["system:serviceaccounts","system:serviceaccounts:{namespace}","system:authenticated"],"extra":{{"#,
            fixed.uuid()
        );
        put!(
            &mut json,
            r#""authentication.kubernetes.io/credential-id":["JTI={}"],"authentication.kubernetes.io/node-name":["{}"],"authentication.kubernetes.io/node-uid":["{}"],"#,
            random.uuid(),
            node_name(number),
            Random::new(number).uuid()
        );
        put!(
            &mut json,
            r#""authentication.kubernetes.io/pod-name":["{account}-{}-{}"],"authentication.kubernetes.io/pod-uid":["{}"]}}}}"#,
            fixed.hex(10),
            fixed.hex(5),
            fixed.uuid()
        );
        Self {
            name: format!("system:serviceaccount:{namespace}:{account}"),
            json,
            addresses: format!(r#""10.2.{}.{}""#, number / 64, random.below(250)),
            agent,
            reason: format!(
                r#"RBAC: allowed by ClusterRoleBinding \"{account}\" of ClusterRole \"{account}\" to ServiceAccount \"{account}/{namespace}\""#
            ),
        }
    }

    /// A controller of kube-controller-manager, each of which has a service account of its own.
    pub fn built_in_controller(controller: &str) -> Self {
        let name = format!("system:serviceaccount:kube-system:{controller}");
        let mut fixed = Random::new(controller.len() as u64 + 2000);
        let json = format!(
            r#"{{"username":"{name}","uid":"{}","groups":["system:serviceaccounts","system:serviceaccounts:kube-system","system:authenticated"],"extra":{{"authentication.kubernetes.io/credential-id":["JTI={}"]}}}}"#,
            fixed.uuid(),
            fixed.uuid()
        );
        Self {
            json,
            addresses: r#""10.0.0.10""#.into(),
            agent: "kube-controller-manager/v1.33.2 (linux/amd64) kubernetes/a57b6f7",
            reason: format!(
                r#"RBAC: allowed by ClusterRoleBinding \"system:controller:{controller}\" of ClusterRole \"system:controller:{controller}\" to ServiceAccount \"{controller}/kube-system\""#
            ),
            name,
        }
    }

    pub fn controller(random: &mut Random) -> Self {
        let (name, agent) = random.pick(&CONTROLLERS);
        Self {
            name: name.into(),
            json: format!(r#"{{"username":"{name}","groups":["system:authenticated"]}}"#),
            addresses: r#""10.0.0.10""#.into(),
            agent,
            reason: format!(
                r#"RBAC: allowed by ClusterRoleBinding \"{name}\" of ClusterRole \"{name}\" to User \"{name}\""#
            ),
        }
    }

    pub fn person(random: &mut Random) -> Self {
        let number = random.below(PEOPLE);
        Self::numbered_person(random, number)
    }

    /// One of the few people who look after the cluster.
    pub fn administrator(random: &mut Random) -> Self {
        let number = random.below(ADMINISTRATORS);
        Self::numbered_person(random, number)
    }

    fn numbered_person(random: &mut Random, number: u64) -> Self {
        let team = number % 20;
        let masters = if random.once_in(200) { r#""system:masters","# } else { "" };
        let json = format!(
            r#"{{"username":"oidc:user{number}@example.com","uid":"oidc:{}","groups":[{masters}"oidc:team-{team}","oidc:developers","oidc:all-employees","system:authenticated"],"extra":{{"authentication.kubernetes.io/credential-id":["JTI={}"]}}}}"#,
            Random::new(number).uuid(),
            random.uuid()
        );
        // Behind a proxy the client's claim comes first, the proxy last.
        let claim = if random.once_in(6) { r#""203.0.113.7","# } else { "" };
        Self {
            name: format!("oidc:user{number}@example.com"),
            json,
            addresses: format!(r#"{claim}"10.8.{team}.{}""#, number % 250),
            agent: random.pick(&PEOPLE_AGENTS),
            reason: format!(
                r#"RBAC: allowed by RoleBinding \"developers/team-{team}\" of ClusterRole \"edit\" to Group \"oidc:team-{team}\""#
            ),
        }
    }

    pub fn anonymous(random: &mut Random) -> Self {
        Self {
            name: "system:anonymous".into(),
            json: r#"{"username":"system:anonymous","groups":["system:unauthenticated"]}"#.into(),
            addresses: format!(r#""198.51.100.{}""#, random.below(250)),
            agent: random.pick(&["Go-http-client/2.0", "curl/8.5.0", "python-requests/2.32.3"]),
            reason: String::new(),
        }
    }
    /// The bearer of a credential that is not one.
    pub fn unknown(random: &mut Random) -> Self {
        Self { name: String::new(), json: "{}".into(), ..Self::anonymous(random) }
    }
}
