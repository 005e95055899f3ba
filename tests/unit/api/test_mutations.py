"""Randomly changed manifests: each is either rejected with a place and a reason, or makes a lab."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab import controllers
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.kinds import STORED
from kubenetlab.api.manifests.load import LoadedManifests, load, load_documents
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import read_documents
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.datapath import cluster_modes, plan, plan_probes
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.errors import ManifestError, Problem
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.fake import FakeKernel
from kubenetlab.lab.bootstrap import bootstrap_store
from kubenetlab.lab.store import store_file
from tests.clusters import NOW, decided, running, settled
from tests.examples import examples
from tests.mutations import FILES, TEXTS, Mutator

T = TypeVar("T")

DECISIONS = decided("onlink", "permanent")


def read(data: bytes) -> LoadedManifests | None:
    """Return the objects of a file; None if it is rejected with proper problems."""
    documents, faults = read_documents("chance.yaml", data)
    loaded, problems = attempt(lambda: load_documents(documents, faults, check=cluster_modes.check))
    assert (loaded is None) == any(not problem.is_warning for problem in problems)
    for problem in (*problems, *(loaded.warnings if loaded is not None else ())):
        assert problem.file == "chance.yaml"
        assert 1 <= problem.line <= data.count(b"\n") + 1, problem
        assert problem.message
        assert str(problem)
    return loaded


def attempt(make: Callable[[], T]) -> tuple[T | None, Sequence[Problem]]:
    """Return the result of `make`, or the problems of its ManifestError."""
    try:
        return make(), ()
    except ManifestError as error:
        return None, error.problems


def bootstrapped(loaded: LoadedManifests) -> Cluster | None:
    """Return the lab's first store; None if admission rejects the objects."""
    config = next(
        (entry for entry in loaded.entries if isinstance(entry.object, ClusterConfig)), None
    )
    found, problems = attempt(
        lambda: (
            bootstrap_store(
                config, [entry for entry in loaded.entries if entry is not config], NOW
            ).cluster
        )
    )
    assert all(problem.file and problem.line and problem.message for problem in problems)
    return found


def assert_is_a_lab(cluster: Cluster) -> None:
    """Assert that controllers have converged and that a kernel can apply the plan."""
    assert controllers.settle(cluster, NOW) is cluster
    kernel, desired = FakeKernel(), plan(cluster, DECISIONS)
    plan_probes(cluster, DECISIONS, PlanCache())
    kernel.apply(diff(HostState(), desired)).raise_failures()
    assert not diff(HostState(kernel.observe(desired.namespaces)), desired)


@settings(max_examples=examples(300))
@given(random=st.randoms(use_true_random=True))
def test_any_text_is_read_or_rejected(random: Random) -> None:
    """Random bytes never crash the loader."""
    read(Mutator(random).text())


@settings(max_examples=examples(150))
@given(random=st.randoms(use_true_random=True))
def test_any_document_is_rejected_or_makes_a_lab(random: Random) -> None:
    """At first, when all pods run, when some terminate, and much later.

    The given documents can be written as JSON.
    """
    documents = Mutator(random).documents()
    text = "".join(
        f"---\n{json.dumps(document)}\n"
        if random.random() < 0.3
        else f"---\n{yaml.safe_dump(document, allow_unicode=True)}\n"
        for document in documents
    )
    loaded = read(text.encode())
    cluster = bootstrapped(loaded) if loaded is not None else None
    if loaded is None or cluster is None:
        return
    for entry in loaded.entries:
        msgspec.json.decode(json.dumps(entry.value))
    assert_is_a_lab(cluster)
    cluster = running(cluster)
    assert_is_a_lab(cluster)
    going = [change for pod in list(cluster.all(Pod))[:3] for change in deletion_changes(pod, NOW)]
    assert_is_a_lab(settled(cluster.with_changes(going)))
    settled(cluster, NOW + 1e7)


@settings(max_examples=examples(30))
@given(random=st.randoms(use_true_random=True))
def test_a_stored_lab_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, random: Random
) -> None:
    """The store on disk has the same objects for the next agent, which plans the same."""
    loaded = read(yaml.safe_dump_all(Mutator(random).documents()).encode())
    cluster = bootstrapped(loaded) if loaded is not None else None
    if cluster is None:
        return
    file = tmp_path_factory.mktemp("state") / "store.json"
    store_file.save(running(cluster), file)
    back = store_file.load(file)
    assert [list(back.all(kind)) for kind in STORED] == [
        list(running(cluster).all(kind)) for kind in STORED
    ]
    assert plan(back, DECISIONS).namespaces == plan(running(cluster), DECISIONS).namespaces


@pytest.mark.parametrize("file", FILES, ids=lambda path: "-".join(path.parts[-2:]))
def test_every_manifest_is_read_or_rejected(file: Path) -> None:
    """The unchanged manifests are valid, or examples of rejected ones."""
    data = file.read_bytes()
    assert data in TEXTS
    loaded, problems = attempt(lambda: load([str(file)], check=cluster_modes.check))
    assert all(
        problem.file == str(file) and problem.line and problem.message for problem in problems
    )
    cluster = bootstrapped(loaded) if loaded is not None else None
    if cluster is not None:
        assert_is_a_lab(cluster)
