"""Validation of pod specs: containers, ports, probes, hooks, scheduling, DNS."""

from collections.abc import Iterator, Sequence

from kubenetlab.api.containers import Container, ContainerPort, Lifecycle, LifecycleHandler, Probe
from kubenetlab.api.pods import Pod, PodSpec
from kubenetlab.api.scheduling import NodeSelectorRequirement
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.validate.environment import validate_environment
from kubenetlab.api.validate.metadata import validate_labels, validate_selector, validate_values
from kubenetlab.api.validate.resources import validate_resources
from kubenetlab.api.validate.syntax import (
    address_fault,
    key_fault,
    port_name_fault,
    subdomain_fault,
)
from kubenetlab.names import label_problem

_PROBE_HANDLERS = ("httpGet", "tcpSocket", "grpc", "exec")
_HOOK_HANDLERS = ("exec", "httpGet", "sleep", "tcpSocket")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def validate_pod(pod: Pod) -> Iterator[Finding]:
    """Validate a Pod on its own; yield every finding."""
    yield from validate_pod_spec(pod.spec, ("spec",))


def validate_pod_spec(spec: PodSpec, path: Path) -> Iterator[Finding]:
    """Validate the spec of a Pod or of a pod template; yield every finding."""
    if not spec.containers:
        yield Finding((*path, "containers"), "required: a pod has at least one container")
    yield from _validate_containers(spec, path)
    for field, name in (("hostname", spec.hostname), ("subdomain", spec.subdomain)):
        if name and (fault := label_problem(name)):
            yield Finding((*path, field), fault)
    if spec.node_name and (fault := subdomain_fault(spec.node_name)):
        yield Finding((*path, "nodeName"), fault)
    yield from validate_labels(spec.node_selector, (*path, "nodeSelector"))
    yield from _validate_tolerations(spec, path)
    yield from _validate_gates(spec, path)
    yield from _validate_node_affinity(spec, path)
    yield from _validate_pod_affinity(spec, path)
    yield from _validate_spread(spec, path)
    yield from _validate_dns(spec, path)
    yield from _validate_host_aliases(spec, path)


def _validate_containers(spec: PodSpec, path: Path) -> Iterator[Finding]:
    names: dict[str, str] = {}
    host_ports: dict[tuple[str, str, int], str] = {}
    for field, containers in (
        ("initContainers", spec.init_containers),
        ("containers", spec.containers),
    ):
        for index, container in enumerate(containers):
            container_path, place = (*path, field, index), f"{field}[{index}]"
            if container.name in names:
                yield Finding(
                    (*container_path, "name"),
                    f"{found(container.name)} is already the name of {names[container.name]}",
                )
            names[container.name] = place
            yield from _validate_container(container, spec, container_path)
            if field == "initContainers" and not container.is_sidecar:
                yield from _validate_init_container(container, container_path)
            for number, port in enumerate(container.ports):
                key = (port.protocol, port.host_ip, port.host_port)
                if port.host_port and key in host_ports:
                    yield Finding(
                        (*container_path, "ports", number, "hostPort"),
                        f"{port.host_port} is already a hostPort of {host_ports[key]}",
                    )
                host_ports[key] = place


def _validate_init_container(container: Container, path: Path) -> Iterator[Finding]:
    """Yield the fields that only containers and sidecars can have."""
    fields = [
        field
        for field in ("readinessProbe", "livenessProbe", "startupProbe")
        if container.probe(field.removesuffix("Probe"))
    ]
    if container.lifecycle != Lifecycle():
        fields.append("lifecycle")
    for field in fields:
        yield Finding(
            (*path, field), "may not be set for init containers without restartPolicy: Always"
        )


def _validate_container(container: Container, spec: PodSpec, path: Path) -> Iterator[Finding]:
    if fault := label_problem(container.name):
        yield Finding((*path, "name"), fault)
    if not container.image.strip():
        yield Finding((*path, "image"), "required, but missing")
    elif container.image != container.image.strip():
        yield Finding(
            (*path, "image"),
            f"must not have leading or trailing whitespace, found {found(container.image)}",
        )
    yield from validate_environment(container, path)
    if container.resources is not None:
        yield from validate_resources(container.resources, (*path, "resources"))
    yield from _validate_ports(container.ports, spec, path)
    for field in ("readinessProbe", "livenessProbe", "startupProbe"):
        probe = container.probe(field.removesuffix("Probe"))
        if probe is not None:
            yield from _validate_probe(field, probe, (*path, field))
    for field, hook in (
        ("postStart", container.lifecycle.post_start),
        ("preStop", container.lifecycle.pre_stop),
    ):
        if hook is not None:
            yield from _validate_hook(hook, spec, (*path, "lifecycle", field))


def _validate_ports(ports: Sequence[ContainerPort], spec: PodSpec, path: Path) -> Iterator[Finding]:
    names: set[str] = set()
    for index, port in enumerate(ports):
        port_path = (*path, "ports", index)
        if port.name:
            if fault := port_name_fault(port.name):
                yield Finding((*port_path, "name"), fault)
            if port.name in names:
                yield Finding((*port_path, "name"), f"duplicate port name {found(port.name)}")
            names.add(port.name)
        if port.host_ip and (fault := address_fault(port.host_ip)):
            yield Finding((*port_path, "hostIP"), fault)
        if spec.host_network and port.host_port not in (0, port.container_port):
            yield Finding(
                (*port_path, "hostPort"),
                f"expected {port.container_port} (with hostNetwork the hostPort is the "
                f"containerPort), found {port.host_port}",
            )


def _validate_hook(hook: LifecycleHandler, spec: PodSpec, path: Path) -> Iterator[Finding]:
    actions = (hook.exec, hook.http_get, hook.sleep, hook.tcp_socket)
    yield from _validate_handlers(_HOOK_HANDLERS, actions, "hook", path)
    grace_s = spec.termination_grace_period_seconds
    if hook.sleep is not None and hook.sleep.seconds > grace_s:
        limit = f"at most terminationGracePeriodSeconds ({grace_s})"
        yield Finding((*path, "sleep", "seconds"), f"expected {limit}, found {hook.sleep.seconds}")
    if hook.tcp_socket is not None:
        yield Finding(
            (*path, "tcpSocket"),
            "Kubernetes accepts this hook, but it always fails",
            is_unknown_field=True,
        )
    if hook.http_get is not None:
        yield from _validate_port_name(hook.http_get.port, (*path, "httpGet", "port"))


def _validate_probe(field: str, probe: Probe, path: Path) -> Iterator[Finding]:
    actions = (probe.http_get, probe.tcp_socket, probe.grpc, probe.exec)
    yield from _validate_handlers(_PROBE_HANDLERS, actions, "probe", path)
    if field != "readinessProbe" and probe.success_threshold != 1:
        yield Finding(
            (*path, "successThreshold"), f"expected 1 in a {field}, found {probe.success_threshold}"
        )
    for handler, action in (("httpGet", probe.http_get), ("tcpSocket", probe.tcp_socket)):
        if action is not None:
            yield from _validate_port_name(action.port, (*path, handler, "port"))


def _validate_handlers(
    names: Sequence[str], actions: Sequence[object], noun: str, path: Path
) -> Iterator[Finding]:
    """Check that exactly one handler of a probe or hook is set."""
    given = [name for name, action in zip(names, actions, strict=True) if action is not None]
    if not given:
        yield Finding(path, f"required: one of {', '.join(names)}")
    for name in given[1:]:
        yield Finding((*path, name), f"not allowed beside {given[0]}: a {noun} has one handler")


def _validate_port_name(port: int | str, path: Path) -> Iterator[Finding]:
    if isinstance(port, str) and (fault := port_name_fault(port)):
        yield Finding(path, fault)


def _validate_tolerations(spec: PodSpec, path: Path) -> Iterator[Finding]:
    for index, toleration in enumerate(spec.tolerations):
        toleration_path = (*path, "tolerations", index)
        if not toleration.key and toleration.operator != "Exists":
            yield Finding(
                (*toleration_path, "operator"), "expected Exists where key is empty, found Equal"
            )
        if toleration.operator == "Exists" and toleration.value:
            yield Finding((*toleration_path, "value"), "not allowed with operator Exists")
        if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
            effect = found(toleration.effect)
            yield Finding(
                (*toleration_path, "effect"),
                f"expected NoExecute where tolerationSeconds is set, found {effect}",
            )


def _validate_gates(spec: PodSpec, path: Path) -> Iterator[Finding]:
    names = [gate.name for gate in spec.scheduling_gates]
    for index, name in enumerate(names):
        name_path = (*path, "schedulingGates", index, "name")
        if fault := key_fault(name):
            yield Finding(name_path, fault)
        elif name in names[:index]:
            yield Finding(name_path, f"{found(name)} is listed twice")
    if names and spec.node_name:
        yield Finding((*path, "nodeName"), "may not be set until all schedulingGates are removed")
    for index, gate in enumerate(spec.readiness_gates):
        if fault := key_fault(gate.condition_type):
            yield Finding((*path, "readinessGates", index, "conditionType"), fault)


def _validate_node_affinity(spec: PodSpec, path: Path) -> Iterator[Finding]:
    selector = spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution
    if selector is None:
        return
    terms_path = (*path, "affinity", "nodeAffinity", _REQUIRED, "nodeSelectorTerms")
    if not selector.node_selector_terms:
        yield Finding(terms_path, "required: at least one term")
    for index, term in enumerate(selector.node_selector_terms):
        for number, requirement in enumerate(term.match_expressions):
            values_path = (*terms_path, index, "matchExpressions", number, "values")
            yield from _validate_requirement(requirement, values_path)


def _validate_requirement(requirement: NodeSelectorRequirement, path: Path) -> Iterator[Finding]:
    operator, values = requirement.operator, requirement.values
    yield from validate_values(operator, values, path)
    if operator in ("Gt", "Lt") and (len(values) != 1 or not values[0].lstrip("-").isdigit()):
        yield Finding(path, f"expected one whole number with operator {operator}")


def _validate_pod_affinity(spec: PodSpec, path: Path) -> Iterator[Finding]:
    for field, affinity in (
        ("podAffinity", spec.affinity.pod_affinity),
        ("podAntiAffinity", spec.affinity.pod_anti_affinity),
    ):
        terms = affinity.required_during_scheduling_ignored_during_execution
        for index, term in enumerate(terms):
            if term.label_selector is not None:
                selector_path = (*path, "affinity", field, _REQUIRED, index, "labelSelector")
                yield from validate_selector(term.label_selector, selector_path)


def _validate_spread(spec: PodSpec, path: Path) -> Iterator[Finding]:
    for index, constraint in enumerate(spec.topology_spread_constraints):
        if constraint.min_domains is not None and constraint.when_unsatisfiable != "DoNotSchedule":
            yield Finding(
                (*path, "topologySpreadConstraints", index, "minDomains"),
                "only with whenUnsatisfiable DoNotSchedule",
            )


def _validate_dns(spec: PodSpec, path: Path) -> Iterator[Finding]:
    config, config_path = spec.dns_config, (*path, "dnsConfig")
    if spec.dns_policy == "None" and not config.nameservers:
        yield Finding((*config_path, "nameservers"), "required with dnsPolicy None")
    if len(config.nameservers) > 3:
        yield Finding(
            (*config_path, "nameservers"), f"expected at most 3, found {len(config.nameservers)}"
        )
    for index, server in enumerate(config.nameservers):
        if fault := address_fault(server):
            yield Finding((*config_path, "nameservers", index), fault)
    if len(config.searches) > 32:
        yield Finding(
            (*config_path, "searches"), f"expected at most 32, found {len(config.searches)}"
        )
    for index, search in enumerate(config.searches):
        if search != "." and (fault := subdomain_fault(search.removesuffix("."))):
            yield Finding((*config_path, "searches", index), fault)


def _validate_host_aliases(spec: PodSpec, path: Path) -> Iterator[Finding]:
    for index, alias in enumerate(spec.host_aliases):
        alias_path = (*path, "hostAliases", index)
        if fault := address_fault(alias.ip):
            yield Finding((*alias_path, "ip"), fault)
        for number, hostname in enumerate(alias.hostnames):
            if fault := subdomain_fault(hostname):
                yield Finding((*alias_path, "hostnames", number), fault)
