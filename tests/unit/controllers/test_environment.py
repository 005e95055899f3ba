"""What containers are told by environment variables."""

from __future__ import annotations

import pytest

from kubenetlab.api.environment import Secret, expand
from kubenetlab.controllers.environment import MissingError, environment
from tests.clusters import (
    IPV6,
    NOW,
    applied,
    pod_named,
    problems_of,
    running,
    service,
    settled,
    store,
)

MAPS = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
data: {MODE: test, port: "8088"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
data: {old: b2xk}
stringData: {token: s3cret}
---
"""


def manifest(container: str, spec: str = "") -> str:
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{app: web}}}}\nspec:\n  containers:\n  - {{name: main, image: agnhost, {container}}}{spec}\n---\n"


def told(text: str, until: str | None = None) -> dict[str, str]:
    """The variables of the pod `a`, without those of Services."""
    cluster = running(store(text))
    pod = pod_named(cluster, "a")
    found = environment(cluster, pod, pod.spec.containers[0], until=until)
    return {name: value for name, value in found.items() if not name.startswith("KUBERNETES_")}


def test_values_come_from_maps_secrets_and_the_pod() -> None:
    """Literal, by key, whole with a prefix, by field; a later one may refer to an earlier one, and env wins over envFrom."""
    found = told(
        MAPS
        + manifest(
            """envFrom: [{prefix: S_, configMapRef: {name: shop}}, {secretRef: {name: keys}}], env: [
      {name: LITERAL, value: plain}, {name: MODE, valueFrom: {configMapKeyRef: {name: shop, key: MODE}}},
      {name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}}, {name: token, value: mine},
      {name: ME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}},
      {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}, {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}},
      {name: BOTH, value: "$(MODE)-$(ME)-$(NOBODY)-$$(MODE)"}, {name: GONE, valueFrom: {configMapKeyRef: {name: nil, key: x, optional: true}}}]"""
        )
    )
    assert found == {
        "S_MODE": "test", "S_port": "8088", "old": "old", "token": "mine", "LITERAL": "plain", "MODE": "test", "TOKEN": "s3cret",
        "ME": "a", "IP": "10.244.1.2", "APP": "web", "NODE": "worker", "BOTH": "test-a-$(NOBODY)-$(MODE)",
    }  # fmt: skip


def test_a_secret_is_stored_in_base64() -> None:
    """stringData goes into data, as the API server does it."""
    cluster = store(MAPS)
    secret = cluster.get(Secret, "default", "keys")
    assert secret is not None
    assert (secret.data, secret.string_data) == ({"old": "b2xk", "token": "czNjcmV0"}, {})


def test_services_are_told_as_docker_links_and_by_host_and_port() -> None:
    """Those of the namespace, and always the API server's; not those that came later; none where they are not wanted."""
    other = service("elsewhere").replace("name: elsewhere", "name: elsewhere, namespace: other")
    cluster = running(store(service("my-web") + other + manifest("args: [netexec]")))
    pod = pod_named(cluster, "a")
    found = environment(cluster, pod, pod.spec.containers[0])
    address = found["MY_WEB_SERVICE_HOST"]
    assert {name: value for name, value in found.items() if name.startswith("MY_WEB")} == {
        "MY_WEB_SERVICE_HOST": address, "MY_WEB_SERVICE_PORT": "80", "MY_WEB_PORT": f"tcp://{address}:80", "MY_WEB_PORT_80_TCP": f"tcp://{address}:80",
        "MY_WEB_PORT_80_TCP_PROTO": "tcp", "MY_WEB_PORT_80_TCP_PORT": "80", "MY_WEB_PORT_80_TCP_ADDR": address,
    }  # fmt: skip
    assert found["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
    assert not any(name.startswith("ELSEWHERE") for name in found)
    later = applied(cluster, service("late"), now=NOW + 60)
    assert "LATE_SERVICE_HOST" not in environment(
        later, pod, pod.spec.containers[0], until="2023-11-14T22:13:20Z"
    )
    assert "LATE_SERVICE_HOST" in environment(later, pod, pod.spec.containers[0])
    assert (
        told(service("my-web") + manifest("args: [netexec]", "\n  enableServiceLinks: false")) == {}
    )


def test_an_ipv6_services_link_has_brackets() -> None:
    """As a URL has them; the address alone has none."""
    found = told(IPV6 + service("web") + manifest("args: [netexec]"))
    assert found["WEB_PORT"] == f"tcp://[{found['WEB_SERVICE_HOST']}]:80"


@pytest.mark.parametrize(
    ("container", "fault"),
    [
        (
            "env: [{name: A, valueFrom: {configMapKeyRef: {name: nil, key: x}}}]",
            'configmap "nil" not found',
        ),
        (
            "env: [{name: A, valueFrom: {secretKeyRef: {name: keys, key: x}}}]",
            "couldn't find key x in Secret default/keys",
        ),
        ("envFrom: [{secretRef: {name: nil}}]", 'secret "nil" not found'),
    ],
)
def test_what_is_missing_keeps_the_container_from_starting(container: str, fault: str) -> None:
    """With the kubelet's words; it starts when what it needs is there."""
    cluster = running(store(MAPS + manifest(container)), only=[])
    pod = pod_named(cluster, "a")
    waits = pod.status.container_statuses[0].state.waiting
    assert waits is not None
    assert (waits.reason, waits.message) == ("CreateContainerConfigError", fault)
    with pytest.raises(MissingError):
        environment(cluster, pod, pod.spec.containers[0])
    there = (
        MAPS.replace("name: shop", "name: nil")
        .replace("MODE:", "x: y, MODE:")
        .replace("stringData: {", "stringData: {x: y, ")
    )
    cluster = settled(
        applied(
            cluster,
            there + "apiVersion: v1\nkind: Secret\nmetadata: {name: nil}\nstringData: {x: y}\n",
        )
    )
    waits = pod_named(cluster, "a").status.container_statuses[0].state.waiting
    assert waits is not None
    assert waits.reason == "ContainerCreating"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            manifest(
                "env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]"
            ),
            "may not be specified when `value` is not empty",
        ),
        (manifest("env: [{name: A, valueFrom: {}}]"), "wanted one of fieldRef, configMapKeyRef"),
        (
            manifest("env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.nodename}}}]"),
            "wanted one of metadata.name",
        ),
        (
            manifest('env: [{name: A, value: "a\\0b"}]'),
            "holds a NUL byte, which no process can be given",
        ),
        (
            manifest('env: [{name: "A\\0", value: b}]'),
            "holds a NUL byte, which no process can be given",
        ),
        (manifest('command: [sh, "a\\0b"]'), "holds a NUL byte, which no process can be given"),
        (manifest('args: ["\\0"]'), "holds a NUL byte, which no process can be given"),
        (manifest("envFrom: [{prefix: A}]"), "wanted one of configMapRef and secretRef"),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {x: plain text!}",
            "illegal base64 data",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {'a b': x}",
            "wanted a key of at most 253",
        ),
    ],
)
def test_refuses_what_kubernetes_refuses(text: str, message: str) -> None:
    """Two sources for one value, none, unknown fields, keys that are none, base64 that is none."""
    assert any(message in problem.message for problem in problems_of(text))


def test_expansion_leaves_alone_what_it_does_not_know() -> None:
    """As Kubernetes does: unknown names stand as they are, a doubled dollar is one."""
    assert expand("$(A) $(B) $$(A) $A ${A}", {"A": "1"}) == "1 $(B) $(A) $A ${A}"
