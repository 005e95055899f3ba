"""Objects of the rule backend cilium: programs on links, and entries of their maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Final

from kubenetlab.hoststate.object import Key
from kubenetlab.hoststate.rules.bpf_entries import packed_address, packed_prefix
from kubenetlab.hoststate.rules.bpf_objects import BpfObject, Entry
from kubenetlab.hoststate.rules.cilium_entries import (
    CONFIG,
    ENDPOINT,
    IPCACHE_INFO,
    IPCACHE_KEY,
    LINK_KEY,
    POD_LINK,
    RESERVED_IDENTITIES,
    TUNNEL_LINK,
)

TUNNEL: Final = "cilium_vxlan"
HOST: Final = "cilium_host"
POD_LINK_PREFIX: Final = "lxc"
"""Prefix of the names of the pods' links on the node."""


class CiliumObject(BpfObject, frozen=True):
    """Base class of the objects of this backend."""

    @property
    def backend(self) -> str:
        return "cilium"


class CiliumPrograms(CiliumObject, frozen=True):
    """The programs of a node with their settings, on the links that do not belong to pods."""

    is_base = True
    rank = 100

    routers: tuple[str, ...]
    """Addresses of cilium_host, one per family."""
    mac: str
    """MAC address of the node's ends of all pod links."""
    uplink: str
    underlay: str = ""
    """Own address of tunnels to other nodes; empty if packets are routed."""
    is_legacy: bool = False
    """True if packets between pods pass the stacks of their nodes."""
    is_aggregating: bool = True
    """False if every packet of a connection is an event."""
    is_encrypted: bool = False
    """True if packets of tunnels get the firewall mark by which they are encrypted."""

    @property
    def key(self) -> Key:
        return ("CiliumPrograms",)

    @property
    def links(self) -> tuple[str, ...]:
        return (HOST, *((TUNNEL,) if self.underlay else ()), self.uplink)

    @property
    def link_entries(self) -> Mapping[str, Entry]:
        return {TUNNEL: ("cilium_links", LINK_KEY.pack(0, TUNNEL_LINK))} if self.underlay else {}

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        by_version = {6 if ":" in address else 4: address for address in self.routers}
        routers = (_packed(by_version.get(version, "")) for version in (4, 6))
        flags = (self.is_legacy, self.is_aggregating, self.is_encrypted)
        mac = bytes.fromhex(self.mac.replace(":", ""))
        yield (
            ("cilium_config", bytes(4)),
            CONFIG.pack(*routers, _packed(self.underlay), mac, *flags),
        )

    def __str__(self) -> str:
        routing = f"tunnels of {self.underlay}" if self.underlay else "native routing"
        legacy = ", legacy routing" if self.is_legacy else ""
        events = "" if self.is_aggregating else ", an event for each packet"
        encrypted = ", encrypted" if self.is_encrypted else ""
        return f"cilium programs on {', '.join(self.links)}: {routing}{encrypted}{legacy}{events}"


class CiliumEndpoint(CiliumObject, frozen=True):
    """A pod of the node: its addresses, and its link, to which a program is attached."""

    rank = 140

    link: str
    name: str
    """`namespace/name` of the pod."""
    number: int
    """Number of the endpoint, in 32 bits."""
    addresses: tuple[str, ...]
    mac: str

    @property
    def key(self) -> Key:
        return ("CiliumEndpoint", self.link)

    @property
    def links(self) -> tuple[str, ...]:
        return (self.link,)

    @property
    def link_entries(self) -> Mapping[str, Entry]:
        return {self.link: ("cilium_links", LINK_KEY.pack(self.number, POD_LINK))}

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        value = ENDPOINT.pack(self.number, bytes.fromhex(self.mac.replace(":", "")))
        for address in self.addresses:
            yield ("cilium_lxc", packed_address(address)), value

    def __str__(self) -> str:
        addresses = ", ".join(self.addresses)
        return f"cilium endpoint {self.name} on {self.link}: {addresses} mac {self.mac}"


class IpcacheEntry(CiliumObject, frozen=True, dict=True):
    """Identity of the addresses of a CIDR block, and the node that has them behind a tunnel.

    All nodes share the entries of pods, which are therefore encoded once.
    """

    rank = 110

    cidr: str
    identity: int
    tunnel: str = ""
    """Address of the node; empty if packets to it are routed."""

    @property
    def key(self) -> Key:
        return ("IpcacheEntry", self.cidr)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        yield self._entry

    @cached_property
    def _entry(self) -> tuple[Entry, bytes]:
        key = IPCACHE_KEY.pack(*packed_prefix(self.cidr))
        return ("cilium_ipcache", key), IPCACHE_INFO.pack(self.identity, 0, _packed(self.tunnel))

    def __str__(self) -> str:
        word = RESERVED_IDENTITIES.get(self.identity)
        name = f"{self.identity} ({word})" if word else str(self.identity)
        tunnel = f" tunnel {self.tunnel}" if self.tunnel else ""
        return f"cilium ipcache {self.cidr} identity {name}{tunnel}"


Cilium = CiliumPrograms | CiliumEndpoint | IpcacheEntry


def _packed(address: str) -> bytes:
    """Encode an address in 16 bytes; zeros for an empty one."""
    return packed_address(address) if address else bytes(16)
