"""Result of `Lab.explain_policy`: the JSON output of `explain-policy` as typed values."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

Decision = Literal["allowed", "denied", "either"]
"""Result for a connection; `either` if it depends on the path or on the endpoint."""


class ExplainedParty(Struct, frozen=True):
    """Source or destination of a connection, as policies see it."""

    address: str
    """Address of the packets."""
    name: str
    """`namespace/name` of a pod, `node:NAME`, `ext:NAME`, or the address."""
    node: str
    """Node of a pod, or the node itself; empty for other hosts."""


class ExplainedPolicy(Struct, frozen=True):
    """Policy that isolates one end of a connection."""

    kind: str
    """Kind of the policy."""
    policy: str
    """`namespace/name` of the policy; the name alone for kinds without namespaces."""
    place: str
    """file:line; empty if unknown."""
    enforced: bool
    """True if the lab enforces policies of this kind."""


class ExplainedRule(ExplainedPolicy, frozen=True):
    """Rule that decides about one end of a connection."""

    index: int
    """Number of the rule in its list, from 0."""
    name: str
    """Name of the rule; empty for none."""
    action: Literal["Accept", "Deny"]
    """Effect of the rule."""


class ExplainedKernelRule(Struct, frozen=True):
    """Rule in the kernel of a node."""

    node: str
    """Name of the node."""
    chain: str
    """Table and chain, or table and map."""
    rule: str
    """Rule or element, as the backend's program prints it."""


class ExplainedDirection(Struct, frozen=True):
    """Verdict of the policies of one end of a connection."""

    end: ExplainedParty
    """Pod, node or host that the policies select, or that no policy can select."""
    allowed: bool
    """True if its policies allow the connection."""
    outdated: bool
    """True if a node without agent of the CNI plugin decides by former policies."""
    differs: bool
    """True if rules in the kernel of the end's node are not the desired ones."""
    missing: bool
    """True if the kernel of the end's node lacks the rules that decide."""
    stage: str
    """Stage that decides: Admin, NetworkPolicy, Baseline, default, or a Calico tier."""
    isolated_by: tuple[ExplainedPolicy, ...]
    """Policies that isolate the end."""
    decided_by: tuple[ExplainedRule, ...]
    """Rules that allow or deny the connection; none if no rule matches it."""
    kernel: tuple[ExplainedKernelRule, ...]
    """Rules in the kernel of the end's node."""


class ExplainedPath(Struct, frozen=True):
    """Verdict for the sources as which the destination may see a connection."""

    allowed: bool
    """True if both ends allow the connection."""
    exemption: str
    """Reason why no NetworkPolicy applies; empty for none."""
    sources: tuple[ExplainedParty, ...]
    """Sources as which the destination may see the connection."""
    egress: ExplainedDirection
    """Verdict of the source's policies."""
    ingress: ExplainedDirection
    """Verdict of the destination's policies."""


class ExplainedEndpoint(Struct, frozen=True):
    """Verdict about the connections to one endpoint of a Service, or to the destination itself."""

    address: str
    """Address of the endpoint."""
    port: int
    """Port of the endpoint; 0 for ICMP."""
    name: str
    """Pod, node or host at the address."""
    decision: Decision
    """Result for this endpoint."""
    paths: tuple[ExplainedPath, ...]
    """Paths with different verdicts."""


class ExplainedLimit(Struct, frozen=True):
    """Object or field that the lab does not enforce, so that a cluster could decide otherwise."""

    object: str
    """Kind and name of the object."""
    path: str
    """Field of the object; empty for the whole object."""
    place: str
    """file:line; empty if unknown."""
    message: str
    """Effect in a cluster."""


class PolicyExplanation(Struct, frozen=True, kw_only=True):
    """Network policies that decide about a connection, and their rules in the kernel."""

    source: str = field(name="from")
    """Pod, node or host that would send the packets."""
    destination: str = field(name="to")
    """Destination of the packets."""
    address: str
    """Destination address."""
    port: int
    """Destination port; 0 for ICMP."""
    protocol: Literal["ICMP", "TCP", "UDP", "SCTP"]
    """Protocol of the connection."""
    engine: str
    """Policy engine of the lab."""
    decision: Decision
    """Result for all endpoints."""
    unenforced: tuple[str, ...]
    """Policies that the lab does not enforce; they count only if it enforces none."""
    could_differ: tuple[ExplainedLimit, ...]
    """Objects and fields that the lab does not enforce, and that could change the decision."""
    endpoints: tuple[ExplainedEndpoint, ...]
    """One entry for each endpoint of a Service; one for any other destination."""

    def __bool__(self) -> bool:
        """Raise TypeError: `assert lab.explain_policy(…)` could mean both of two properties."""
        raise TypeError(
            "a PolicyExplanation is neither true nor false: ask for .is_allowed or .is_denied"
        )

    @property
    def is_allowed(self) -> bool:
        """True if the policies allow the connection on every path to every endpoint."""
        return self.decision == "allowed"

    @property
    def is_denied(self) -> bool:
        """True if the policies deny the connection on every path to every endpoint."""
        return self.decision == "denied"

    @property
    def policies(self) -> tuple[ExplainedPolicy, ...]:
        """Policies that isolate one of the ends, or decide about it, without duplicates."""
        directions = [
            direction
            for endpoint in self.endpoints
            for path in endpoint.paths
            for direction in (path.egress, path.ingress)
        ]
        named = {
            (each.kind, each.policy): each
            for direction in directions
            for each in (*direction.decided_by, *direction.isolated_by)
        }
        return tuple(
            ExplainedPolicy(each.kind, each.policy, each.place, each.enforced)
            for each in named.values()
        )
