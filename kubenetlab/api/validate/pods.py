"""Pod specs: containers, ports, probes, DNS."""

from collections.abc import Iterator

from kubenetlab.api.containers import Container, Lifecycle, LifecycleHandler, Probe
from kubenetlab.api.decode import Finding, found
from kubenetlab.api.documents import Path
from kubenetlab.api.ip import is_address
from kubenetlab.api.pods import Pod, PodSpec
from kubenetlab.api.validate.environment import validate_environment
from kubenetlab.api.validate.metadata import validate_labels, validate_selector
from kubenetlab.api.validate.resources import validate_resources
from kubenetlab.api.validate.syntax import key_fault, port_name_fault, subdomain_fault
from kubenetlab.names import label_fault

_HANDLERS = ("httpGet", "tcpSocket", "grpc", "exec")


def validate_pod(pod: Pod) -> Iterator[Finding]:
    """What speaks against a Pod."""
    yield from validate_pod_spec(pod.spec, ("spec",))


def validate_pod_spec(spec: PodSpec, path: Path) -> Iterator[Finding]:
    """What speaks against a pod spec, in a Pod or in a template."""
    if not spec.containers:
        yield Finding((*path, "containers"), "required: a pod has at least one container")
    seen: dict[str, str] = {}
    host_ports: dict[tuple[str, str, int], str] = {}
    for field, containers in (
        ("initContainers", spec.init_containers),
        ("containers", spec.containers),
    ):
        for index, container in enumerate(containers):
            here = (*path, field, index)
            if container.name in seen:
                yield Finding(
                    (*here, "name"),
                    f"{found(container.name)} is the name of {seen[container.name]} already",
                )
            seen[container.name] = f"{field}[{index}]"
            yield from _validate_container(container, spec, here)
            if field == "initContainers" and not container.is_sidecar:
                given = [
                    probe
                    for probe in ("readinessProbe", "livenessProbe", "startupProbe")
                    if container.probe(probe.removesuffix("Probe"))
                ]
                for extra in (
                    *given,
                    *(["lifecycle"] if container.lifecycle != Lifecycle() else []),
                ):
                    yield Finding(
                        (*here, extra),
                        "may not be set for init containers without restartPolicy: Always",
                    )
            for number, port in enumerate(container.ports):
                key = (port.protocol, port.host_ip, port.host_port)
                if port.host_port and key in host_ports:
                    yield Finding(
                        (*here, "ports", number, "hostPort"),
                        f"{port.host_port} is a hostPort of {host_ports[key]} already",
                    )
                host_ports[key] = f"{field}[{index}]"
    for field, name in (("hostname", spec.hostname), ("subdomain", spec.subdomain)):
        if name and (fault := label_fault(name)):
            yield Finding((*path, field), fault)
    if spec.node_name and (fault := subdomain_fault(spec.node_name)):
        yield Finding((*path, "nodeName"), fault)
    yield from validate_labels(spec.node_selector, (*path, "nodeSelector"))
    for index, toleration in enumerate(spec.tolerations):
        here = (*path, "tolerations", index)
        if not toleration.key and toleration.operator != "Exists":
            yield Finding((*here, "operator"), "expected Exists where key is empty, found Equal")
        if toleration.operator == "Exists" and toleration.value:
            yield Finding((*here, "value"), "not allowed with operator Exists")
        if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
            yield Finding(
                (*here, "effect"),
                f"expected NoExecute where tolerationSeconds is set, found {found(toleration.effect)}",
            )
    yield from _validate_gates(spec, path)
    yield from _validate_affinity(spec, path)
    yield from _validate_dns(spec, path)
    for index, alias in enumerate(spec.host_aliases):
        if not is_address(alias.ip):
            yield Finding(
                (*path, "hostAliases", index, "ip"),
                f"expected an IP address, found {found(alias.ip)}",
            )
        for number, hostname in enumerate(alias.hostnames):
            if fault := subdomain_fault(hostname):
                yield Finding((*path, "hostAliases", index, "hostnames", number), fault)


def _validate_gates(spec: PodSpec, path: Path) -> Iterator[Finding]:
    """Yield the faults of scheduling gates and readiness gates."""
    names = [gate.name for gate in spec.scheduling_gates]
    for index, name in enumerate(names):
        here = (*path, "schedulingGates", index, "name")
        if fault := key_fault(name):
            yield Finding(here, fault)
        elif name in names[:index]:
            yield Finding(here, f"{found(name)} is listed twice")
    if names and spec.node_name:
        yield Finding((*path, "nodeName"), "may not be set until all schedulingGates are removed")
    for index, gate in enumerate(spec.readiness_gates):
        if fault := key_fault(gate.condition_type):
            yield Finding((*path, "readinessGates", index, "conditionType"), fault)


def _validate_container(container: Container, spec: PodSpec, path: Path) -> Iterator[Finding]:
    if fault := label_fault(container.name):
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
    names: set[str] = set()
    for index, port in enumerate(container.ports):
        here = (*path, "ports", index)
        if port.name:
            if fault := port_name_fault(port.name):
                yield Finding((*here, "name"), fault)
            if port.name in names:
                yield Finding(
                    (*here, "name"), f"{found(port.name)} names two ports of this container"
                )
            names.add(port.name)
        if port.host_ip and not is_address(port.host_ip):
            yield Finding((*here, "hostIP"), f"expected an IP address, found {found(port.host_ip)}")
        if spec.host_network and port.host_port not in (0, port.container_port):
            yield Finding(
                (*here, "hostPort"),
                f"expected {port.container_port} (a hostNetwork pod's hostPort is its containerPort), found {port.host_port}",
            )
    for field, probe in (
        ("readinessProbe", container.readiness_probe),
        ("livenessProbe", container.liveness_probe),
        ("startupProbe", container.startup_probe),
    ):
        if probe is not None:
            yield from _validate_probe(field, probe, (*path, field))
    for field, handler in (
        ("postStart", container.lifecycle.post_start),
        ("preStop", container.lifecycle.pre_stop),
    ):
        if handler is not None:
            yield from _validate_hook(handler, spec, (*path, "lifecycle", field))


def _validate_hook(hook: LifecycleHandler, spec: PodSpec, path: Path) -> Iterator[Finding]:
    names = ("exec", "httpGet", "sleep", "tcpSocket")
    handlers = [
        name
        for name, handler in zip(
            names, (hook.exec, hook.http_get, hook.sleep, hook.tcp_socket), strict=True
        )
        if handler is not None
    ]
    if not handlers:
        yield Finding(path, f"required: one of {', '.join(names)}")
    for extra in handlers[1:]:
        yield Finding((*path, extra), f"not allowed beside {handlers[0]}: a hook does one thing")
    if hook.sleep is not None and hook.sleep.seconds > spec.termination_grace_period_seconds:
        limit = f"at most terminationGracePeriodSeconds ({spec.termination_grace_period_seconds})"
        yield Finding((*path, "sleep", "seconds"), f"expected {limit}, found {hook.sleep.seconds}")
    if hook.tcp_socket is not None:
        yield Finding(
            (*path, "tcpSocket"),
            "Kubernetes accepts this hook and cannot run it: it always fails",
            is_unknown_field=True,
        )
    if (
        hook.http_get is not None
        and isinstance(hook.http_get.port, str)
        and (fault := port_name_fault(hook.http_get.port))
    ):
        yield Finding((*path, "httpGet", "port"), fault)


def _validate_probe(field: str, probe: Probe, path: Path) -> Iterator[Finding]:
    handlers = [
        name
        for name, handler in zip(
            _HANDLERS, (probe.http_get, probe.tcp_socket, probe.grpc, probe.exec), strict=True
        )
        if handler is not None
    ]
    if not handlers:
        yield Finding(path, f"required: one of {', '.join(_HANDLERS)}")
    for extra in handlers[1:]:
        yield Finding(
            (*path, extra), f"not allowed beside {handlers[0]}: a probe asks one question"
        )
    if field != "readinessProbe" and probe.success_threshold != 1:
        yield Finding(
            (*path, "successThreshold"), f"expected 1 in a {field}, found {probe.success_threshold}"
        )
    for handler, action in (("httpGet", probe.http_get), ("tcpSocket", probe.tcp_socket)):
        if (
            action is not None
            and isinstance(action.port, str)
            and (fault := port_name_fault(action.port))
        ):
            yield Finding((*path, handler, "port"), fault)


def _validate_affinity(spec: PodSpec, path: Path) -> Iterator[Finding]:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    affinity = spec.affinity
    nodes = affinity.node_affinity.required_during_scheduling_ignored_during_execution
    here = (*path, "affinity", "nodeAffinity", required, "nodeSelectorTerms")
    if nodes is not None and not nodes.node_selector_terms:
        yield Finding(here, "required: at least one term")
    for index, term in enumerate(nodes.node_selector_terms if nodes is not None else ()):
        for number, part in enumerate(term.match_expressions):
            place = (*here, index, "matchExpressions", number, "values")
            if part.operator in ("In", "NotIn") and not part.values:
                yield Finding(place, f"required with operator {part.operator}")
            if part.operator in ("Exists", "DoesNotExist") and part.values:
                yield Finding(place, f"not allowed with operator {part.operator}")
            if part.operator in ("Gt", "Lt") and (
                len(part.values) != 1 or not part.values[0].lstrip("-").isdigit()
            ):
                yield Finding(place, f"expected one whole number with operator {part.operator}")
    for field, terms in (
        ("podAffinity", affinity.pod_affinity.required_during_scheduling_ignored_during_execution),
        (
            "podAntiAffinity",
            affinity.pod_anti_affinity.required_during_scheduling_ignored_during_execution,
        ),
    ):
        for index, pod_term in enumerate(terms):
            if pod_term.label_selector is not None:
                yield from validate_selector(
                    pod_term.label_selector,
                    (*path, "affinity", field, required, index, "labelSelector"),
                )
    for index, constraint in enumerate(spec.topology_spread_constraints):
        if constraint.min_domains is not None and constraint.when_unsatisfiable != "DoNotSchedule":
            yield Finding(
                (*path, "topologySpreadConstraints", index, "minDomains"),
                "only with whenUnsatisfiable DoNotSchedule",
            )


def _validate_dns(spec: PodSpec, path: Path) -> Iterator[Finding]:
    config, here = spec.dns_config, (*path, "dnsConfig")
    if spec.dns_policy == "None" and not config.nameservers:
        yield Finding((*here, "nameservers"), "required with dnsPolicy None")
    if len(config.nameservers) > 3:
        yield Finding(
            (*here, "nameservers"), f"expected at most 3, found {len(config.nameservers)}"
        )
    for index, server in enumerate(config.nameservers):
        if not is_address(server):
            yield Finding(
                (*here, "nameservers", index), f"expected an IP address, found {found(server)}"
            )
    if len(config.searches) > 32:
        yield Finding((*here, "searches"), f"expected at most 32, found {len(config.searches)}")
    for index, search in enumerate(config.searches):
        if search != "." and (fault := subdomain_fault(search.removesuffix("."))):
            yield Finding((*here, "searches", index), fault)
