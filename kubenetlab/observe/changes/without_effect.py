"""Policies that differ between two versions and select no pod of them: nothing can show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from kubenetlab.api.calico.policies import CALICO_POLICY_KINDS
from kubenetlab.api.kinds import POLICY_KINDS
from kubenetlab.api.meta import Resource
from kubenetlab.api.policies.cilium_rules import CILIUM_KINDS, specifications
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.policies.tiers import tier_policies
from kubenetlab.api.store import Cluster
from kubenetlab.observe.policies.peers import PolicyMembers

_Key = tuple[str, str, str]
"""Kind, namespace and name."""
_CHANGES: Final[Mapping[tuple[bool, bool], str]] = {
    (False, True): "added",
    (True, False): "removed",
    (True, True): "changed",
}
"""(in the older version, in the newer one) → change of a policy."""


def policies_without_effect(old: Cluster, new: Cluster, directory: str = "") -> list[str]:
    """Return messages about policies that change, and select no pod in either version.

    Their pods may be in other manifests, so that the comparison says nothing about them.

    directory: current directory. The paths of files in it are shortened.
    """
    before, after = _policies(old), _policies(new)
    selecting = _selecting(old) | _selecting(new)
    messages = []
    for key in sorted({*before, *after} - selecting, key=_order):
        first, second = before.get(key), after.get(key)
        if _document(old, first) == _document(new, second):
            continue
        change = _CHANGES[first is not None, second is not None]
        cluster, policy = (new, second) if second is not None else (old, first)
        messages.append(
            f"{_title(cluster, policy, directory)} is {change}, and selects no pod of the compared "
            "manifests: the comparison says nothing about it"
        )
    return messages


def _policies(cluster: Cluster) -> dict[_Key, Resource]:
    return {
        (policy.kind, *policy.key): policy for kind in POLICY_KINDS for policy in cluster.all(kind)
    }


def _order(key: _Key) -> tuple[int, _Key]:
    kinds = [kind.kind for kind in POLICY_KINDS]
    return kinds.index(key[0]), key


def _document(cluster: Cluster, policy: Resource | None) -> object:
    """Return the document of a policy, without defaults and metadata that the lab adds."""
    if policy is None:
        return None
    given = cluster.given.get((policy.kind, *policy.key))
    return given.document if given is not None else policy


def _title(cluster: Cluster, policy: Resource | None, directory: str) -> str:
    """Return kind and name of a policy, with file and line if they are known."""
    assert policy is not None
    source = cluster.source_of(policy)
    place = f" ({source.file.removeprefix(f'{directory}/')}:{source.line})" if source else ""
    return f"{policy.kind} {policy.full_name}{place}"


def _selecting(cluster: Cluster) -> set[_Key]:
    """Return the policies that select a pod with a network of its own."""
    members = PolicyMembers(cluster)
    return {
        key
        for keys in (
            _isolating(cluster, members),
            _of_tiers(cluster, members),
            _of_calico(cluster, members),
            _of_cilium(cluster, members),
        )
        for key in keys
    }


def _isolating(cluster: Cluster, members: PolicyMembers) -> Iterator[_Key]:
    for policy in cluster.all(NetworkPolicy):
        if members.selected(policy):
            yield policy.kind, *policy.key


def _of_tiers(cluster: Cluster, members: PolicyMembers) -> Iterator[_Key]:
    for policy in tier_policies(cluster):
        if members.subjects_of(policy):
            yield policy.kind, "", policy.name


def _of_calico(cluster: Cluster, members: PolicyMembers) -> Iterator[_Key]:
    for kind in CALICO_POLICY_KINDS:
        for policy in cluster.all(kind):
            if members.selected_by_calico(policy):
                yield policy.kind, *policy.key


def _of_cilium(cluster: Cluster, members: PolicyMembers) -> Iterator[_Key]:
    for kind in CILIUM_KINDS:
        for policy in cluster.all(kind):
            rules = [rule for _, rule in specifications(policy)]
            if any(members.selected_by_cilium(policy, rule) for rule in rules):
                yield policy.kind, *policy.key
