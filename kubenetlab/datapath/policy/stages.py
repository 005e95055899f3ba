"""Stages of the evaluation of policies for one pod and direction.

Each tier with policies that apply to the pod is a stage. Its rules are evaluated in order:

    Accept    the connection is allowed
    Deny      the connection is denied
    Pass      the next stage follows
    Log       the packet is logged, and the next rule follows
    no match  denied if a policy of the stage isolates the pod; otherwise the next stage follows

After the last stage the connection is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PolicyTier


class Stage(Struct, frozen=True):
    """Policies of a tier that apply to one pod in one direction."""

    tier: PolicyTier
    policies: tuple[IsolatingPolicy, ...]
    """At least one policy, in the order of evaluation."""

    @property
    def isolates(self) -> bool:
        """True if connections that no rule matches are denied."""
        return any(policy.isolates for policy in self.policies)

    @property
    def passes(self) -> bool:
        """True if a rule leads to the next stage."""
        return any(policy.passes for policy in self.policies)

    @property
    def is_final(self) -> bool:
        """True if no connection reaches the next stage."""
        return self.isolates and not self.passes

    @property
    def spares_own_node(self) -> bool:
        """True if connections of a pod to itself and to its own node are not isolated.

        So it is with NetworkPolicies alone.
        """
        return self.isolates and all(
            policy.spares_own_node for policy in self.policies if policy.isolates
        )

    @property
    def for_itself(self) -> tuple[IsolatingPolicy, ...]:
        """Policies that apply to connections of the pod to itself, by a Service."""
        return tuple(policy for policy in self.policies if not policy.spares_itself)

    @property
    def for_own_node(self) -> tuple[IsolatingPolicy, ...]:
        """Policies that apply to connections of the pod with its own node."""
        if not self.spares_own_node:
            return self.policies
        return tuple(policy for policy in self.policies if not policy.spares_own_node)


def stages(policies: Iterable[IsolatingPolicy], direction: Direction) -> tuple[Stage, ...]:
    """Return the stages that connections of a pod can reach.

    policies: all that apply to the pod, in any order and of both directions.
    """
    return tuple(_reachable(_by_tier(policies, direction)))


def _by_tier(policies: Iterable[IsolatingPolicy], direction: Direction) -> Iterator[Stage]:
    tiers: dict[PolicyTier, list[IsolatingPolicy]] = {}
    for policy in policies:
        if policy.direction == direction:
            tiers.setdefault(policy.tier, []).append(policy)
    for tier in sorted(tiers):
        yield Stage(tier, tuple(sorted(tiers[tier], key=_place)))


def _place(policy: IsolatingPolicy) -> tuple[float, str, str, str]:
    """Return the place of a policy in its tier. Names decide between equal priorities.

    As in Calico, a NetworkPolicy has the name `knp.default.NAME` there.
    """
    namespace, _, name = policy.name.rpartition("/")
    prefix = "knp.default." if policy.spares_own_node else ""
    return policy.priority, f"{prefix}{name}", namespace, policy.kind


def _reachable(in_order: Iterable[Stage]) -> Iterator[Stage]:
    for stage in in_order:
        yield stage
        if stage.is_final:
            return


def before(tier: PolicyTier, of_pod: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the stages that come before a tier."""
    return tuple(stage for stage in of_pod if stage.tier < tier)


def at(tier: PolicyTier, of_pod: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the stage of a tier; none if no policy of the tier applies."""
    return tuple(stage for stage in of_pod if stage.tier == tier)


def after(tier: PolicyTier, of_pod: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the stages that come after a tier."""
    return tuple(stage for stage in of_pod if stage.tier > tier)
