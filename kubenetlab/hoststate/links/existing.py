"""Links that exist already: loopback, and those created outside the lab.

Source: include/uapi/linux/if_link.h, net/core/rtnetlink.c (6.12); iproute2 ip/iplink.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from kubenetlab.hoststate.links.link import Link, OtherLinks
from kubenetlab.hoststate.links.messages import IFF_UP, ObservedLink, ifinfo
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import Links, message
from kubenetlab.hoststate.object import ShellName


class LinkUp(Link, frozen=True):
    """An existing link that is set up: loopback, or a link created outside the lab."""

    kind = ""
    event_fields = ("is_up",)
    rank = 20

    is_up: bool = True

    def __str__(self) -> str:
        return f"link {self.name} {'up' if self.is_up else 'down'}"

    def create(self, links: Links) -> bytes:
        return message(wire.RTM_NEWLINK, 0, ifinfo(links.index(self.netns, self.name), IFF_UP))

    change = create

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        yield f"ip -n {shell_name(self.netns)} link set {self.name} up"

    def delete(self, links: Links) -> bytes:
        """Return no request: the link was not created by the lab."""
        return b""

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        return cls(netns, link.name, link.is_up)
