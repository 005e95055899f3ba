"""Short names that stand for two kinds: one of Kubernetes, and one of a CNI plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kubenetlab.api.policies.cilium_network_policy import CiliumNetworkPolicy
from kubenetlab.api.policies.cluster_network_policy import ClusterNetworkPolicy
from kubenetlab.cli.input.shared_names import kind_in_lab


class _Lab:
    """Client of a lab with some policies."""

    def __init__(self, cni: str, cluster_policies: Sequence[str], of_cilium: Sequence[str]) -> None:
        self._cni = cni
        self._names = {
            ClusterNetworkPolicy.plural: cluster_policies,
            CiliumNetworkPolicy.plural: of_cilium,
        }

    def inspect(self) -> Any:
        return {"cni": self._cni}

    def get(self, path: str) -> Any:
        names = self._names[path.rpartition("/")[2]]
        return {"items": [{"metadata": {"name": name}} for name in names]}


@pytest.mark.parametrize(
    ("cni", "cluster_policies", "of_cilium", "names", "is_of_cilium"),
    [
        ("bridge", [], [], [], False),
        ("cilium", [], [], [], True),
        ("bridge", ["a"], ["b"], [], False),
        ("cilium", ["a"], ["b"], [], True),
        ("bridge", [], ["b"], [], True),
        ("cilium", ["a"], [], [], False),
        ("bridge", ["a"], ["b"], ["b"], True),
        ("cilium", ["a"], ["b"], ["a"], False),
        ("bridge", ["a"], ["a"], ["a"], False),
        ("cilium", ["a"], ["a"], ["a"], True),
        ("cilium", ["a"], ["b"], ["c"], True),
    ],
)
def test_the_plugin_decides_unless_only_the_other_kind_has_such_objects(
    cni: str,
    cluster_policies: list[str],
    of_cilium: list[str],
    names: list[str],
    is_of_cilium: bool,
) -> None:
    lab: Any = _Lab(cni, cluster_policies, of_cilium)
    kind = CiliumNetworkPolicy if is_of_cilium else ClusterNetworkPolicy
    assert kind_in_lab(lab, "cnp", ClusterNetworkPolicy, names) is kind


def test_other_names_mean_one_kind() -> None:
    lab: Any = _Lab("cilium", [], [])
    name = "cnp.policy.networking.k8s.io"
    assert kind_in_lab(lab, name, ClusterNetworkPolicy, []) is ClusterNetworkPolicy
