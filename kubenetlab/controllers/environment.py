"""The environment of containers: what manifests say, ConfigMaps and Secrets, the pod's own fields, and its namespace's Services.

Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (makeEnvironmentVariables), pkg/kubelet/envvars/envvars.go,
third_party/forked/golang/expansion (1.33).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import structs

from kubenetlab.api.containers import Container
from kubenetlab.api.core import Service
from kubenetlab.api.environment import (
    ConfigMap,
    EnvVar,
    EnvVarSource,
    KeySelector,
    Secret,
    SourceReference,
    expand,
)
from kubenetlab.api.pods import Pod, PodSpec
from kubenetlab.api.store import Cluster
from kubenetlab.names import socket_address

MASTER_SERVICE: Final = ("default", "kubernetes")
_LABEL_PATH = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class MissingError(Exception):
    """A ConfigMap, a Secret or a key that must be there is not; the text is the kubelet's."""


def environment(
    cluster: Cluster, pod: Pod, container: Container, *, until: str | None = None
) -> dict[str, str]:
    """Name → value. With `until`, a time as Kubernetes writes it, only Services count that were there by then: a container's environment
    is fixed when it starts. Raises MissingError."""
    services = _services(cluster, pod, until)
    found = _from_sources(cluster, pod, container)
    for variable in container.env:
        value = _value(cluster, pod, variable, {**services, **found})
        if value is not None:
            found[variable.name] = value
    return {**services, **found}


def _from_sources(cluster: Cluster, pod: Pod, container: Container) -> dict[str, str]:
    """What whole ConfigMaps and Secrets give."""
    found: dict[str, str] = {}
    for source in container.env_from:
        for kind, reference in ((ConfigMap, source.config_map_ref), (Secret, source.secret_ref)):
            if reference is not None:
                found |= {
                    source.prefix + key: value
                    for key, value in _all_of(cluster, pod, kind, reference).items()
                }
    return found


def _all_referred(cluster: Cluster, pod: Pod, container: Container) -> None:
    """Looks for all that a container refers to. Raises MissingError."""
    _from_sources(cluster, pod, container)
    for variable in container.env:
        if variable.value_from is not None and variable.value_from.field_ref is None:
            _referred(cluster, pod, variable.value_from)


def container_config_errors(cluster: Cluster, pod: Pod) -> dict[str, str]:
    """Container → why it cannot be started, in the kubelet's words."""
    found: dict[str, str] = {}
    for container in pod.spec.all_containers:
        if container.env_from or any(variable.value_from is not None for variable in container.env):
            try:
                _all_referred(cluster, pod, container)
            except MissingError as missing:
                found[container.name] = str(missing)
    return found


def resolved(cluster: Cluster, pod: Pod) -> Pod:
    """The pod with every variable of its containers as a plain value."""
    spec = pod.spec
    changed = {
        field: tuple(_resolved(cluster, pod, container) for container in getattr(spec, field))
        for field in ("init_containers", "containers")
    }
    new: PodSpec = structs.replace(spec, **changed)
    return structs.replace(pod, spec=new)


def refers(spec: PodSpec) -> bool:
    """True when a container's variables or words refer to something."""
    for container in spec.all_containers:
        words = (
            *container.command,
            *container.args,
            *(variable.value for variable in container.env),
        )
        if (
            container.env_from
            or any(variable.value_from for variable in container.env)
            or any("$" in word for word in words)
        ):
            return True
    return False


def _resolved(cluster: Cluster, pod: Pod, container: Container) -> Container:
    try:
        values = environment(cluster, pod, container)
    except MissingError:
        return container  # it is not started
    return structs.replace(
        container,
        env=tuple(EnvVar(name, value) for name, value in values.items()),
        env_from=(),
    )


def _value(cluster: Cluster, pod: Pod, variable: EnvVar, known: Mapping[str, str]) -> str | None:
    """None for a variable that is left out."""
    source = variable.value_from
    if source is None:
        return expand(variable.value, known)
    if source.field_ref is not None:
        return _field(cluster, pod, source.field_ref.field_path)
    return _referred(cluster, pod, source)


def _referred(cluster: Cluster, pod: Pod, source: EnvVarSource) -> str | None:
    selectors: tuple[tuple[type[ConfigMap | Secret], KeySelector | None], ...] = (
        (ConfigMap, source.config_map_key_ref),
        (Secret, source.secret_key_ref),
    )
    for kind, selector in selectors:
        if selector is None:
            continue
        holder = cluster.get(kind, pod.namespace, selector.name)
        if holder is not None and selector.key in holder.values:
            return holder.values[selector.key]
        if not selector.optional:
            what = kind.kind.lower()
            raise MissingError(
                f'{what} "{selector.name}" not found'
                if holder is None
                else f"couldn't find key {selector.key} in {kind.kind} {pod.namespace}/{selector.name}"
            )
    return None


def _all_of(
    cluster: Cluster, pod: Pod, kind: type[ConfigMap | Secret], reference: SourceReference
) -> Mapping[str, str]:
    holder = cluster.get(kind, pod.namespace, reference.name)
    if holder is None and not reference.optional:
        raise MissingError(f'{kind.kind.lower()} "{reference.name}" not found')
    return holder.values if holder is not None else {}


def _field(cluster: Cluster, pod: Pod, path: str) -> str | None:
    """A field of the pod, as the downward API gives it."""
    if match := _LABEL_PATH.fullmatch(path):
        labels = pod.metadata.labels if match[1] == "labels" else pod.metadata.annotations
        return labels.get(match[2], "")
    node = cluster.node(pod.spec.node_name)
    return {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": pod.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": "default",
        "status.hostIP": node.addresses[0] if node and node.addresses else "",
        "status.hostIPs": ",".join(node.addresses) if node else "",
        "status.podIP": pod.addresses[0] if pod.addresses else "",
        "status.podIPs": ",".join(pod.addresses),
    }.get(path)


def _services(cluster: Cluster, pod: Pod, until: str | None) -> dict[str, str]:
    """The variables of the namespace's Services, where they are wanted, and always those of the API server's."""
    wanted = (pod.namespace,) if pod.spec.enable_service_links else ()
    told = [
        entry
        for namespace in wanted
        for entry in _of_namespace(cluster, namespace)
        if until is None or entry[0] <= until
    ]
    master = cluster.get(Service, *MASTER_SERVICE)
    found = dict(_variables(master)) if master is not None and master.cluster_ips else {}
    for _, variables in told:
        found |= variables
    return found


def _of_namespace(cluster: Cluster, namespace: str) -> list[tuple[str, dict[str, str]]]:
    """(since when, its variables) of each Service of a namespace: computed once, however many pods ask."""
    found: list[tuple[str, dict[str, str]]] = cluster.derived(
        ("service variables", namespace),
        lambda: [
            (service.metadata.creation_timestamp or "", dict(_variables(service)))
            for service in cluster.all(Service, namespace)
            if service.cluster_ips
        ],
        (Service,),
    )
    return found


def _variables(service: Service) -> Iterator[tuple[str, str]]:
    """`WEB_SERVICE_HOST`, `WEB_SERVICE_PORT`, and Docker's old links: `WEB_PORT_80_TCP_ADDR` …"""
    prefix, address = _name(service.name), service.cluster_ips[0]
    yield f"{prefix}_SERVICE_HOST", address
    for index, port in enumerate(service.spec.ports):
        if index == 0:
            yield f"{prefix}_SERVICE_PORT", str(port.port)
        if port.name:
            yield f"{prefix}_SERVICE_PORT_{_name(port.name)}", str(port.port)
    for index, port in enumerate(service.spec.ports):
        protocol = port.protocol.lower()
        link = f"{prefix}_PORT_{port.port}_{port.protocol}"
        if index == 0:
            yield f"{prefix}_PORT", f"{protocol}://{socket_address(address, port.port)}"
        yield link, f"{protocol}://{socket_address(address, port.port)}"
        yield f"{link}_PROTO", protocol
        yield f"{link}_PORT", str(port.port)
        yield f"{link}_ADDR", address


def _name(name: str) -> str:
    return name.upper().replace("-", "_")
