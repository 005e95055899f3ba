"""Short names that stand for two kinds: one of Kubernetes, and one of a CNI plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kubenetlab.lab.paths import kind_path

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource
    from kubenetlab.lab.client import Client

_CILIUM: Final = "cilium"
_SHARED: Final = "cnp"
"""Short name of ClusterNetworkPolicy, and of CiliumNetworkPolicy where Cilium is the CNI plugin."""


def kind_in_lab(
    client: Client, word: str, kind: type[Resource], names: Sequence[str]
) -> type[Resource]:
    """Return the kind that a word means in a lab.

    With Cilium as the CNI plugin it is the kind of Cilium, otherwise that of Kubernetes. It is the
    other kind if only that one has such objects.

    kind: kind that has the word as a name in every cluster.
    names: names of objects; empty for all of the kind.
    """
    if word.lower() != _SHARED:
        return kind
    from kubenetlab.api.policies.cilium_network_policy import CiliumNetworkPolicy
    from kubenetlab.api.policies.cluster_network_policy import ClusterNetworkPolicy

    kinds: tuple[type[Resource], ...] = (ClusterNetworkPolicy, CiliumNetworkPolicy)
    if client.inspect()["cni"] == _CILIUM:
        kinds = kinds[::-1]
    return next((each for each in kinds if _exist(client, each, names)), kinds[0])


def _exist(client: Client, kind: type[Resource], names: Sequence[str]) -> bool:
    """Return True if a kind has an object with one of the names, or any object without names."""
    items = client.get(kind_path(kind, None))["items"]
    return any(not names or item["metadata"]["name"] in names for item in items)
