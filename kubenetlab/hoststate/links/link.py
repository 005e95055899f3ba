"""Link: base class of all kinds of links, and words that they share."""

from __future__ import annotations

import shlex
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Self

from kubenetlab.hoststate.links.messages import ObservedLink, delete_link
from kubenetlab.hoststate.netlink.wire import Links
from kubenetlab.hoststate.object import Key, NetlinkObject

LOOPBACK = "lo"


class OtherLinks(NamedTuple):
    """Links that the decoder of a link may refer to."""

    names: Mapping[int, str]
    """Names of the links of the same namespace, by interface index."""
    veths: Mapping[int, tuple[str, ObservedLink]]
    """Namespace and link of all veth ends of the lab, by interface index.

    Indexes are unique in the lab, so two ends that name each other are a pair."""


class Link(NetlinkObject, frozen=True):
    """Base class of all links, identified by their names.

    A kind of link is one subclass. `create`, `change` and `commands` make it, `decode` reads it
    back, and `event_fields` are the fields that an event about it is compared with.
    """

    kind: ClassVar[str]
    """The kernel's name of the kind: `bridge`; empty: any kind."""
    event_fields: ClassVar[tuple[str, ...]] = ("mac", "mtu", "is_up")
    is_created_by_peer: ClassVar[bool] = False
    """True if a link of another namespace creates this one, which is only configured here."""
    is_adopted: ClassVar[bool] = False
    """True if the kernel may have created the link by itself, with an index of its choice."""
    is_removed_after_rules: ClassVar[bool] = False
    """True if rules need the link, and the addresses on it, until they have changed."""

    name: str

    @classmethod
    @abstractmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        """Return the object for a link of this kind."""

    def matches(self, link: ObservedLink, indexes: Mapping[str, int]) -> bool:
        """Return True if an event about the link agrees with this object.

        indexes: interface indexes of the links of the namespace by name.
        """
        return self.kind in ("", link.kind) and all(
            getattr(link, field) == getattr(self, field) for field in self.event_fields
        )

    def closed(self) -> Self | None:
        """Return this link as it is created in a pod whose rules are not loaded yet: down.

        Return None for a link that leads to no other namespace.
        """
        return None

    @property
    def key(self) -> Key:
        return ("Link", self.name)

    def delete(self, links: Links) -> bytes:
        return delete_link(links, self.netns, self.name)


def down_word(is_up: bool) -> str:
    """Return the end of a description: ` down`, or nothing for a link that is up."""
    return "" if is_up else " down"


def alias_words(alias: str) -> str:
    """Return the part of a description that shows the alias."""
    return f" alias “{alias}”" if alias else ""


def alias_option(alias: str) -> str:
    """Return the arguments of `ip link set` that set the alias."""
    return f" alias {shlex.quote(alias)}" if alias else ""


def arp_word(has_arp: bool) -> str:
    """Return the part of a description that shows a link without ARP."""
    return "" if has_arp else " noarp"


def arp_option(has_arp: bool) -> str:
    """Return the argument of `ip link set` for a link without ARP."""
    return "" if has_arp else " arp off"
