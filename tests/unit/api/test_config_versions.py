"""Versions of the Cluster document: which are served, and how the others are converted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from kubenetlab.api import config_versions
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.config_versions import (
    API_VERSION,
    CONVERSIONS,
    KIND_API_VERSION,
    Conversion,
    convert,
    served_versions,
)
from kubenetlab.api.manifests.objects import decode_object
from kubenetlab.cli.input.manifests import Flags, merge_options
from tests.clusters import loaded, problems_of

OLD = "kubenetlab.dev/v1alpha0"


@pytest.fixture
def old_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve an older version, in which the field `cni` of `networking` is called `network`."""

    def rename(document: Mapping[str, Any]) -> Mapping[str, Any]:
        networking = dict(document.get("networking") or {})
        if "network" in networking:
            networking["cni"] = networking.pop("network")
        return {**document, "networking": networking}

    monkeypatch.setattr(
        config_versions, "CONVERSIONS", {**CONVERSIONS, OLD: Conversion(API_VERSION, rename)}
    )


def test_the_current_version_is_that_of_the_type() -> None:
    assert served_versions()[0] == ClusterConfig.api_version == API_VERSION
    assert API_VERSION not in CONVERSIONS


def test_every_conversion_leads_to_the_current_version() -> None:
    for version in CONVERSIONS:
        document = {"apiVersion": version, "kind": "Cluster", "name": "demo"}
        assert convert(document)["apiVersion"] == API_VERSION
        assert document["apiVersion"] == version


@pytest.mark.parametrize("version", ["kubenetlab.dev/v1", "kind.x-k8s.io/v1alpha5"])
def test_an_unknown_version_is_refused(version: str) -> None:
    """The message has file and line, and names the served versions."""
    (problem,) = problems_of(f"kind: Cluster\napiVersion: {version}\nname: demo\nfields: [new]\n")
    assert str(problem).splitlines()[0] == (
        f"test.yaml:2  Cluster demo: apiVersion: expected {API_VERSION} or {KIND_API_VERSION}, "
        f'found "{version}"'
    )


def test_the_api_of_a_lab_refuses_an_unknown_version() -> None:
    """It decodes documents without the loader."""
    decoded = decode_object({"apiVersion": "kubenetlab.dev/v9", "kind": "Cluster"}, ClusterConfig)
    assert decoded.value is None
    assert [finding.path for finding in decoded.findings] == [("apiVersion",)]


@pytest.mark.parametrize("kind", ["Clustr", "Fault", "Pod"])
def test_an_unknown_kind_in_the_group_of_the_lab_is_refused(kind: str) -> None:
    """It cannot be a custom resource of another project."""
    (problem,) = problems_of(f"apiVersion: {API_VERSION}\nkind: {kind}\nmetadata: {{name: a}}\n")
    assert not problem.is_warning
    assert problem.hints == ("kubenetlab.dev has: Cluster",)


def test_an_unmodelled_kind_of_another_project_is_kept() -> None:
    assert problems_of("apiVersion: example.com/v1\nkind: Cluster\nmetadata: {name: a}\n") == []


@pytest.mark.usefixtures("old_version")
def test_a_document_of_an_older_version_is_converted() -> None:
    """It stays valid, and only in its own version has the field its former name."""
    text = f"apiVersion: {OLD}\nkind: Cluster\nname: demo\nnetworking: {{network: none}}\n"
    manifests = loaded(text)
    assert manifests.warnings == ()
    config = manifests.config
    assert config is not None
    assert (config.name, config.networking.cni, len(config.nodes)) == ("demo", "none", 3)
    assert manifests.entries[0].value["apiVersion"] == OLD
    (problem,) = problems_of(text.replace(OLD, API_VERSION))
    assert problem.path == "networking.network"


@pytest.mark.usefixtures("old_version")
def test_versions_are_converted_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function converts to the next version only, so that it never changes again."""
    first = "kubenetlab.dev/v1alpha00"
    conversion = Conversion(OLD, lambda document: {**document, "networking": {"network": "none"}})
    known = config_versions.CONVERSIONS
    monkeypatch.setattr(config_versions, "CONVERSIONS", {**known, first: conversion})
    converted = convert({"apiVersion": first, "kind": "Cluster"})
    assert converted == {
        "apiVersion": API_VERSION,
        "kind": "Cluster",
        "networking": {"cni": "none"},
    }


def test_a_configuration_of_kind_keeps_its_nodes() -> None:
    document = {"apiVersion": KIND_API_VERSION, "nodes": [{"role": "worker"}]}
    assert convert(document)["nodes"] == [{"role": "worker"}]
    assert convert({**document, "nodes": None})["nodes"] == [{"role": "control-plane"}]


@pytest.mark.usefixtures("old_version")
def test_options_change_a_document_of_an_older_version() -> None:
    """They have the field names of the current version."""
    text = f"apiVersion: {OLD}\nkind: Cluster\nnetworking: {{network: bridge}}\n"
    manifests = merge_options(loaded(text), Flags(cni="none", nodes=2), None, None)
    assert manifests.cluster_config.networking.cni == {"type": "none"}
    assert len(manifests.cluster_config.nodes) == 2


def test_options_keep_the_default_of_a_configuration_of_kind() -> None:
    """Without nodes it has one node, also when an option changes something else."""
    text = f"apiVersion: {KIND_API_VERSION}\nkind: Cluster\n"
    manifests = merge_options(loaded(text), Flags(cni="none"), None, None)
    assert [node.role for node in manifests.cluster_config.nodes] == ["control-plane"]
