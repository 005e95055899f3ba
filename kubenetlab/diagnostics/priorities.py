"""Diagnostics of policies whose order the API does not define: same tier, same priority."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.api.policies.tiers import TierPolicy, tier_policies
from kubenetlab.api.store import Cluster
from kubenetlab.diagnostics.model import ORDER_UNDEFINED, Diagnostic, Scope, subjects_of
from kubenetlab.diagnostics.templates import Templates


def check_priorities(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each policy that shares pods and its priority with an earlier one.

    Policies whose rules all have the same action give the same verdict in any order.
    """
    by_order: dict[tuple[str, int], list[TierPolicy]] = {}
    for policy in tier_policies(cluster):
        by_order.setdefault((policy.spec.tier, policy.spec.priority), []).append(policy)
    for policies in by_order.values():
        for first, second in combinations(policies, 2):
            directions = [each for each in ("Ingress", "Egress") if _differ(first, second, each)]
            if not directions:
                continue
            others = frozenset(subjects_of(cluster, first))
            if common := [pod for pod in subjects_of(cluster, second) if pod in others]:
                yield _diagnostic(first, second, directions, common)


def _differ(first: TierPolicy, second: TierPolicy, direction: Direction) -> bool:
    """Return True if both policies have rules for a direction, with several actions."""
    actions = [_actions(policy, direction) for policy in (first, second)]
    return all(actions) and len(actions[0] | actions[1]) > 1


def _actions(policy: TierPolicy, direction: Direction) -> set[str]:
    rules = policy.spec.ingress if direction == "Ingress" else policy.spec.egress
    return {rule.action for rule in rules}


def _diagnostic(
    first: TierPolicy, second: TierPolicy, directions: Sequence[str], pods: Sequence[str]
) -> Diagnostic:
    others = f" and {len(pods) - 1} more" if len(pods) > 1 else ""
    return Diagnostic(
        ORDER_UNDEFINED,
        second.kind,
        "",
        second.name,
        ("spec", "priority"),
        f"{second.spec.priority} is the priority of {first.title}, too, and both apply to "
        f"{pods[0]}{others}: Kubernetes does not define which of them is evaluated first; "
        f"in the lab it is {first.name}",
        ("give each policy of a tier a priority of its own",),
        Scope(
            into=tuple(pods) if "Ingress" in directions else (),
            out_of=tuple(pods) if "Egress" in directions else (),
        ),
    )
