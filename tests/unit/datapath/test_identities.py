"""Identities: numbers that follow from labels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.pods import Pod
from kubenetlab.datapath import identities as module
from kubenetlab.datapath.identities import FIRST, LAST, identities, security_labels
from tests.clusters import store

LABELS = st.lists(st.text("ab=", max_size=3), max_size=3).map(tuple)


@given(st.lists(LABELS, max_size=30))
def test_each_set_of_labels_has_one_number(label_sets: list[tuple[str, ...]]) -> None:
    numbers = identities(label_sets)
    assert numbers.keys() == set(label_sets)
    assert len(set(numbers.values())) == len(numbers)
    assert all(FIRST <= number <= LAST for number in numbers.values())
    assert identities(reversed(label_sets)) == numbers


@given(st.lists(LABELS, max_size=30))
def test_equal_numbers_are_avoided(label_sets: list[tuple[str, ...]]) -> None:
    """The number of the last set in order moves, here from the end of the range to its start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_number", lambda labels: LAST)
        numbers = identities(label_sets)
    expected = [LAST, *range(FIRST, LAST)][: len(numbers)]
    assert [numbers[labels] for labels in sorted(numbers)] == expected


def pod(labels: str) -> Pod:
    (found,) = store(
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: p, labels: {{{labels}}}}}\n"
        "spec: {containers: [{name: main, image: agnhost}]}\n"
    ).all(Pod, "default")
    return found


def test_revisions_of_a_workload_share_an_identity() -> None:
    """Labels that a controller adds to tell pods apart do not count; the namespace's labels do."""
    revisions = [
        security_labels(pod(f"app: web, pod-template-hash: {name}"), {"team": "a"})
        for name in ("abc", "def")
    ]
    assert revisions[0] == revisions[1]
    assert revisions[0] == (
        "k8s:app=web",
        "k8s:io.cilium.k8s.namespace.labels.team=a",
        "k8s:io.cilium.k8s.policy.cluster=default",
        "k8s:io.cilium.k8s.policy.serviceaccount=default",
        "k8s:io.kubernetes.pod.namespace=default",
    )
    assert security_labels(pod("app: web"), {"team": "b"}) != revisions[0]
    assert security_labels(pod("app: db"), {"team": "a"}) != revisions[0]
