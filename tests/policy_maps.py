"""Verdicts from the entries of the maps of the programs of cilium, as the programs find them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from ipaddress import ip_address

from kubenetlab.hoststate.rules.bpf_entries import PROTOCOL_NUMBERS, packed_address
from kubenetlab.hoststate.rules.cilium import CiliumEndpoint
from kubenetlab.hoststate.rules.cilium_entries import (
    CIDR_IDENTITY,
    EGRESS,
    HAS_TIERS,
    HOST,
    INGRESS,
    IPCACHE_INFO,
    IS_EXEMPT,
    IS_IPV6,
    POLICED,
    POLICED_KEY,
    POLICY_ENTRY,
    POLICY_KEY,
    POLICY_PREFIX,
)
from kubenetlab.hoststate.rules.cilium_objects import CiliumObject
from kubenetlab.hoststate.rules.rulesets import RuleObject, members
from kubenetlab.observe.policies.model import Traffic


class PolicyMaps:
    """Entries of the maps of one node."""

    def __init__(self, objects: Iterable[RuleObject]) -> None:
        self._maps: dict[str, dict[bytes, bytes]] = {}
        self._by_prefix: dict[str, dict[str, bytes]] = {}
        """Map of the type LPM_TRIE → its entries by the bits of their prefixes."""
        self._endpoints: dict[str, int] = {}
        for obj in members(objects):
            assert isinstance(obj, CiliumObject)
            if isinstance(obj, CiliumEndpoint):
                self._endpoints |= dict.fromkeys(obj.addresses, obj.number)
            for (name, key), value in obj.entries():
                known = self._maps.setdefault(name, {}).setdefault(key, value)
                assert known == value, (name, key, obj)

    def is_allowed(self, source: str, destination: str, traffic: Traffic) -> bool:
        """Return True if a connection passes both of its ends."""
        return self._passes(EGRESS, source, destination, traffic) and self._passes(
            INGRESS, destination, source, traffic
        )

    def _passes(self, direction: int, subject: str, peer: str, traffic: Traffic) -> bool:
        number = self._endpoints.get(subject)
        policed = self._maps.get("cilium_policed", {})
        value = policed.get(POLICED_KEY.pack(number, direction)) if number is not None else None
        known = self._identity(peer)
        if value is None or (direction == INGRESS and known == HOST):
            return True
        policies, flags = POLICED.unpack(value)
        is_exempt = known == HOST or subject == peer
        if is_exempt and not flags & HAS_TIERS:
            return True
        identity = self._longest("cilium_cidr", self._address_bits(peer), 4)
        scope = direction | (IS_IPV6 if ":" in peer else 0) | (IS_EXEMPT if is_exempt else 0)
        own = CIDR_IDENTITY.unpack(identity)[0] if identity else 0
        for each in (own or known, 0):
            found = self._verdict(policies, each, scope, traffic)
            if found is not None:
                return found
        return False

    def _identity(self, address: str) -> int:
        found = self._longest("cilium_ipcache", self._address_bits(address), 4)
        assert found is not None
        return int(IPCACHE_INFO.unpack(found)[0])

    def _verdict(self, policies: int, identity: int, scope: int, traffic: Traffic) -> bool | None:
        number = PROTOCOL_NUMBERS.get(traffic.protocol, 58 if scope & IS_IPV6 else 1)
        key = POLICY_KEY.pack(
            POLICY_PREFIX, identity, policies, scope, number, traffic.port.to_bytes(2, "big")
        )
        found = self._longest("cilium_policy", _bits(key[4:]), 4)
        return None if found is None else not POLICY_ENTRY.unpack(found)[1]

    @staticmethod
    def _address_bits(address: str) -> str:
        assert ip_address(address)
        return _bits(packed_address(address))

    def _longest(self, name: str, bits: str, start: int) -> bytes | None:
        """Return the value of the longest prefix, as in a map of type LPM_TRIE."""
        by_prefix = self._by_prefix.get(name)
        if by_prefix is None:
            by_prefix = self._by_prefix[name] = {
                _bits(key[start:])[: int.from_bytes(key[:4], sys.byteorder)]: value
                for key, value in self._maps.get(name, {}).items()
            }
        for length in range(len(bits), -1, -1):
            if (value := by_prefix.get(bits[:length])) is not None:
                return value
        return None


def _bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)
