"""Diagnostics of objects that Kubernetes accepts: the field of each, and similar valid objects."""

from __future__ import annotations

import json
import shlex

import pytest
from msgspec import structs

from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment
from kubenetlab.api.manifests.load import load_documents
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.text.decode import format_path
from kubenetlab.api.text.documents import read_documents
from kubenetlab.diagnostics import (
    DUPLICATE_ADDRESS,
    GATEWAY_UNREACHABLE,
    MISCONFIGURATIONS,
    Connection,
    Diagnostic,
    diagnose,
    refused_codes,
)
from kubenetlab.lab.bootstrap import bootstrap_store
from tests.clusters import running, store

WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: main, image: example/shop, ports: [{containerPort: 8080, name: http}]}]
---
"""
NODES = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnodes: [{role: control-plane}, {role: "
    "worker}]\n---\n"
)


def diagnostics_of(text: str, nodes: str = NODES) -> list[Diagnostic]:
    documents, problems = read_documents("m.yaml", (nodes + text).encode())
    loaded = load_documents(documents, problems)
    config, *entries = loaded.entries
    return list(diagnose(bootstrap_store(config, entries, 0.0).cluster))


def service(spec: str) -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {spec}\n---\n"


def pod(spec: str) -> str:
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: one, labels: {{app: one}}}}\nspec: {spec}\n"
        "---\n"
    )


ENDPOINTS = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{{}port: 8080}}]
endpoints: {}
---
"""


def main(fields: str) -> str:
    """Return a pod with one container."""
    return pod(f"{{containers: [{{name: main, image: x{fields}}}]}}")


WRONG = [
    (
        WEB + service("{selector: {app: wbe}, ports: [{port: 80}]}"),
        "selector-matches-no-pod",
        "spec.selector",
        "did you mean app=web?",
    ),
    (
        WEB + service("{selector: {ap: web}, ports: [{port: 80}]}"),
        "selector-matches-no-pod",
        "spec.selector",
        "did you mean app?",
    ),
    (
        WEB + service("{selector: {app: web}, ports: [{port: 80, targetPort: htp}]}"),
        "port-name-unknown",
        "spec.ports[0].targetPort",
        "did you mean http?",
    ),
    (
        WEB
        + service("{selector: {app: web}, clusterIP: None, ports: [{port: 80, targetPort: htp}]}"),
        "port-name-unknown",
        "spec.ports[0].targetPort",
        "named htp",
    ),
    (
        WEB
        + service(
            "{selector: {app: web}, ports: [{name: a, port: 8080}, {name: b, port: 80, "
            "targetPort: 9090}]}"
        ),
        "port-not-served",
        "spec.ports[1].targetPort",
        "nothing listens on 9090/TCP",
    ),
    (
        WEB + service("{selector: {app: web}, ports: [{port: 8080, protocol: UDP}]}"),
        "port-not-served",
        "spec.ports[0].targetPort",
        "nothing listens on 8080/UDP",
    ),
    (
        service("{ports: [{port: 80}]}"),
        "no-selector-no-endpoints",
        "spec",
        "neither a selector nor endpoints",
    ),
    (
        service("{ports: [{port: 80}]}") + ENDPOINTS.format("", "[]"),
        "no-selector-no-endpoints",
        "spec",
        "neither a selector nor endpoints",
    ),
    (
        service("{ports: [{name: http, port: 80}]}")
        + ENDPOINTS.format("name: htp, ", "[{addresses: [10.9.9.9]}]"),
        "port-name-unknown",
        "spec.ports[0].name",
        "no endpoint has a TCP port named http; did you mean htp?: connections are refused",
    ),
    (
        service("{ports: [{port: 80, protocol: UDP}]}")
        + ENDPOINTS.format("", "[{addresses: [10.9.9.9]}]"),
        "port-name-unknown",
        "spec.ports[0].name",
        "no endpoint has a UDP port without a name",
    ),
    (
        service("{type: ExternalName, externalName: 10.1.2.3}"),
        "external-name-is-address",
        "spec.externalName",
        "10.1.2.3 is an address",
    ),
    (
        main(", ports: [{containerPort: 80}], readinessProbe: {httpGet: {port: 81}}"),
        "probe-cannot-succeed",
        "spec.containers[0].readinessProbe.httpGet.port",
        "nothing in the pod listens on 81/TCP; it listens on 80/TCP",
    ),
    (
        main(", ports: [{containerPort: 80, name: web}], livenessProbe: {tcpSocket: {port: wbe}}"),
        "probe-cannot-succeed",
        "spec.containers[0].livenessProbe.tcpSocket.port",
        "did you mean web?",
    ),
    (
        pod("{nodeName: wroker, containers: [{name: main, image: x}]}"),
        "no-such-node",
        "spec.nodeName",
        "did you mean worker?",
    ),
    (
        pod(
            "{nodeSelector: {kubernetes.io/hostname: worker9}, containers: [{name: main, "
            "image: x}]}"
        ),
        "no-node-fits",
        "spec.nodeSelector",
        "kubernetes.io/hostname=worker9",
    ),
]


@pytest.mark.parametrize(
    ("text", "code", "path", "words"),
    WRONG,
    ids=[f"{entry[1]}-{index}" for index, entry in enumerate(WRONG)],
)
def test_a_misconfiguration_has_one_diagnostic(text: str, code: str, path: str, words: str) -> None:
    """It is at the wrong field, with the nearest valid value."""
    (diagnostic,) = diagnostics_of(text)
    assert (diagnostic.code, format_path(diagnostic.path)) == (code, path)
    assert words in diagnostic.message
    assert code in MISCONFIGURATIONS


def test_a_label_that_no_node_has_is_reported_with_the_command_that_sets_it() -> None:
    """A Node document adds labels to a node of the Cluster document."""
    (diagnostic,) = diagnostics_of(
        pod("{nodeSelector: {disktype: ssd}, containers: [{name: main, image: x}]}")
    )
    (hint,) = diagnostic.hints
    _, _, command = hint.partition(": ")
    echo, document, *rest = shlex.split(command)
    assert [echo, *rest] == ["echo", "|", "kubenetlab", "apply", "-f", "-"]
    assert json.loads(document)["metadata"]["labels"] == {"disktype": "ssd"}
    (typo,) = diagnostics_of(
        pod("{nodeSelector: {kubernetes.io/hostnam: worker}, containers: [{name: main, image: x}]}")
    )
    assert "did you mean" in typo.message
    assert not typo.hints


SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.1.2.3]}]
"""


@pytest.mark.parametrize(
    "text",
    [
        WEB + service("{selector: {app: web}, ports: [{port: 80, targetPort: http}]}"),
        WEB + service("{selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}"),
        WEB + service("{selector: {app: web}, clusterIP: None, ports: [{port: 1}]}"),
        WEB.replace(
            "{labels: {app: web}}",
            "{labels: {app: web}, annotations: {kubenetlab.dev/listen: 9090/TCP}}",
        )
        + service("{selector: {app: web}, ports: [{port: 9090}]}"),
        main("") + service("{selector: {app: one}, ports: [{port: 7}]}"),
        service("{type: ExternalName, externalName: db.example.com}"),
        service("{ports: [{port: 80}]}") + SLICE,
        main(", readinessProbe: {httpGet: {port: 80, host: 10.1.2.3}}"),
        service("{ports: [{name: http, port: 80}]}")
        + "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\n"
        + "subsets: [{addresses: [{ip: 10.9.9.9}], ports: [{name: http, port: 80}]}]\n---\n",
        service("{ports: [{name: http, port: 80}]}")
        + ENDPOINTS.format("name: http, ", "[{addresses: [10.9.9.9]}]"),
        main(", readinessProbe: {exec: {command: [cat]}}"),
        pod(
            "{nodeSelector: {kubernetes.io/hostname: worker}, containers: [{name: main, image: x}]}"
        ),
    ],
)
def test_valid_objects_have_no_diagnostics(text: str) -> None:
    """The lab's own objects, such as default/kubernetes without endpoints, have none either."""
    assert diagnostics_of(text) == []


def test_allow_undeclared_accepts_only_undeclared_target_ports() -> None:
    """All other misconfigurations are still errors."""
    assert set(refused_codes(allow_undeclared=False)) - set(
        refused_codes(allow_undeclared=True)
    ) == {"port-not-served"}


ROUTED = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: worker, segment: x}, {role: worker, segment: x}, {role: worker}]
fabric: {topology: routed}
networking: {cni: %s}
---
"""


def routed_diagnostics(cni: str, nodes: str = "") -> list[Diagnostic]:
    text = (ROUTED % cni).replace("{role: worker}]", nodes or "{role: worker}]")
    documents, problems = read_documents("m.yaml", text.encode())
    config, *entries = load_documents(documents, problems).entries
    return list(diagnose(bootstrap_store(config, entries, 0.0).cluster))


def test_addresses_of_two_holders_are_reported() -> None:
    """Pods share an address with each other, or with a node; stale attachments do not count."""
    cluster = running(store(pod("{nodeName: worker, containers: [{name: main, image: x}]}")))
    attachment = cluster.get(Attachment, "default", "one")
    assert attachment is not None
    (address,) = attachment.addresses
    second = structs.replace(attachment, metadata=ObjectMeta(name="two", namespace="default"))
    cluster = cluster.with_changes([second])
    (diagnostic,) = diagnose(cluster)
    assert diagnostic.code == DUPLICATE_ADDRESS
    assert f"duplicate address {address}: pods default/one and default/two" in diagnostic.message
    assert diagnostic.scope.covers(Connection(source="default/two"))
    assert diagnostic.scope.covers(Connection(destinations=frozenset(["default/one"])))
    assert not diagnostic.scope.covers(Connection(source="default/three"))
    assert not diagnose(cluster.with_changes([structs.replace(second, is_stale=True)]))
    node = cluster.all(Node)[1]
    of_node = structs.replace(second, addresses=node.addresses)
    (diagnostic,) = diagnose(cluster.with_changes([of_node]))
    assert f"pod default/two and node {node.name}" in diagnostic.message


def test_routes_by_nodes_of_other_segments_are_reported() -> None:
    """The diagnostic names a route, its gateway, and the number of such routes."""
    (diagnostic,) = routed_diagnostics("{type: flannel, backend: host-gw}")
    assert diagnostic.code == GATEWAY_UNREACHABLE
    assert format_path(diagnostic.path) == "fabric.topology"
    assert (
        "worker has no route to the pods of worker3 (10.244.2.0/24), because the gateway "
        "172.18.2.2 is not on-link, and 3 more routes"
    ) in diagnostic.message
    assert diagnostic.scope.into == diagnostic.scope.out_of
    assert any("coredns" in pod for pod in diagnostic.scope.into)


@pytest.mark.parametrize(
    ("cni", "nodes"),
    [
        ("{type: flannel}", ""),
        ("{type: flannel, directRouting: true}", ""),
        ("none", ""),
        ("{type: flannel, backend: host-gw}", "{role: worker, segment: x}]"),
    ],
)
def test_modes_that_cross_a_router_are_not_reported(cni: str, nodes: str) -> None:
    """Nor is a mode whose nodes are all on one segment."""
    assert routed_diagnostics(cni, nodes) == []
