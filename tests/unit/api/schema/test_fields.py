"""Descriptions of fields, as `explain` shows them."""

from __future__ import annotations

import pytest

from kubenetlab.api.kinds import SERVED, find_kind
from kubenetlab.api.meta import Resource
from kubenetlab.api.schema.fields import explain
from kubenetlab.errors import UsageError


def kind(word: str) -> type[Resource]:
    result = find_kind(word)
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("word", "path", "type_", "bounds"),
    [
        ("pod", "spec", "PodSpec", ("required",)),
        ("pod", "spec.containers", "[]Container", ()),
        ("pod", "spec.containers.ports.containerPort", "integer", ("required", "1 to 65535")),
        (
            "pod",
            "spec.containers.ports.protocol",
            "string",
            ("one of SCTP, TCP, UDP", "default TCP"),
        ),
        (
            "pod",
            "spec.containers.readinessProbe.httpGet.port",
            "integer|string",
            ("required", "1 to 65535, or a port name"),
        ),
        (
            "pod",
            "spec.containers.readinessProbe.periodSeconds",
            "integer",
            ("0 or more", "default 10"),
        ),
        ("pod", "spec.containers.command", "[]string", ()),
        ("pod", "spec.hostNetwork", "boolean", ("default false",)),
        (
            "pod",
            "spec.tolerations.effect",
            "string",
            ("one of NoExecute, NoSchedule, PreferNoSchedule",),
        ),
        (
            "pod",
            "spec.topologySpreadConstraints.topologyKey",
            "string",
            ("required", "a label of nodes such as kubernetes.io/hostname"),
        ),
        ("pod", "metadata.labels", "map[string]string", ()),
        ("pod", "status.podIP", "string", ()),
        ("deploy", "spec.replicas", "integer", ("0 to 20000", "default 1")),
        (
            "deploy",
            "spec.strategy.rollingUpdate.maxSurge",
            "integer|string",
            ("0 or more, or a string such as 25%", "default 25%"),
        ),
        ("endpointslice", "endpoints.addresses", "[]string", ("required", "1 to 100 entries")),
        ("svc", "kind", "string", ("required", "always Service")),
        (
            "cluster",
            "apiVersion",
            "string",
            ("required", "one of kubenetlab.dev/v1alpha1, kind.x-k8s.io/v1alpha4"),
        ),
        ("cluster", "networking.cni", "string|map[string]any", ("default bridge",)),
        ("cluster", "name", "string", ()),
    ],
)
def test_a_field_has_a_type_and_bounds(
    word: str, path: str, type_: str, bounds: tuple[str, ...]
) -> None:
    """Types are in kubectl's notation; bounds are `required`, limits and the default."""
    explanation = explain(kind(word), path)
    assert (explanation.path, explanation.type, explanation.bounds) == (path, type_, bounds)


def test_indices_in_a_path_are_ignored() -> None:
    """`spec.containers[0].ports[1]` is a path as in messages."""
    assert explain(kind("pod"), "spec.containers[0].ports[1].name") == explain(
        kind("pod"), "spec.containers.ports.name"
    )
    assert explain(kind("pod"), "metadata.labels[app.kubernetes.io/name]").path == "metadata.labels"


def test_the_fields_of_a_field_are_listed() -> None:
    """They are in the order of the type, with types and bounds, or marked as without effect."""
    lines = {
        line.name: (line.type, line.bounds)
        for line in explain(kind("pod"), "spec.containers").fields
    }
    assert next(iter(lines)) == "name"
    assert lines["ports"] == ("[]ContainerPort", ())
    assert lines["volumeMounts"] == ("any", ("without effect",))
    assert explain(kind("pod"), "spec.containers.name").fields == ()


def test_a_description_has_the_docstrings_of_the_field_and_its_type() -> None:
    """The docstring under the field comes first, then that of its type."""
    explanation = explain(kind("pod"), "spec.containers.livenessProbe").description
    assert (
        explanation == "Probe that decides whether the container is restarted.\n"
        "Periodic check of a container by the kubelet of its node."
    )
    assert explain(kind("pod")).description.startswith("Containers that share a network namespace")


def test_a_field_without_effect_is_described_as_such() -> None:
    """The remark follows the docstring of the field, if there is one."""
    assert (
        explain(kind("pod"), "spec.volumes").description
        == "Accepted and stored, but without effect in the lab."
    )
    assert explain(kind("pod"), "spec.setHostnameAsFQDN").type == "any"
    shared = explain(kind("pod"), "spec.shareProcessNamespace").description
    assert shared.startswith("The containers of a pod always share one PID namespace in the lab.\n")


@pytest.mark.parametrize(
    ("word", "path", "message"),
    [
        (
            "pod",
            "spec.container",
            'Pod.spec has no field "container"; did you mean containers?\n  known: containers, '
            "initContainers",
        ),
        ("pod", "Spec", 'Pod has no field "Spec"; did you mean spec?'),
        (
            "pod",
            "spec.volumes.name",
            'Pod.spec.volumes is stored as given: its field "name" is not known to the lab',
        ),
        (
            "pod",
            "metadata.labels.app",
            'Pod.metadata.labels is of type map[string]string: it has no field "app"',
        ),
        ("cluster", "metadata", 'Cluster has no field "metadata"'),
    ],
)
def test_an_unknown_field_is_a_usage_error(word: str, path: str, message: str) -> None:
    """The message has the nearest known field, and all known fields."""
    with pytest.raises(UsageError) as caught:
        explain(kind(word), path)
    assert str(caught.value).startswith(message)


def test_every_field_of_every_kind_has_a_description() -> None:
    """At every depth, each field has a type."""
    for each in SERVED:
        waiting = [""]
        while waiting:
            path = waiting.pop()
            explanation = explain(each, path)
            assert explanation.type
            waiting += [f"{path}.{line.name}".lstrip(".") for line in explanation.fields]
