"""Pods that can never be ready: a probe that cannot succeed, a node that does not exist."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping

from kubenetlab.api.containers import Container, Probe
from kubenetlab.api.core import Node
from kubenetlab.api.documents import Path
from kubenetlab.api.meta import kubernetes_name, matches_labels
from kubenetlab.api.store import Cluster
from kubenetlab.diagnostics.model import Diagnostic, Scope
from kubenetlab.diagnostics.templates import PodTemplate, Templates
from kubenetlab.errors import did_you_mean

_KINDS = ("startup_probe", "readiness_probe", "liveness_probe")


def check_pods(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Check every workload and every bare pod that a user gave."""
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
        here = (*path, kubernetes_name(name), "port")
        number = action.port
        if isinstance(number, str):
            names = [port.name for port in container.ports if port.name]
            number = next(
                (port.container_port for port in container.ports if port.name == action.port), None
            )
            if number is None:
                known = f"; its ports: {', '.join(names) or 'none has a name'}"
                message = f"container {container.name} has no port named {action.port}{did_you_mean(action.port, names) or known}"
                yield _of(template, "probe-cannot-succeed", here, message)
                continue
        elsewhere = getattr(action, "host", "")
        if (
            not elsewhere
            and template.listening is not None
            and ("TCP", number) not in template.listening
        ):
            listening = (
                ", ".join(f"{port}/{protocol}" for protocol, port in sorted(template.listening))
                or "no port"
            )
            yield _of(
                template,
                "probe-cannot-succeed",
                here,
                f"nothing in the pod listens on {number}/TCP; it listens on {listening}",
            )


def _check_nodes(cluster: Cluster, template: PodTemplate) -> Iterator[Diagnostic]:
    """Check that some node has the labels that are asked for; taints and room are the scheduler's to tell."""
    nodes, spec = cluster.all(Node), template.spec
    if not nodes:
        return
    if spec.node_name:
        if cluster.node(spec.node_name) is None:
            names = [node.name for node in nodes]
            message = f"there is no node {spec.node_name}{did_you_mean(spec.node_name, names)}; the cluster has {', '.join(names)}"
            yield _of(template, "no-such-node", (*template.path, "nodeName"), message)
        return
    selector = spec.node_selector
    if selector and not any(matches_labels(selector, node.labels) for node in nodes):
        words = ",".join(f"{key}={value}" for key, value in selector.items())
        known = sorted(
            {
                f"{key}={node.labels[key]}"
                for key in selector
                for node in nodes
                if key in node.labels
            }
        )
        labels = sorted({key for node in nodes for key in node.labels})
        guess = next(
            (
                guess
                for key in selector
                if key not in labels and (guess := did_you_mean(key, labels))
            ),
            "",
        )
        advice = "" if guess else _label_a_node(nodes[-1].name, selector)
        hints = (f"nodes have: {', '.join(known)}",) if known else (advice,) if advice else ()
        message = f"no node has the labels {words}{guess}"
        yield _of(template, "no-node-fits", (*template.path, "nodeSelector"), message, hints)
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
        yield _of(template, "no-node-fits", path, "no node fulfils any of these terms")


def _label_a_node(name: str, labels: Mapping[str, str]) -> str:
    """Return the command that gives a node labels."""
    document = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": dict(labels)},
    }
    return f"to label a node: echo {shlex.quote(json.dumps(document))} | kubenetlab apply -f -"


def _of(
    template: PodTemplate, code: str, path: Path, message: str, hints: tuple[str, ...] = ()
) -> Diagnostic:
    owner = template.owner
    services = tuple(f"{service.namespace}/{service.name}" for service in template.services)
    scope = Scope(services=services, into=template.pods, out_of=template.pods)
    return Diagnostic(code, owner.kind, owner.namespace, owner.name, path, message, hints, scope)
