//! The Kubernetes objects that are read, field by field as far as the derived tables need them.

use std::borrow::Cow;

use super::source::Holder;
use super::tolerant::{Maybe, Present, RawList, objects, parse};

type Text<'de> = Maybe<Cow<'de, str>>;
type TextList<'de> = Maybe<Vec<Cow<'de, str>>>;

objects! {
    Metadata {
        "name" => name: Text<'de>,
        "generateName" => generate_name: Text<'de>,
    }

    Pod {
        "metadata" => metadata: Maybe<Metadata<'de>>,
        "spec" => spec: Maybe<PodSpec<'de>>,
    }
    /// Also what a PodTemplate and a workload hold.
    Template {
        "metadata" => metadata: Maybe<Metadata<'de>>,
        "template" => template: Maybe<Pod<'de>>,
    }
    Workload {
        "metadata" => metadata: Maybe<Metadata<'de>>,
        "spec" => spec: Maybe<Template<'de>>,
    }
    CronJobSpec {
        "jobTemplate" => job_template: Maybe<Workload<'de>>,
    }
    CronJob {
        "metadata" => metadata: Maybe<Metadata<'de>>,
        "spec" => spec: Maybe<CronJobSpec<'de>>,
    }

    PodSpec {
        "containers" => containers: Maybe<Vec<Container<'de>>>,
        "initContainers" => init_containers: Maybe<Vec<Container<'de>>>,
        "ephemeralContainers" => ephemeral_containers: Maybe<Vec<Container<'de>>>,
        "volumes" => volumes: Maybe<Vec<Volume<'de>>>,
        "serviceAccountName" => service_account_name: Text<'de>,
        "serviceAccount" => service_account: Text<'de>,
        "nodeName" => node_name: Text<'de>,
        "hostNetwork" => host_network: Maybe<bool>,
        "hostPID" => host_pid: Maybe<bool>,
        "hostIPC" => host_ipc: Maybe<bool>,
        "automountServiceAccountToken" => automount_token: Maybe<bool>,
        "runtimeClassName" => runtime_class: Text<'de>,
        "securityContext" => security_context: Maybe<SecurityContext<'de>>,
    }
    Volume {
        "hostPath" => host_path: Maybe<HostPath<'de>>,
    }
    HostPath {
        "path" => path: Text<'de>,
    }
    Container {
        "name" => name: Text<'de>,
        "image" => image: Text<'de>,
        "imagePullPolicy" => image_pull_policy: Text<'de>,
        "command" => command: TextList<'de>,
        "args" => args: TextList<'de>,
        "securityContext" => security_context: Maybe<SecurityContext<'de>>,
        "ports" => ports: Maybe<Vec<Port<'de>>>,
        "resources" => resources: Maybe<Resources<'de>>,
        "env" => env: RawList<'de>,
        "volumeMounts" => volume_mounts: RawList<'de>,
    }
    Port {
        "hostPort" => host_port: Maybe<i64>,
    }
    Resources {
        "limits" => limits: Maybe<Limits<'de>>,
    }
    Limits {
        "cpu" => cpu: Maybe<Present>,
        "memory" => memory: Maybe<Present>,
    }
    /// The pod's and the container's, which share the fields that both have.
    SecurityContext {
        "privileged" => privileged: Maybe<bool>,
        "allowPrivilegeEscalation" => allow_privilege_escalation: Maybe<bool>,
        "readOnlyRootFilesystem" => read_only_root_filesystem: Maybe<bool>,
        "runAsUser" => run_as_user: Maybe<i64>,
        "runAsNonRoot" => run_as_non_root: Maybe<bool>,
        "capabilities" => capabilities: Maybe<Capabilities<'de>>,
        "seccompProfile" => seccomp_profile: Maybe<SeccompProfile<'de>>,
        "procMount" => proc_mount: Text<'de>,
    }
    Capabilities {
        "add" => add: TextList<'de>,
        "drop" => drop: TextList<'de>,
    }
    SeccompProfile {
        "type" => kind: Text<'de>,
    }

    Role {
        "metadata" => metadata: Maybe<Metadata<'de>>,
        "rules" => rules: Maybe<Vec<PolicyRule<'de>>>,
    }
    PolicyRule {
        "verbs" => verbs: TextList<'de>,
        "apiGroups" => api_groups: TextList<'de>,
        "resources" => resources: TextList<'de>,
        "resourceNames" => resource_names: TextList<'de>,
        "nonResourceURLs" => non_resource_urls: TextList<'de>,
    }

    Binding {
        "metadata" => metadata: Maybe<Metadata<'de>>,
        "roleRef" => role_ref: Maybe<RoleRef<'de>>,
        "subjects" => subjects: Maybe<Vec<Subject<'de>>>,
    }
    RoleRef {
        "kind" => kind: Text<'de>,
        "name" => name: Text<'de>,
    }
    Subject {
        "kind" => kind: Text<'de>,
        "name" => name: Text<'de>,
        "namespace" => namespace: Text<'de>,
    }
}

/// The object's metadata and pod spec, if `text` is an object with at least one container in the place of `holder`.
pub fn pod_spec(text: &str, holder: Holder) -> Option<(Metadata<'_>, PodSpec<'_>)> {
    let (metadata, spec) = match holder {
        Holder::Pod => {
            let pod = parse::<Pod>(text)?;
            (pod.metadata, pod.spec.0?)
        }
        Holder::PodTemplate => {
            let template = parse::<Template>(text)?;
            (template.metadata, template.template.0?.spec.0?)
        }
        Holder::Workload => {
            let workload = parse::<Workload>(text)?;
            (workload.metadata, workload.spec.0?.template.0?.spec.0?)
        }
        Holder::CronJob => {
            let cron_job = parse::<CronJob>(text)?;
            (cron_job.metadata, cron_job.spec.0?.job_template.0?.spec.0?.template.0?.spec.0?)
        }
    };
    let lists = [&spec.containers, &spec.init_containers, &spec.ephemeral_containers];
    let any = lists.iter().any(|list| list.0.as_ref().is_some_and(|containers| !containers.is_empty()));
    any.then(|| (metadata.0.unwrap_or_default(), spec))
}

pub fn role(text: &str) -> Option<Role<'_>> {
    parse::<Role>(text).filter(|role| role.rules.0.is_some())
}

/// A patch of subjects has no roleRef, and a binding that was emptied has no subjects.
pub fn binding(text: &str) -> Option<Binding<'_>> {
    parse::<Binding>(text).filter(|binding| binding.role_ref.0.is_some() || binding.subjects.0.is_some())
}
