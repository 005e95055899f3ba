"""Sets of policies, one for each direction of an isolated pod. Pods may share them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.datapath.policy.members import NamedPort, PolicyPod
from kubenetlab.datapath.policy.rules import IsolatingPolicy
from kubenetlab.datapath.policy.verdicts import PolicySet
from kubenetlab.versioned import ChangedEntries, VersionedMap

_DIRECTIONS: Final[tuple[Direction, ...]] = ("Egress", "Ingress")
Sets = VersionedMap[ObjectKey, tuple[PolicySet, ...]]
"""Sets of policies of each isolated pod."""


class Isolated(Protocol):
    """A pod, and the policies that isolate it."""

    @property
    def pod(self) -> PolicyPod: ...

    @property
    def policies(self) -> tuple[IsolatingPolicy, ...]: ...


IsolatedT = TypeVar("IsolatedT", bound=Isolated)


def sets_of_pods(former: Sets | None, news: ChangedEntries[ObjectKey, Isolated]) -> Sets:
    """Return the policies of each isolated pod in each direction."""
    known: dict[tuple[int, tuple[NamedPort, ...]], tuple[PolicySet, ...]] = {}
    changes: dict[ObjectKey, tuple[PolicySet, ...] | None] = {}
    for key, (before, now) in news.items():
        if now is None:
            changes[key] = None
        elif before is None or _policies(before) != _policies(now):
            changes[key] = _sets_of(now, known)
    return (Sets() if former is None else former).with_changes(changes)


def _policies(isolated: Isolated) -> tuple[object, ...]:
    """Return what determines the sets of policies of a pod."""
    return isolated.policies, isolated.pod.named_ports


def _sets_of(
    isolated: Isolated, known: dict[tuple[int, tuple[NamedPort, ...]], tuple[PolicySet, ...]]
) -> tuple[PolicySet, ...]:
    """Return the policies of a pod in each direction.

    known: those of other pods, by the identity of the policies and the ports of the pod.
    """
    key = id(isolated.policies), isolated.pod.named_ports
    if key not in known:
        found = (
            _policy_set(direction, isolated.policies, isolated.pod.named_ports)
            for direction in _DIRECTIONS
        )
        known[key] = tuple(policies for policies in found if policies is not None)
    return known[key]


def _policy_set(
    direction: Direction, policies: Iterable[IsolatingPolicy], ports: tuple[NamedPort, ...]
) -> PolicySet | None:
    """Return the policies of a pod in one direction; None without any."""
    own = tuple(policy for policy in policies if policy.direction == direction)
    names = {name for policy in own for rule in policy.rules for name in rule.port_names}
    known = {(name.name, name.protocol) for name in names} if direction == "Ingress" else set()
    used = tuple(port for port in ports if port[:2] in known)
    return PolicySet(direction, own, used) if own else None
