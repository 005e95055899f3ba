"""Environment variables of containers."""

from __future__ import annotations

import pytest

from kubenetlab.api.environment import Secret, expand
from kubenetlab.controllers.kubelet.environment import MissingError, environment
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
    return (
        f"apiVersion: v1\nkind: Pod\n"
        f"metadata: {{name: a, labels: {{app: web}}}}\nspec:\n  containers:\n"
        f"  - {{name: main, image: agnhost, {container}}}{spec}\n---\n"
    )


def variables(text: str, until: str | None = None) -> dict[str, str]:
    """Return the variables of the pod `a`, without those of Services."""
    cluster = running(store(text))
    pod = pod_named(cluster, "a")
    values = environment(cluster, pod, pod.spec.containers[0], until=until)
    return {name: value for name, value in values.items() if not name.startswith("KUBERNETES_")}


def test_values_come_from_config_maps_secrets_and_the_pod() -> None:
    """A variable may refer to an earlier one, and env overrides envFrom."""
    values = variables(
        MAPS
        + manifest(
            """envFrom: [{prefix: S_, configMapRef: {name: shop}}, {secretRef: {name: keys}}],
      env: [
      {name: LITERAL, value: plain},
      {name: MODE, valueFrom: {configMapKeyRef: {name: shop, key: MODE}}},
      {name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}},
      {name: token, value: mine},
      {name: ME, valueFrom: {fieldRef: {fieldPath: metadata.name}}},
      {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}},
      {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}},
      {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}},
      {name: BOTH, value: "$(MODE)-$(ME)-$(NOBODY)-$$(MODE)"},
      {name: GONE, valueFrom: {configMapKeyRef: {name: nil, key: x, optional: true}}}]"""
        )
    )
    assert values == {
        "S_MODE": "test",
        "S_port": "8088",
        "old": "old",
        "token": "mine",
        "LITERAL": "plain",
        "MODE": "test",
        "TOKEN": "s3cret",
        "ME": "a",
        "IP": "10.244.1.2",
        "APP": "web",
        "NODE": "worker",
        "BOTH": "test-a-$(NOBODY)-$(MODE)",
    }


def test_a_secret_is_stored_in_base64() -> None:
    """As in the API server, stringData is merged into data."""
    cluster = store(MAPS)
    secret = cluster.get(Secret, "default", "keys")
    assert secret is not None
    assert (secret.data, secret.string_data) == ({"old": "b2xk", "token": "czNjcmV0"}, {})


def test_services_become_docker_links_and_host_and_port_variables() -> None:
    """Those of the namespace, unless created later or disabled; the API server's always."""
    elsewhere = service("elsewhere").replace("name: elsewhere", "name: elsewhere, namespace: other")
    cluster = running(store(service("my-web") + elsewhere + manifest("args: [netexec]")))
    pod = pod_named(cluster, "a")
    values = environment(cluster, pod, pod.spec.containers[0])
    address = values["MY_WEB_SERVICE_HOST"]
    assert {name: value for name, value in values.items() if name.startswith("MY_WEB")} == {
        "MY_WEB_SERVICE_HOST": address,
        "MY_WEB_SERVICE_PORT": "80",
        "MY_WEB_PORT": f"tcp://{address}:80",
        "MY_WEB_PORT_80_TCP": f"tcp://{address}:80",
        "MY_WEB_PORT_80_TCP_PROTO": "tcp",
        "MY_WEB_PORT_80_TCP_PORT": "80",
        "MY_WEB_PORT_80_TCP_ADDR": address,
    }
    assert values["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
    assert not any(name.startswith("ELSEWHERE") for name in values)
    later = applied(cluster, service("late"), now=NOW + 60)
    assert "LATE_SERVICE_HOST" not in environment(
        later, pod, pod.spec.containers[0], until="2023-11-14T22:13:20Z"
    )
    assert "LATE_SERVICE_HOST" in environment(later, pod, pod.spec.containers[0])
    assert (
        variables(service("my-web") + manifest("args: [netexec]", "\n  enableServiceLinks: false"))
        == {}
    )


def test_an_ipv6_services_link_has_brackets() -> None:
    """URLs have brackets, the address variable has none."""
    values = variables(IPV6 + service("web") + manifest("args: [netexec]"))
    assert values["WEB_PORT"] == f"tcp://[{values['WEB_SERVICE_HOST']}]:80"


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
def test_a_missing_reference_keeps_the_container_from_starting(container: str, fault: str) -> None:
    """The message is the kubelet's; the container starts when the object exists."""
    cluster = running(store(MAPS + manifest(container)), only=[])
    pod = pod_named(cluster, "a")
    waits = pod.status.container_statuses[0].state.waiting
    assert waits is not None
    assert (waits.reason, waits.message) == ("CreateContainerConfigError", fault)
    with pytest.raises(MissingError):
        environment(cluster, pod, pod.spec.containers[0])
    existing = (
        MAPS.replace("name: shop", "name: nil")
        .replace("MODE:", "x: y, MODE:")
        .replace("stringData: {", "stringData: {x: y, ")
    )
    cluster = settled(
        applied(
            cluster,
            existing + "apiVersion: v1\nkind: Secret\nmetadata: {name: nil}\nstringData: {x: y}\n",
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
        (manifest("env: [{name: A, valueFrom: {}}]"), "expected one of fieldRef, configMapKeyRef"),
        (
            manifest("env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.nodename}}}]"),
            "expected one of metadata.name",
        ),
        (
            manifest('env: [{name: A, value: "a\\0b"}]'),
            "contains a NUL byte, which a process cannot be given",
        ),
        (
            manifest('env: [{name: "A\\0", value: b}]'),
            "contains a NUL byte, which a process cannot be given",
        ),
        (
            manifest('command: [sh, "a\\0b"]'),
            "contains a NUL byte, which a process cannot be given",
        ),
        (manifest('args: ["\\0"]'), "contains a NUL byte, which a process cannot be given"),
        (manifest("envFrom: [{prefix: A}]"), "expected one of configMapRef and secretRef"),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {x: plain text!}",
            "illegal base64 data",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {'a b': x}",
            "expected a key of at most 253",
        ),
    ],
)
def test_invalid_variables_are_rejected(text: str, message: str) -> None:
    """Covers two sources or none for a value, unknown fields, invalid keys and invalid base64."""
    assert any(message in problem.message for problem in problems_of(text))


def test_expansion_keeps_unknown_names() -> None:
    """Unknown names stay as they are; a doubled dollar becomes one."""
    assert expand("$(A) $(B) $$(A) $A ${A}", {"A": "1"}) == "1 $(B) $(A) $A ${A}"
