//! Bodies of pods and deployments.

use crate::clock::Time;
use crate::random::Random;
use crate::text::{put, put_list};
use crate::user::NAMESPACES;

/// What every body's metadata needs.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub now: i64,
}

/// `"metadata":{…` without its closing brace.
pub(crate) fn open_metadata(random: &mut Random, out: &mut String, place: Place<'_>) {
    put!(out, r#""metadata":{{"name":"{}""#, place.name);
    if !place.namespace.is_empty() {
        put!(out, r#","namespace":"{}""#, place.namespace);
    }
    let age = random.below(30 * 86_400) as i64 * 1_000_000;
    put!(
        out,
        r#","uid":"{}","resourceVersion":"{}","creationTimestamp":"{}""#,
        random.uuid(),
        random.below(900_000_000),
        Time(place.now - age)
    );
}

/// A pod of an application.
pub(crate) fn pod(random: &mut Random, out: &mut String, place: Place<'_>, answered: bool) {
    write_pod(random, out, place, answered, Reach::Own);
}

/// A pod of one of the node's agents: network, storage, logs.
pub(crate) fn agent_pod(random: &mut Random, out: &mut String, place: Place<'_>, answered: bool) {
    write_pod(random, out, place, answered, Reach::Node);
}

/// How far a pod reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// No further than its own containers.
    Own,
    /// Into the node: its network, its files and its devices.
    Node,
}

fn write_pod(random: &mut Random, out: &mut String, place: Place<'_>, answered: bool, reach: Reach) {
    out.push_str(r#"{"kind":"Pod","apiVersion":"v1","#);
    open_metadata(random, out, place);
    let service = random.below(100);
    put!(
        out,
        r#","generateName":"svc-{service}-","labels":{{"app":"svc-{service}","app.kubernetes.io/managed-by":"Helm","pod-template-hash":"{}"}},"annotations":{{"prometheus.io/scrape":"true","sidecar.istio.io/status":"{{\"initContainers\":[\"istio-init\"],\"containers\":[\"istio-proxy\"]}}"}},"ownerReferences":[{{"apiVersion":"apps/v1","kind":"{}","name":"svc-{service}","uid":"{}","controller":true,"blockOwnerDeletion":true}}]"#,
        random.hex(10),
        if reach == Reach::Node { "DaemonSet" } else { "ReplicaSet" },
        random.uuid()
    );
    if answered {
        managed_fields(random, out, place.now);
    }
    out.push_str(r#"},"spec":"#);
    pod_spec(random, out, service, reach);
    if answered {
        out.push_str(r#","status":{"phase":"Pending","qosClass":"Burstable"}"#);
    }
    out.push('}');
}

pub(crate) fn deployment(random: &mut Random, out: &mut String, place: Place<'_>, answered: bool) {
    out.push_str(r#"{"kind":"Deployment","apiVersion":"apps/v1","#);
    open_metadata(random, out, place);
    let service = random.below(100);
    put!(
        out,
        r#","generation":{},"labels":{{"app":"svc-{service}"}},"annotations":{{"deployment.kubernetes.io/revision":"{}"}}"#,
        1 + random.below(40),
        1 + random.below(40)
    );
    if answered {
        managed_fields(random, out, place.now);
    }
    put!(
        out,
        r#"}},"spec":{{"replicas":{},"selector":{{"matchLabels":{{"app":"svc-{service}"}}}},"template":{{"metadata":{{"creationTimestamp":null,"labels":{{"app":"svc-{service}"}}}},"spec":"#,
        1 + random.below(12)
    );
    pod_spec(random, out, service, Reach::Own);
    out.push_str(r#"},"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":"25%","maxSurge":"25%"}},"revisionHistoryLimit":10,"progressDeadlineSeconds":600},"status":{}}"#);
}

/// A strategic-merge patch as `kubectl set image` sends it.
pub(crate) fn image_patch(random: &mut Random, out: &mut String) {
    out.push_str(r#"{"spec":{"template":{"spec":{"containers":[{"image":""#);
    image(random, out);
    out.push_str(r#"","name":"c0"}]}}}}"#);
}

/// A patch of labels as a JSON Patch, which is an array.
pub(crate) fn label_patch(random: &mut Random, out: &mut String) {
    put!(out, r#"[{{"op":"replace","path":"/metadata/labels/revision","value":"{}"}}]"#, random.hex(8));
}

fn managed_fields(random: &mut Random, out: &mut String, now: i64) {
    put!(
        out,
        r#","managedFields":[{{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","time":"{}","fieldsType":"FieldsV1","fieldsV1":{{"f:metadata":{{"f:generateName":{{}},"f:labels":{{".":{{}},"f:app":{{}},"f:pod-template-hash":{{}}}},"f:ownerReferences":{{".":{{}},"k:{{\"uid\":\"{}\"}}":{{}}}}}},"#,
        Time(now),
        random.uuid()
    );
    out.push_str(r#""f:spec":{"f:containers":{"k:{\"name\":\"c0\"}":{".":{},"f:env":{".":{},"k:{\"name\":\"ENV_VAR_0\"}":{".":{},"f:name":{},"f:value":{}}},"f:image":{},"f:imagePullPolicy":{},"f:livenessProbe":{".":{},"f:failureThreshold":{}},"f:name":{},"f:resources":{},"f:terminationMessagePath":{}}},"f:dnsPolicy":{},"f:restartPolicy":{},"f:securityContext":{}}}}]"#);
}

fn pod_spec(random: &mut Random, out: &mut String, service: u64, reach: Reach) {
    let on_node = reach == Reach::Node;
    let volume = match (reach, random.below(2)) {
        (Reach::Own, _) => r#"{"name":"tmp","emptyDir":{}}"#,
        (Reach::Node, 0) => r#"{"name":"logs","hostPath":{"path":"/var/log","type":""}}"#,
        (Reach::Node, _) => r#"{"name":"runtime","hostPath":{"path":"/run/containerd","type":"Directory"}}"#,
    };
    put!(
        out,
        r#"{{"volumes":[{{"name":"config","configMap":{{"name":"app-config","defaultMode":420}}}},{volume}],"containers":["#
    );
    let containers = 1 + random.below(2);
    put_list(out, 0..containers, |out, number| container(random, out, number, on_node));
    put!(
        out,
        r#"],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"svc-{service}","serviceAccount":"svc-{service}","hostNetwork":{on_node},"hostPID":{},"nodeName":"ip-10-1-{}-{}.eu-west-1.compute.internal","#,
        on_node && random.once_in(2),
        random.below(7),
        random.below(64) + 10
    );
    out.push_str(r#""securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"schedulerName":"default-scheduler","tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300},{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}],"priority":0,"enableServiceLinks":true,"preemptionPolicy":"PreemptLowerPriority"}"#);
}

fn image(random: &mut Random, out: &mut String) {
    let (team, service) = (random.pick(&NAMESPACES), random.below(100));
    put!(out, "registry.example.com/{team}/svc-{service}:v1.{}.{}", random.below(50), random.below(20));
    put!(out, "@sha256:{}", random.hex(64));
}

fn container(random: &mut Random, out: &mut String, number: u64, privileged: bool) {
    put!(out, r#"{{"name":"c{number}","image":""#);
    image(random, out);
    out.push_str(r#"","command":["/bin/sh","-c"],"args":["exec /app/server --config=/etc/app/config.yaml --log=\"json\" && echo done\n"],"ports":[{"name":"http","containerPort":8080,"protocol":"TCP"},{"name":"metrics","containerPort":9090,"protocol":"TCP"}],"env":["#);
    let variables = 4 + random.below(8);
    put_list(out, 0..variables, |out, variable| environment(random, out, variable));
    put!(
        out,
        r#"],"resources":{{"limits":{{"cpu":"{}m","memory":"{}Mi"}},"requests":{{"cpu":"{}m","memory":"{}Mi"}}}},"volumeMounts":[{{"name":"config","mountPath":"/etc/app"}},{{"name":"kube-api-access-{}","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}}],"#,
        100 + random.below(2000),
        128 + random.below(4000),
        50 + random.below(500),
        64 + random.below(1000),
        random.hex(5)
    );
    out.push_str(r#""livenessProbe":{"httpGet":{"path":"/healthz","port":"http","scheme":"HTTP"},"initialDelaySeconds":10,"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent","#);
    let added = if privileged { r#","add":["SYS_ADMIN","NET_ADMIN"]"# } else { "" };
    put!(
        out,
        r#""securityContext":{{"capabilities":{{"drop":["ALL"]{added}}},"privileged":{privileged},"runAsNonRoot":{},"readOnlyRootFilesystem":true,"allowPrivilegeEscalation":{privileged}}}}}"#,
        !privileged
    );
}

fn environment(random: &mut Random, out: &mut String, number: u64) {
    if random.once_in(3) {
        put!(
            out,
            r#"{{"name":"SECRET_{number}","valueFrom":{{"secretKeyRef":{{"name":"app-secrets-{}","key":"key{number}"}}}}}}"#,
            random.below(9)
        );
        return;
    }
    let (service, namespace) = (random.below(99), random.pick(&NAMESPACES));
    put!(
        out,
        r#"{{"name":"ENV_VAR_{number}","value":"https://svc-{service}.{namespace}.svc.cluster.local:8443/api/v{}"}}"#,
        random.below(4)
    );
}
