//! Rows of `containers`.

use std::borrow::Cow;

use super::body::{self, Container, Metadata, PodSpec, SecurityContext};
use super::cells::{Row, Rows};
use super::source::{Holder, Write};
use super::tolerant::Maybe;

/// Appends a row for each container of the object written.
pub fn append(write: &Write<'_>, holder: Holder, rows: &mut Rows) {
    let Some((body, (metadata, spec))) = write.read(|text| body::pod_spec(text, holder)) else { return };
    // What a patch leaves out it leaves as it was.
    let is_whole = body == "response" || write.verb != "patch";
    let lists =
        [("container", &spec.containers), ("init", &spec.init_containers), ("ephemeral", &spec.ephemeral_containers)];
    for (kind, containers) in lists {
        for container in containers.0.iter().flatten() {
            let mut row = rows.start(write.event, write.name.or(text(&metadata.name)), body);
            fill_pod(&mut row, &metadata, &spec, holder);
            row.text(Some(kind));
            fill_program(&mut row, container);
            fill_security(&mut row, container.security_context.0.as_ref(), spec.security_context.0.as_ref());
            fill_resources(&mut row, container, is_whole);
        }
    }
}

fn fill_pod(row: &mut Row<'_>, metadata: &Metadata<'_>, spec: &PodSpec<'_>, holder: Holder) {
    let generate_name = if holder == Holder::Pod { text(&metadata.generate_name) } else { None };
    let host_paths = spec.volumes.0.iter().flatten().filter_map(|volume| text(&volume.host_path.0.as_ref()?.path));
    row.text(generate_name)
        .text(text(&spec.service_account_name).or(text(&spec.service_account)))
        .text(text(&spec.node_name))
        .boolean(spec.host_network.0)
        .boolean(spec.host_pid.0)
        .boolean(spec.host_ipc.0)
        .list(host_paths)
        .boolean(spec.automount_token.0)
        .text(text(&spec.runtime_class));
}

fn fill_program(row: &mut Row<'_>, container: &Container<'_>) {
    row.text(text(&container.name))
        .text(text(&container.image))
        .text(text(&container.image_pull_policy))
        .list(container.command.0.iter().flatten())
        .list(container.args.0.iter().flatten());
}

/// The container's security context, with the pod's where it stands in for it.
fn fill_security(row: &mut Row<'_>, own: Option<&SecurityContext<'_>>, pod: Option<&SecurityContext<'_>>) {
    let capabilities = own.and_then(|own| own.capabilities.0.as_ref());
    let add = capabilities.and_then(|capabilities| capabilities.add.0.as_deref());
    let drop = capabilities.and_then(|capabilities| capabilities.drop.0.as_deref());
    fn seccomp_type<'a>(context: &'a SecurityContext<'_>) -> Option<&'a str> {
        text(&context.seccomp_profile.0.as_ref()?.kind)
    }
    row.boolean(own.and_then(|own| own.privileged.0))
        .boolean(own.and_then(|own| own.allow_privilege_escalation.0))
        .boolean(own.and_then(|own| own.read_only_root_filesystem.0))
        .integer(own.and_then(|own| own.run_as_user.0).or(pod.and_then(|pod| pod.run_as_user.0)))
        .boolean(own.and_then(|own| own.run_as_non_root.0).or(pod.and_then(|pod| pod.run_as_non_root.0)))
        .list(add.unwrap_or_default())
        .list(drop.unwrap_or_default())
        .text(own.and_then(seccomp_type).or(pod.and_then(seccomp_type)))
        .text(own.and_then(|own| text(&own.proc_mount)));
}

fn fill_resources(row: &mut Row<'_>, container: &Container<'_>, is_whole: bool) {
    let host_ports = container.ports.0.iter().flatten().filter_map(|port| port.host_port.0).filter(|port| *port != 0);
    let has_limits = match &container.resources.0 {
        Some(resources) => {
            Some(resources.limits.0.as_ref().is_some_and(|limits| limits.cpu.0.is_some() && limits.memory.0.is_some()))
        }
        None if is_whole => Some(false),
        None => None,
    };
    row.list(host_ports.map(|port| port.to_string()))
        .boolean(has_limits)
        .text(container.env.0)
        .text(container.volume_mounts.0);
}

fn text<'a>(field: &'a Maybe<Cow<'_, str>>) -> Option<&'a str> {
    field.0.as_deref()
}
