"""Connections as network policies see them, and verdicts about them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from kubenetlab.api.policies.cluster_network_policy import Action
from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.api.text.documents import Path


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
    tier: str = ""
    """Tier of the policy, if it is one of Calico's and not the default one."""
    section: Path = ()
    """Path of the list with the rule; empty for `spec.ingress` or `spec.egress`."""
    suffix: str = ""
    """End of the policy's name in the kernel, if the policy has several lists in a direction."""

    def path(self, direction: Direction) -> Path:
        """Return the path of the rule in the policy's document."""
        return (*(self.section or ("spec", direction.lower())), self.index)


Stage = str
"""Stage of the evaluation of one direction.

Admin, NetworkPolicy, Baseline, default, or the name of another tier of Calico. NetworkPolicy is the
stage of all policies of the default tier.
"""


class DirectionVerdict(Struct, frozen=True):
    """Verdict about one end of a connection."""

    direction: Direction
    """Egress for the source, Ingress for the destination."""
    isolated_by: tuple[str, ...] = ()
    """Policies that isolate the pod in this direction.

    `namespace/name` of NetworkPolicies, titles of others such as `GlobalNetworkPolicy deny`.
    """
    allowed_by: tuple[RuleReference, ...] = ()
    """Rules of NetworkPolicies, or of other policies of this stage, that allow the connection."""
    admin: RuleReference | None = None
    """Rule of the tiers before NetworkPolicies that decides, or passes to the next tier."""
    baseline: RuleReference | None = None
    """Likewise of the tiers after them; None if another stage decides before."""
    ordered: RuleReference | None = None
    """Rule of the default tier that denies the connection, or passes it to the next tier.

    It may deny connections of pods that no policy isolates.
    """
    isolated_in: str = ""
    """Name of the tier to which `isolated_by` belongs, if it is not the default one."""

    @property
    def is_allowed(self) -> bool:
        stage = self.decided_in
        if stage == "default":
            return True
        if stage == "NetworkPolicy":
            return bool(self.allowed_by)
        return bool(self.decided_by) and self.decided_by[0].action == "Accept"

    @property
    def decided_in(self) -> Stage:
        """Stage that decides."""
        if self.admin is not None and _is_final(self.admin):
            return self.admin.tier or "Admin"
        if self.isolated_in:
            return self.isolated_in
        is_passed = self.ordered is not None and not _is_final(self.ordered)
        has_verdict = self.isolated_by or self.allowed_by or self.ordered is not None
        if has_verdict and not is_passed:
            return "NetworkPolicy"
        if self.baseline is not None and _is_final(self.baseline):
            return self.baseline.tier or "Baseline"
        return "default"

    @property
    def decided_by(self) -> tuple[RuleReference, ...]:
        """Rules that decide; none if a pod is isolated and no rule matches, and by default."""
        if self.admin is not None and _is_final(self.admin):
            return (self.admin,)
        match self.decided_in:
            case "default":
                return ()
            case "NetworkPolicy":
                return (self.ordered,) if self.ordered is not None else self.allowed_by
            case self.isolated_in:
                return ()
        return (self.baseline,) if self.baseline is not None else ()


def named_policy(title: str) -> tuple[str, str]:
    """Return kind and name of a policy in `isolated_by`."""
    kind, _, name = title.rpartition(" ")
    return kind or "NetworkPolicy", name


def _is_final(rule: RuleReference) -> bool:
    """Return True if a rule of a tier decides, rather than passes to the next stage."""
    return rule.action != "Pass"


class Verdict(Struct, frozen=True):
    """Verdict about a connection."""

    egress: DirectionVerdict
    ingress: DirectionVerdict
    exemption: str = ""
    """Reason why NetworkPolicies do not apply; empty if they do."""

    @property
    def is_allowed(self) -> bool:
        return self.egress.is_allowed and self.ingress.is_allowed
