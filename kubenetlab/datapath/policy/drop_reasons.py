"""Reasons of dropped and logged packets that are too long for the logs of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kubenetlab.datapath.policy.common import isolation_reason, log_prefix, rule_title
from kubenetlab.datapath.policy.rules import IsolatingPolicy
from kubenetlab.datapath.policy.stages import Stage, stages


def long_reasons(policies_of_pods: Iterable[Sequence[IsolatingPolicy]]) -> dict[str, str]:
    """Return text in logs → reason, for each reason that logs cut.

    policies_of_pods: the policies that apply to each pod.
    """
    different = {id(policies): policies for policies in policies_of_pods}
    return {
        prefix: reason
        for policies in different.values()
        for reason in _reasons(policies)
        if (prefix := log_prefix(reason)) != reason
    }


def _reasons(policies: Sequence[IsolatingPolicy]) -> Iterator[str]:
    """Yield the reasons of packets of one pod."""
    for policy in policies:
        for entry in policy.rules:
            if entry.action in ("Deny", "Log"):
                yield rule_title(policy, entry)
    for direction in ("Ingress", "Egress"):
        for stage in stages(policies, direction):
            yield from _isolation_reasons(stage)


def _isolation_reasons(stage: Stage) -> Iterator[str]:
    """Yield the reasons of packets that no rule matches; some policies spare the own node."""
    for policies in (stage.policies, stage.for_itself, stage.for_own_node):
        if any(policy.isolates for policy in policies):
            yield isolation_reason(policies)
