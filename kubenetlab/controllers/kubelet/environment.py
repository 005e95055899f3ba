"""Environment variables of containers.

The sources are the manifest, ConfigMaps and Secrets, fields of the pod, and the Services of its
namespace.
Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (makeEnvironmentVariables),
pkg/kubelet/envvars/envvars.go, third_party/forked/golang/expansion (1.33).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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
"""Service whose variables every container gets (the name is upstream's)."""
_LABEL_PATH = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class MissingError(Exception):
    """A required ConfigMap, Secret or key is missing; the text is the kubelet's."""


def environment(
    cluster: Cluster, pod: Pod, container: Container, *, until: str | None = None
) -> dict[str, str]:
    """Return the variables of a container, name → value.

    until: time in RFC 3339. Only Services created until then count, because the environment of a
    container is fixed when it starts. None: all Services count.
    Raises MissingError.
    """
    services = _services(cluster, pod, until)
    variables = _from_sources(cluster, pod, container)
    for variable in container.env:
        value = _value(cluster, pod, variable, {**services, **variables})
        if value is not None:
            variables[variable.name] = value
    return {**services, **variables}


def _from_sources(cluster: Cluster, pod: Pod, container: Container) -> dict[str, str]:
    """Return the variables of envFrom: all keys of the referenced ConfigMaps and Secrets."""
    variables: dict[str, str] = {}
    for source in container.env_from:
        for kind, reference in ((ConfigMap, source.config_map_ref), (Secret, source.secret_ref)):
            if reference is not None:
                variables |= {
                    source.prefix + key: value
                    for key, value in _all_values(cluster, pod, kind, reference).items()
                }
    return variables


def _check_references(cluster: Cluster, pod: Pod, container: Container) -> None:
    """Check everything that a container refers to. Raises MissingError."""
    _from_sources(cluster, pod, container)
    for variable in container.env:
        if variable.value_from is not None and variable.value_from.field_ref is None:
            _referenced_value(cluster, pod, variable.value_from)


def container_config_errors(cluster: Cluster, pod: Pod) -> dict[str, str]:
    """Return container → reason, in the kubelet's words, for those that cannot be started."""
    errors: dict[str, str] = {}
    for container in pod.spec.all_containers:
        if container.env_from or any(variable.value_from is not None for variable in container.env):
            try:
                _check_references(cluster, pod, container)
            except MissingError as error:
                errors[container.name] = str(error)
    return errors


def with_resolved_variables(cluster: Cluster, pod: Pod) -> Pod:
    """Return the pod with every variable of its containers as a plain value."""
    spec = pod.spec
    containers = {
        field: tuple(_resolved(cluster, pod, container) for container in getattr(spec, field))
        for field in ("init_containers", "containers")
    }
    resolved_spec: PodSpec = structs.replace(spec, **containers)
    return structs.replace(pod, spec=resolved_spec)


def has_references(spec: PodSpec) -> bool:
    """Return True when a variable or an argument of a container refers to another value."""
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
        return container  # the kubelet does not start it
    return structs.replace(
        container,
        env=tuple(EnvVar(name, value) for name, value in values.items()),
        env_from=(),
    )


def _value(cluster: Cluster, pod: Pod, variable: EnvVar, known: Mapping[str, str]) -> str | None:
    """Return the value of a variable; None when it is left out."""
    source = variable.value_from
    if source is None:
        return expand(variable.value, known)
    if source.field_ref is not None:
        return _field(cluster, pod, source.field_ref.field_path)
    return _referenced_value(cluster, pod, source)


def _referenced_value(cluster: Cluster, pod: Pod, source: EnvVarSource) -> str | None:
    """Return the value of a key of a ConfigMap or Secret; None when it is optional and missing.

    Raises MissingError.
    """
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
            if holder is None:
                raise MissingError(f'{kind.kind.lower()} "{selector.name}" not found')
            title = f"{kind.kind} {pod.namespace}/{selector.name}"
            raise MissingError(f"couldn't find key {selector.key} in {title}")
    return None


def _all_values(
    cluster: Cluster, pod: Pod, kind: type[ConfigMap | Secret], reference: SourceReference
) -> Mapping[str, str]:
    """Return all values of a ConfigMap or Secret. Raises MissingError."""
    holder = cluster.get(kind, pod.namespace, reference.name)
    if holder is None and not reference.optional:
        raise MissingError(f'{kind.kind.lower()} "{reference.name}" not found')
    return holder.values if holder is not None else {}


def _field(cluster: Cluster, pod: Pod, path: str) -> str | None:
    """Return a field of the pod, as the downward API gives it."""
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
    """Return the variables of Services.

    The namespace's Services count unless enableServiceLinks is false, the API server's always.
    """
    namespaces = (pod.namespace,) if pod.spec.enable_service_links else ()
    entries = [
        entry
        for namespace in namespaces
        for entry in _of_namespace(cluster, namespace)
        if until is None or entry[0] <= until
    ]
    master = cluster.get(Service, *MASTER_SERVICE)
    values = dict(_variables(master)) if master is not None and master.cluster_ips else {}
    for _, variables in entries:
        values |= variables
    return values


def _of_namespace(cluster: Cluster, namespace: str) -> list[tuple[str, dict[str, str]]]:
    """Return (creation time, variables) of each Service of a namespace.

    The result is computed once for all pods.
    """
    return cluster.index(Service, _variables_by_time, namespace)


def _variables_by_time(
    services: Iterable[Service], namespace: str
) -> list[tuple[str, dict[str, str]]]:
    return [
        (service.metadata.creation_timestamp or "", dict(_variables(service)))
        for service in services
        if service.namespace == namespace and service.cluster_ips
    ]


def _variables(service: Service) -> Iterator[tuple[str, str]]:
    """Yield a Service's variables: `WEB_SERVICE_HOST`, `WEB_PORT_80_TCP_ADDR` and the others."""
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
