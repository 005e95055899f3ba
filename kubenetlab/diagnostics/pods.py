"""Diagnostics of pods that can never become ready: their probes cannot succeed, or no node fits."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence

from kubenetlab.api.containers import Container, Probe
from kubenetlab.api.core import Node
from kubenetlab.api.meta import kubernetes_name, matches_labels
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.diagnostics.model import Diagnostic, Scope
from kubenetlab.diagnostics.templates import PodTemplate, Templates
from kubenetlab.errors import did_you_mean

_KINDS = ("startup_probe", "readiness_probe", "liveness_probe")


def check_pods(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Check every workload and every pod without a controller that a user created."""
    for template in templates:
        owner = template.owner
        if (owner.kind, *owner.key) in cluster.given and not owner.is_terminating:
            yield from _check_probes(template)
            yield from _check_nodes(cluster, template)


def _check_probes(template: PodTemplate) -> Iterator[Diagnostic]:
    spec = template.spec
    for field, containers in (
        ("initContainers", spec.init_containers),
        ("containers", spec.containers),
    ):
        for index, container in enumerate(containers):
            if field == "initContainers" and not container.is_sidecar:
                continue
            for kind in _KINDS:
                probe: Probe | None = getattr(container, kind)
                if probe is not None:
                    path = (*template.path, field, index, kubernetes_name(kind))
                    yield from _check_probe(template, container, probe, path)


def _check_probe(
    template: PodTemplate, container: Container, probe: Probe, path: Path
) -> Iterator[Diagnostic]:
    for name in ("http_get", "tcp_socket", "grpc"):
        action = getattr(probe, name)
        if action is None:
            continue
        port_path = (*path, kubernetes_name(name), "port")
        number = action.port
        if isinstance(number, str):
            names = [port.name for port in container.ports if port.name]
            number = next(
                (port.container_port for port in container.ports if port.name == action.port), None
            )
            if number is None:
                known = f"; its ports: {', '.join(names) or 'none has a name'}"
                guess = did_you_mean(action.port, names) or known
                message = f"container {container.name} has no port named {action.port}{guess}"
                yield _diagnostic(template, "probe-cannot-succeed", port_path, message)
                continue
        has_other_host = bool(getattr(action, "host", ""))
        if (
            not has_other_host
            and template.listening is not None
            and ("TCP", number) not in template.listening
        ):
            listening = (
                ", ".join(f"{port}/{protocol}" for protocol, port in sorted(template.listening))
                or "no port"
            )
            message = f"nothing in the pod listens on {number}/TCP; it listens on {listening}"
            yield _diagnostic(template, "probe-cannot-succeed", port_path, message)


def _check_nodes(cluster: Cluster, template: PodTemplate) -> Iterator[Diagnostic]:
    """Check that a node has the required name or labels.

    The scheduler reports taints and a lack of capacity.
    """
    nodes, spec = cluster.all(Node), template.spec
    if not nodes:
        return
    if spec.node_name:
        if cluster.node(spec.node_name) is None:
            names = [node.name for node in nodes]
            guess = did_you_mean(spec.node_name, names)
            message = (
                f"there is no node {spec.node_name}{guess}; the cluster has {', '.join(names)}"
            )
            yield _diagnostic(template, "no-such-node", (*template.path, "nodeName"), message)
        return
    selector = spec.node_selector
    if selector and not any(matches_labels(selector, node.labels) for node in nodes):
        yield _selector_diagnostic(template, nodes)
    required = spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution
    if required is not None and not any(
        term.matches(node.name, node.labels)
        for term in required.node_selector_terms
        for node in nodes
    ):
        path = (
            *template.path,
            "affinity",
            "nodeAffinity",
            "requiredDuringSchedulingIgnoredDuringExecution",
        )
        yield _diagnostic(template, "no-node-fits", path, "no node matches any of these terms")


def _selector_diagnostic(template: PodTemplate, nodes: Sequence[Node]) -> Diagnostic:
    """Return the diagnostic of a nodeSelector that no node matches."""
    selector = template.spec.node_selector
    required = ",".join(f"{key}={value}" for key, value in selector.items())
    known = sorted(
        {f"{key}={node.labels[key]}" for key in selector for node in nodes if key in node.labels}
    )
    keys = sorted({key for node in nodes for key in node.labels})
    guesses = (did_you_mean(key, keys) for key in selector if key not in keys)
    guess = next((guess for guess in guesses if guess), "")
    hints: tuple[str, ...] = ()
    if known:
        hints = (f"nodes have: {', '.join(known)}",)
    elif not guess:
        hints = (_label_command(nodes[-1].name, selector),)
    message = f"no node has the labels {required}{guess}"
    return _diagnostic(template, "no-node-fits", (*template.path, "nodeSelector"), message, hints)


def _label_command(name: str, labels: Mapping[str, str]) -> str:
    """Return a hint with the command that adds labels to a node."""
    document = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": dict(labels)},
    }
    return f"to label a node: echo {shlex.quote(json.dumps(document))} | kubenetlab apply -f -"


def _diagnostic(
    template: PodTemplate, code: str, path: Path, message: str, hints: tuple[str, ...] = ()
) -> Diagnostic:
    services = tuple(f"{service.namespace}/{service.name}" for service in template.services)
    scope = Scope(services=services, into=template.pods, out_of=template.pods)
    return Diagnostic.of(template.owner, code, path, message, *hints, scope=scope)
