"""Objects of the policy engine ebpf: entries of the policy maps of the programs of cilium.

Ranks are below those of identities and endpoints, and entries are deleted in reverse order: an
identity, or an endpoint, is known only while the verdicts about it are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from kubenetlab.hoststate.object import Key
from kubenetlab.hoststate.rules.bpf_entries import packed_prefix, protocol_name
from kubenetlab.hoststate.rules.bpf_objects import Entry
from kubenetlab.hoststate.rules.cilium_entries import (
    CIDR_IDENTITY,
    DIRECTIONS,
    EGRESS,
    HAS_TIERS,
    IPCACHE_KEY,
    IS_IPV6,
    KNOWS_OWN_NODE,
    POLICED,
    POLICED_KEY,
    POLICY_ENTRY,
    POLICY_KEY,
    RULE,
    RULE_TEXT,
    exemption_name,
)
from kubenetlab.hoststate.rules.cilium_objects import CiliumObject


def number_of(text: str) -> int:
    """Return the number of a rule, or of a set of policies, from its text; 0 for an empty one.

    With 64 bits, a collision in a lab of 1,000 sets of policies has a probability of 3e-14.
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") if text else 0


class PolicyPorts(NamedTuple):
    """Verdict about one prefix of ports."""

    prefix_length: int
    """ANY_PREFIX, ANY_PORT_PREFIX, or up to POLICY_PREFIX."""
    protocol: int
    port: int
    is_denied: bool
    rule: str
    """Rule that decides; empty if none does."""


class CiliumRule(CiliumObject, frozen=True):
    """Text of a rule that decides about packets."""

    rank = 101

    text: str

    @property
    def key(self) -> Key:
        return ("CiliumRule", self.text)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        yield ("cilium_rules", RULE.pack(number_of(self.text))), RULE_TEXT.pack(self.text.encode())

    def __str__(self) -> str:
        return f"cilium rule {number_of(self.text):016x}: {self.text}"


class CiliumPolicies(CiliumObject, frozen=True, dict=True):
    """Verdicts of a set of policies about the packets of one identity.

    While they change, each packet has the old or the new verdict: longer prefixes are set first,
    and deleted last.
    """

    rank = 102

    policies: str
    """Text of the set of policies."""
    scope: int
    """Direction, IS_IPV6, IS_EXEMPT, TO_OWN_NODE."""
    identity: int
    """0: every identity without verdicts of its own."""
    ports: tuple[PolicyPorts, ...]
    """The longest prefixes first."""

    @property
    def key(self) -> Key:
        return ("CiliumPolicies", self.policies, str(self.scope), str(self.identity))

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        yield from self._entries

    @cached_property
    def _entries(self) -> tuple[tuple[Entry, bytes], ...]:
        number = number_of(self.policies)
        return tuple(
            (
                (
                    "cilium_policy",
                    POLICY_KEY.pack(
                        entry.prefix_length,
                        self.identity,
                        number,
                        self.scope,
                        entry.protocol,
                        entry.port.to_bytes(2, "big"),
                    ),
                ),
                POLICY_ENTRY.pack(number_of(entry.rule), entry.is_denied),
            )
            for entry in self.ports
        )

    def __str__(self) -> str:
        version = "IPv6" if self.scope & IS_IPV6 else "IPv4"
        exempt = exemption_name(self.scope)
        peer = f"identity {self.identity}" if self.identity else "every other identity"
        verdicts = ", ".join(
            f"{protocol_name(entry.protocol) if entry.protocol else 'any'} {entry.port}"
            f"/{entry.prefix_length} {'denied' if entry.is_denied else 'allowed'}"
            for entry in self.ports
        )
        return (
            f"cilium policies {number_of(self.policies):016x} {version} "
            f"{DIRECTIONS[self.scope & EGRESS]}{exempt} {peer}: {verdicts}"
        )


class CiliumPoliced(CiliumObject, frozen=True):
    """The set of policies of a pod, or of an identity, in one direction."""

    rank = 103

    name: str
    """`namespace/name` of the pod."""
    subject: int
    """Number of the endpoint or of the identity."""
    kind: int
    """Direction, BY_IDENTITY."""
    policies: str
    """Text of the set of policies."""
    has_tiers: bool
    knows_own_node: bool = False

    @property
    def key(self) -> Key:
        return ("CiliumPoliced", str(self.subject), str(self.kind))

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        flags = self.has_tiers * HAS_TIERS | self.knows_own_node * KNOWS_OWN_NODE
        value = POLICED.pack(number_of(self.policies), flags)
        yield ("cilium_policed", POLICED_KEY.pack(self.subject, self.kind)), value

    def __str__(self) -> str:
        direction = DIRECTIONS[self.kind & EGRESS]
        return f"cilium {direction} of {self.name}: policies {number_of(self.policies):016x}"


class CiliumPeer(CiliumObject, frozen=True):
    """Identity of an address for policies, where labels do not determine it."""

    rank = 104

    cidr: str
    identity: int

    @property
    def key(self) -> Key:
        return ("CiliumPeer", self.cidr)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        key = IPCACHE_KEY.pack(*packed_prefix(self.cidr))
        yield ("cilium_cidr", key), CIDR_IDENTITY.pack(self.identity)

    def __str__(self) -> str:
        return f"cilium cidr {self.cidr} identity {self.identity}"


class CiliumRange(CiliumPeer, frozen=True):
    """Identity of the addresses of a range, except those that are a `CiliumPeer`."""

    rank = 105

    @property
    def key(self) -> Key:
        return ("CiliumRange", self.cidr)
