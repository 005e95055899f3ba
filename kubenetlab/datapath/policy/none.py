"""none: no network policy is enforced; every connection is allowed.

Policies are accepted and kept, and have no effect. `up` and `apply` name them, and `check` fails.

As in: a cluster whose CNI plugin has no policies, such as flannel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubenetlab.datapath.modes import ModeOptions, PodNetwork
from kubenetlab.datapath.policy.members import PodGroup, PolicyPod
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PortName
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules


class Mode(ModeOptions, frozen=True):
    """Options: none."""

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        return iter(())

    def isolated_pod(
        self, version: int, pod: PolicyPod, policies: Sequence[IsolatingPolicy]
    ) -> Iterator[SubjectRules[RuleObject]]:
        return iter(())

    def group(
        self, version: int, group: PodGroup, pods: Sequence[PolicyPod]
    ) -> Iterator[SubjectRules[RuleObject]]:
        return iter(())

    def named_ports(
        self, version: int, port: PortName, pods: Sequence[PolicyPod]
    ) -> Iterator[SubjectRules[RuleObject]]:
        return iter(())

    def policy(self, version: int, policy: IsolatingPolicy) -> Iterator[SubjectRules[RuleObject]]:
        return iter(())
