"""Documents → objects, and the report on documents that are not objects."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Service
from kubenetlab.api.kinds import writable
from kubenetlab.api.text.decode import decode
from tests.clusters import deployment, loaded, problems_of, service

POD = (
    "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: web, "
    "image: nginx%s}\n"
)


def test_a_list_stands_for_its_items() -> None:
    """Objects of kinds that the lab does not model are stored, and each kind is named once."""
    manifests = loaded(
        """
        apiVersion: v1
        kind: List
        items:
        - {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
        - {apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}
        - {apiVersion: v1, kind: ServiceAccount, metadata: {name: b}}
        - {apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g}}
        """
    )
    assert [entry.title for entry in manifests.entries] == [
        "Namespace shop",
        "ServiceAccount default/a",
        "ServiceAccount default/b",
        "Gateway default/g",
    ]
    assert manifests.without_effect == {"ServiceAccount": ("a", "b")}


def test_null_counts_as_absent() -> None:
    """As in `creationTimestamp: null`, which kubectl writes."""
    manifests = loaded(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, creationTimestamp: null}\nspec: "
        "{ports: [{port: 80, name: null}], selector: null}"
    )
    assert isinstance(manifests.entries[0].object, Service)
    assert manifests.warnings == ()
    manifests = loaded(
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nname: null\nnodes: null\n"
        "networking: null"
    )
    assert manifests.config == ClusterConfig()


def test_all_problems_of_all_documents_are_reported_at_once() -> None:
    """With file, line, object, field path, expected and found value, and the nearest known name."""
    problems = problems_of(
        """\
        apiVersion: v1
        kind: Service
        metadata: {name: web, namespace: shop}
        spec:
          ports:
          - port: "80"
            targetPort: true
            prot: TCP
          - protocol: tcp
            port: 70000
          selector: {app: 1}
        ---
        apiVersion: apps/v1
        kind: Deploymnt
        metadata: {name: x}
        ---
        apiVersion: extensions/v1beta1
        kind: Deployment
        metadata: {name: y}
        """
    )
    assert [str(problem) for problem in problems] == [
        'test.yaml:6  Service shop/web: spec.ports[0].port: expected a port number, found "80"',
        "test.yaml:6  Service shop/web: spec.ports[0].name: required when a Service has "
        "several ports",
        "test.yaml:7  Service shop/web: spec.ports[0].targetPort: expected a port number or a "
        "port name, found true (true/false)",
        "test.yaml:8  Service shop/web: spec.ports[0].prot: unknown field; did you mean port?",
        "test.yaml:9  Service shop/web: spec.ports[1].protocol: expected one of SCTP, TCP, "
        'UDP, found "tcp"; did you mean TCP?',
        "test.yaml:9  Service shop/web: spec.ports[1].name: required when a Service has "
        "several ports",
        "test.yaml:10  Service shop/web: spec.ports[1].port: expected a port number from 1 to "
        "65535, found 70000",
        "test.yaml:11  Service shop/web: spec.selector.app: expected a string, found 1; put it "
        "in quotes",
        'test.yaml:14  Deploymnt default/x: kind: no matches for kind "Deploymnt" in version '
        '"apps/v1"\n              did you mean Deployment?',
        'test.yaml:18  Deployment default/y: kind: no matches for kind "Deployment" in version '
        '"extensions/v1beta1"\n'
        "              expected apiVersion apps/v1",
    ]


def test_an_unknown_field_is_a_warning_and_in_strict_mode_an_error() -> None:
    """Without --strict the object is used without the field."""
    text = POD % ", imag: x"
    (problem,) = problems_of(text)
    assert (problem.is_warning, problem.message) == (True, "unknown field; did you mean image?")
    assert loaded(text).entries[0].object is not None
    assert not problems_of(text, strict=True)[0].is_warning


@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        ("networking.k8s.io/v1 NetworkPolicy", "{podSelector: {app: web}}", "podSelector.app"),
        (
            "networking.k8s.io/v1 NetworkPolicy",
            "{podSelector: {}, ingress: [{to: [{podSelector: {}}]}]}",
            "ingress[0].to",
        ),
        (
            "policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy",
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, "
            "from: [{namespaces: {}}], ports: [{portNumber: {port: 80}}]}]}",
            "ingress[0].ports",
        ),
        (
            "policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy",
            "{priority: 1, subject: {namespaces: {}}, ingress: [{action: Allow, "
            "from: [{namespaces: {sameLabels: [team]}}]}]}",
            "ingress[0].from[0].namespaces.sameLabels",
        ),
        (
            "projectcalico.org/v3 GlobalNetworkPolicy",
            "{egress: [{action: Allow, destination: {domains: [example.com]}}]}",
            "egress[0].destination.domains",
        ),
        (
            "projectcalico.org/v3 GlobalNetworkSet",
            "{allowedEgressDomains: [example.com]}",
            "allowedEgressDomains",
        ),
        (
            "cilium.io/v2 CiliumCIDRGroup",
            "{externalCIDRs: [], except: [10.0.0.0/8]}",
            "except",
        ),
        (
            "cilium.io/v2 CiliumNetworkPolicy",
            "{endpointSelector: {}, egressDeny: [{toFQDNs: [{matchName: example.com}]}]}",
            "egressDeny[0].toFQDNs",
        ),
    ],
)
def test_an_unknown_field_of_a_policy_is_an_error(kind: str, spec: str, field: str) -> None:
    """Without the field, a rule would match more connections than its author meant."""
    version, _, kind = kind.partition(" ")
    text = (
        f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p, colour: red}}\nspec: {spec}\n"
    )
    colour, unknown = problems_of(text)
    assert (colour.is_warning, colour.message) == (True, "unknown field")
    assert not unknown.is_warning
    assert unknown.path == f"spec.{field}"
    assert unknown.message.startswith("unknown field")


@pytest.mark.parametrize(
    ("version", "kind", "expected"),
    [
        ("networking.k8s.io", "NetworkPolicy", "networking.k8s.io/v1"),
        (
            "policy.networking.k8s.io/v1alpha1",
            "ClusterNetworkPolicy",
            "policy.networking.k8s.io/v1alpha2",
        ),
        (
            "policy.networking.k8s.io/v1alpha2",
            "AdminNetworkPolicy",
            "policy.networking.k8s.io/v1alpha1",
        ),
        (
            "projectcalico.org/v1",
            "NetworkPolicy",
            "projectcalico.org/v3 or crd.projectcalico.org/v1",
        ),
        ("cilium.io/v2alpha1", "CiliumNetworkPolicy", "cilium.io/v2"),
    ],
)
def test_a_version_without_the_kind_is_an_error(version: str, kind: str, expected: str) -> None:
    """A cluster has no such kind, even if the API group has it in another version."""
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p}}\nspec: {{}}\n"
    (problem,) = problems_of(text)
    assert problem.message == f'no matches for kind "{kind}" in version "{version}"'
    assert problem.hints == (f"expected apiVersion {expected}",)


def test_a_configuration_of_kind_is_accepted_unchanged() -> None:
    """Without nodes it has one node, which is kind's default."""
    manifests = loaded(
        """
        kind: Cluster
        apiVersion: kind.x-k8s.io/v1alpha4
        name: demo
        networking: {disableDefaultCNI: true, apiServerPort: 6443, podSubnet: 10.10.0.0/16}
        kubeadmConfigPatches: [x]
        containerdConfigPatches: [y]
        featureGates: {A: true}
        """
    )
    assert manifests.config is not None
    assert (
        manifests.config.name,
        manifests.config.node_names,
        manifests.config.networking.cni_mode,
    ) == (
        "demo",
        ("control-plane",),
        ("none", {}),
    )
    assert manifests.warnings == ()


def test_an_unknown_field_of_a_configuration_of_kind_is_a_warning() -> None:
    """Kind has more fields than a lab, and other versions of kind have others."""
    (problem,) = problems_of("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\ncolour: red\n")
    assert (problem.is_warning, problem.message) == (True, "unknown field")


def test_an_object_defined_twice_is_a_warning_and_the_later_definition_counts() -> None:
    """As with `kubectl apply`; but a second Cluster document is an error."""
    (warning,) = problems_of(deployment() + deployment())
    assert (warning.is_warning, warning.message) == (
        True,
        "also defined at test.yaml:1; this definition replaces it",
    )
    cluster = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    assert [problem.message for problem in problems_of(f"{cluster}---\n{cluster}")] == [
        "a second Cluster; the first is at test.yaml:1"
    ]


WHOLE = yaml.safe_load_all(
    deployment()
    + service()
    + POD % ", ports: [{containerPort: 80}], readinessProbe: {httpGet: {port: 80}}"
)
DOCUMENTS = [document for document in WHOLE if document]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [here, *(path for step, item in inside for path in paths(item, (*here, step)))]


def with_at(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    items = value.items() if isinstance(value, dict) else enumerate(value)
    changed = {
        step: with_at(item, path[1:], new) if step == path[0] else item for step, item in items
    }
    return changed if isinstance(value, dict) else list(changed.values())


@given(st.data())
def test_any_value_in_any_field_is_decoded_or_reported(data: st.DataObject) -> None:
    """The result is an object, or findings and a repaired object; never an exception."""
    document = data.draw(st.sampled_from(DOCUMENTS))
    fields = {key: value for key, value in document.items() if key not in ("apiVersion", "kind")}
    broken = with_at(fields, data.draw(st.sampled_from(paths(fields)[1:])), data.draw(ANYTHING))
    type_ = writable(document)
    assert type_ is not None
    decoded = decode(broken, type_)
    assert (decoded.value is None) == any(
        not finding.is_unknown_field for finding in decoded.findings
    )
    assert isinstance(decoded.value if decoded.value is not None else decoded.repaired, type_)


def test_kinds_of_other_api_groups_are_different_kinds() -> None:
    """A Cluster of PostgreSQL is not the Cluster document, and no duplicate of another kind."""
    manifests = loaded(
        """
        apiVersion: postgresql.cnpg.io/v1
        kind: Cluster
        metadata: {name: web}
        ---
        apiVersion: serving.knative.dev/v1
        kind: Service
        metadata: {name: web}
        ---
        apiVersion: v1
        kind: Service
        metadata: {name: web}
        spec: {ports: [{port: 80}]}
        """
    )
    assert manifests.without_effect == {
        "Cluster.postgresql.cnpg.io": ("web",),
        "Service.serving.knative.dev": ("web",),
    }
    assert manifests.config is None
    assert manifests.warnings == ()


def test_control_characters_are_escaped_in_messages() -> None:
    """The control characters of a manifest do not reach the terminal."""
    (problem, *_) = problems_of(
        'kind: Pod\napiVersion: v1\nmetadata: {name: "a\\e[31m"}\nspec: {containers: [{name: '
        "a, image: a}]}"
    )
    assert "\x1b" not in str(problem)
    assert "\\x1b[31m" in str(problem)
