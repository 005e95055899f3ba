"""Connections as network policies see them, and verdicts about them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from kubenetlab.api.policies.cluster_network_policy import Action
from kubenetlab.api.policies.network_policy import Direction


class Party(Struct, frozen=True):
    """One end of a connection: a pod, a node, or a host outside the cluster."""

    address: str
    """Address as the policies see it: after the translation of Services."""
    pod: str = ""
    """`namespace/name`; empty for nodes and other hosts."""
    node: str = ""
    """Name of the node, or of the pod's node; empty for other hosts."""


class Traffic(Struct, frozen=True):
    """Packets that open a connection."""

    protocol: Literal["TCP", "UDP", "SCTP", "ICMP"]
    port: int = 0
    """Port of the destination, after the translation of Services; 0 for ICMP."""
    is_to_service: bool = False
    """True if the source has connected to the address of a Service."""


class RuleReference(Struct, frozen=True):
    """Rule of a policy."""

    policy: str
    """`namespace/name` of the policy; the name alone if it belongs to a tier."""
    index: int
    """Number of the rule in the list `ingress` or `egress`, from 0."""
    kind: str = "NetworkPolicy"
    """Kind of the policy."""
    name: str = ""
    """Name of the rule, if it has one."""
    action: Action = "Accept"
    """Action for connections that match the rule."""


Stage = Literal["Admin", "NetworkPolicy", "Baseline", "default"]
"""Stage of the evaluation of one direction."""


class DirectionVerdict(Struct, frozen=True):
    """Verdict about one end of a connection."""

    direction: Direction
    """Egress for the source, Ingress for the destination."""
    isolated_by: tuple[str, ...] = ()
    """`namespace/name` of the NetworkPolicies that isolate the pod in this direction."""
    allowed_by: tuple[RuleReference, ...] = ()
    """Rules of NetworkPolicies that allow the connection nevertheless."""
    admin: RuleReference | None = None
    """First rule of the tier Admin that matches the connection."""
    baseline: RuleReference | None = None
    """First rule of the tier Baseline that matches; None if another stage decides before."""

    @property
    def is_allowed(self) -> bool:
        match self.decided_in:
            case "NetworkPolicy":
                return bool(self.allowed_by)
            case "default":
                return True
        return self.decided_by[0].action == "Accept"

    @property
    def decided_in(self) -> Stage:
        """Stage that decides."""
        if _is_final(self.admin):
            return "Admin"
        if self.isolated_by:
            return "NetworkPolicy"
        return "Baseline" if _is_final(self.baseline) else "default"

    @property
    def decided_by(self) -> tuple[RuleReference, ...]:
        """Rules that decide; none if NetworkPolicies have no rule for it, and by default."""
        match self.decided_in:
            case "Admin":
                return (self.admin,) if self.admin is not None else ()
            case "NetworkPolicy":
                return self.allowed_by
            case "Baseline":
                return (self.baseline,) if self.baseline is not None else ()
        return ()


def _is_final(rule: RuleReference | None) -> bool:
    """Return True if a rule of a tier decides, rather than passes to the next stage."""
    return rule is not None and rule.action != "Pass"


class Verdict(Struct, frozen=True):
    """Verdict about a connection."""

    egress: DirectionVerdict
    ingress: DirectionVerdict
    exemption: str = ""
    """Reason why NetworkPolicies do not apply; empty if they do."""

    @property
    def is_allowed(self) -> bool:
        return self.egress.is_allowed and self.ingress.is_allowed
