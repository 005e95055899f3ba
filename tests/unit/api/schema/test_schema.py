"""JSON Schema for editors: it accepts and rejects the same documents as the loader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from kubenetlab.api import builtin
from kubenetlab.api.kinds import WRITABLE, writable
from kubenetlab.api.manifests.load import load_documents
from kubenetlab.api.manifests.objects import decode_object
from kubenetlab.api.meta import Resource
from kubenetlab.api.schema.schema import schema_of_documents, schema_of_kind
from kubenetlab.api.text.decode import without_nulls
from kubenetlab.api.text.documents import read_documents
from kubenetlab.cli.schema import mode_options
from kubenetlab.datapath import cluster_modes
from kubenetlab.errors import ManifestError
from tests.clusters import deployment, pod, problems_of, service
from tests.unit.api.manifests.test_load import ANYTHING, paths, with_at
from tests.unit.api.schema.documents import WHOLE, documents

ROOT = Path(__file__).parents[4]
CASES = ROOT.parent / "shared" / "cases"
LABS = [path for path in (ROOT / "manifests").rglob("*.yaml") if path.name != "expect.yaml"]
GOLDEN = [
    path
    for path in (ROOT / "tests/golden/cases").glob("*/input.yaml")
    if not (path.parent / "error.txt").exists()
]
OURS = sorted([*LABS, *GOLDEN, ROOT / "kubenetlab" / "quickstart.yaml"])


@cache
def validator(kind: type[Resource] | None = None) -> Draft202012Validator:
    """Return a validator of all documents, or of the documents of one kind."""
    schema = (
        schema_of_documents(mode_options())
        if kind is None
        else schema_of_kind(kind, mode_options())
    )
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def faults(document: Any, kind: type[Resource] | None = None) -> list[str]:
    """Return the errors of the schema in a document, one line each."""
    return [
        f"{error.json_path}: {error.message}" for error in validator(kind).iter_errors(document)
    ]


def leaves(document: Any) -> Iterator[Any]:
    """Yield the innermost errors of the schema: the places that an editor underlines."""
    for error in validator().iter_errors(document):
        waiting = [error]
        while waiting:
            inner = waiting.pop()
            waiting += inner.context or ()
            if not inner.context:
                yield inner.json_path


def test_the_examples_have_every_kind_of_a_manifest() -> None:
    """The tests below cover all kinds."""
    assert {writable(document) for document in WHOLE} == set(WRITABLE)


@pytest.mark.parametrize("file", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_manifests_of_the_project_are_valid(file: Path) -> None:
    """All example labs, the quickstart and the golden cases, as documents and as their kinds."""
    for document in documents(file.read_bytes()):
        assert faults(document) == []
        kind = writable(document)
        if kind is not None:
            assert faults(document, kind) == []


SHARED = (
    sorted(path.relative_to(CASES).as_posix() for path in CASES.rglob("*.yaml"))
    if CASES.is_dir()
    else []
)
NO_MANIFESTS = ("expect.yaml", "records.yaml")


@pytest.mark.skipif(
    not SHARED,
    reason=(
        "needs a folder of example manifests of other projects beside the checkout "
        "(../shared/cases)"
    ),
)
@pytest.mark.parametrize("file", [file for file in SHARED if not file.endswith(NO_MANIFESTS)])
def test_manifests_without_a_warning_are_valid(file: str) -> None:
    """Manifests of other projects: the schema finds nothing that the loader does not report."""
    data = (CASES / file).read_bytes()
    found, problems = read_documents(file, data)
    for document in found:
        try:
            silent = not load_documents([document], check=cluster_modes.check).warnings
        except ManifestError:
            silent = False
        assert not silent or faults(document.value) == []
    assert problems == []


def is_rejected(document: Any) -> bool:
    """Return True if the loader reports an error or warning about types, the name or modes."""
    type_ = writable(document)
    assert type_ is not None
    decoded = decode_object(document, type_)
    if decoded.value is None or decoded.findings:
        return True
    return (not decoded.value.name and document["kind"] != "Cluster") or any(
        cluster_modes.check(decoded.value)
    )


def changeable_paths(document: Any) -> list[tuple[Any, ...]]:
    """Return the paths of all fields of a document except its apiVersion and kind."""
    return [path for path in paths(document)[1:] if path[0] not in ("apiVersion", "kind")]


@given(st.data())
def test_the_schema_and_the_loader_agree(data: st.DataObject) -> None:
    """With a random value in any field, both accept the document or both reject it.

    The loader cannot see an unknown field that is null.
    """
    document = data.draw(st.sampled_from(WHOLE))
    broken = with_at(
        document, data.draw(st.sampled_from(changeable_paths(document))), data.draw(ANYTHING)
    )
    plain = without_nulls(broken)
    assert is_rejected(broken) == bool(faults(plain)) == bool(faults(plain, writable(document)))
    assert not is_rejected(broken) or faults(broken)


def test_null_is_valid_for_optional_fields_alone() -> None:
    """The loader reads null as an absent field."""
    for document in WHOLE:
        for path in changeable_paths(document):
            empty = with_at(document, path, None)
            assert is_rejected(empty) == bool(faults(empty)), path


@pytest.mark.parametrize(
    ("text", "place"),
    [
        pytest.param(service(port=70000), "$.spec.ports[0].port", id="a port out of range"),
        pytest.param(
            service(target="true"), "$.spec.ports[0].targetPort", id="neither a number nor a name"
        ),
        pytest.param(service(typ="ClusterIP"), "$.spec", id="an unknown field"),
        pytest.param(service(type="Clusterip"), "$.spec.type", id="an unknown value"),
        pytest.param(deployment(replicas=30000), "$.spec.replicas", id="too many"),
        pytest.param(
            deployment(strategy="x").replace("    spec:", "    sepc:"),
            "$.spec.template",
            id="a required field is missing",
        ),
        pytest.param(
            pod("a", container=", ports: [{name: a}]"),
            "$.spec.containers[0].ports[0]",
            id="a port without a number",
        ),
        pytest.param(pod("a").replace("{name: a}", "{labels: {a: b}}"), "$.metadata", id="no name"),
        pytest.param(
            pod("a").replace("{name: a}", "{name: a, labels: {a: 1}}"),
            "$.metadata.labels.a",
            id="a label that is no string",
        ),
        pytest.param(
            "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: flanel}",
            "$.networking.cni",
            id="an unknown mode",
        ),
        pytest.param(
            "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: {type: "
            "bridge, layout: round}}",
            "$.networking.cni.layout",
            id="a mode's option",
        ),
        pytest.param(
            "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nmetadata: {name: a}",
            "$",
            id="a Cluster with metadata",
        ),
        pytest.param(
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: "
            "{name: a}}",
            "$.items[0]",
            id="in a List",
        ),
        pytest.param(
            "apiVersion: v1\nkind: ConfigMap\ndata: {a: b}",
            "$",
            id="an unmodelled kind without metadata",
        ),
        pytest.param(
            "apiVersion: apps/v1\nkind: Pod\nmetadata: {name: a}",
            "$.kind",
            id="a kind of another group",
        ),
        pytest.param(
            "apiVersion: apps/v1beta1\nkind: Deployment\nmetadata: {name: a}",
            "$.apiVersion",
            id="a removed API version",
        ),
        pytest.param(
            "apiVersion: kubenetlab.dev/v2\nkind: Cluster\nmetadata: {name: a}",
            "$.apiVersion",
            id="an unknown version of the Cluster document",
        ),
        pytest.param(
            "apiVersion: kubenetlab.dev/v1alpha1\nkind: Clustr\nmetadata: {name: a}",
            "$.kind",
            id="an unknown kind of the lab",
        ),
        pytest.param("kind: Pod\nmetadata: {name: a}", "$", id="no apiVersion"),
        pytest.param("- a", "$", id="no mapping"),
    ],
)
def test_an_error_is_at_the_field_that_the_loader_names(text: str, place: str) -> None:
    """An editor underlines the field."""
    (document,) = documents(text)
    assert place in list(leaves(document))
    assert (
        problems_of(text) or "metadata" in document
    )  # which the loader takes for a Cluster's name


VERSIONS = [
    *builtin.KINDS,
    "",
    "v2",
    "apps/v1beta1",
    "extensions/v1beta1",
    "foo/v1",
    "serving.knative.dev/v1",
    "kubenetlab.dev/v1alpha1",
    "kubenetlab.dev/v1alpha2",
    "kind.x-k8s.io/v1",
    "policy/v1beta1",
]
KINDS = [*sorted(builtin.all_kinds()), "Cluster", "Gateway", "Deploymnt", "PodList", "", None]


@given(st.sampled_from(VERSIONS), st.sampled_from(KINDS))
def test_the_schema_and_the_loader_know_the_same_kinds(version: str, kind: str | None) -> None:
    """An unknown kind is an error in an API group of Kubernetes, and valid in any other."""
    known = {(document["apiVersion"], document["kind"]): document for document in WHOLE}
    document = known.get(
        (version, str(kind)),
        {"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": {}},
    )
    found, _ = read_documents("test.json", json.dumps(document).encode())
    try:
        load_documents(found)
        refused = False
    except ManifestError:
        refused = True
    assert refused == bool(faults(document))


def test_a_status_can_have_any_value() -> None:
    """The output of `kubectl get -o yaml` is valid: the loader ignores the status."""
    (document,) = documents(pod("a"))
    assert faults(document | {"status": {"anything": [1]}}) == []
    assert "PodStatus" not in validator(writable(document)).schema["$defs"]


def test_fields_have_descriptions_and_defaults() -> None:
    """Descriptions are the docstrings of fields and types."""
    parts = validator().schema["$defs"]
    assert parts["Probe"]["description"].startswith("Periodic check of a container")
    assert (
        parts["Networking"]["properties"]["cni"]["description"]
        == "CNI mode: its name, or a mapping of `type` and the options of the mode."
    )
    assert parts["ContainerPort"]["properties"]["protocol"]["default"] == "TCP"
    assert (
        parts["Container"]["properties"]["volumeMounts"]["description"]
        == "Accepted and stored, but without effect in the lab."
    )
    assert parts["Pod"]["properties"]["kind"]["const"] == "Pod"
