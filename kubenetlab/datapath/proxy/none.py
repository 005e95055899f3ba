"""none: kube-proxy has never started.

Service addresses and node ports do not work, neither from pods nor from nodes; pod addresses do.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.datapath.modes import ModeOptions, PodNetwork
from kubenetlab.datapath.services.view import ServiceView
from kubenetlab.datapath.view import NodePlace, NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules


class Mode(ModeOptions, frozen=True):
    """Options: none."""

    serves = False

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        return iter(())

    def service(
        self, service: ServiceView, place: NodePlace, network: PodNetwork
    ) -> tuple[SubjectRules[RuleObject], ...]:
        return ()
