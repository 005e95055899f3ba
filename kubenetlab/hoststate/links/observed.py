"""Links of a namespace as objects, from what the kernel reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from kubenetlab.errors import BugError
from kubenetlab.hoststate.links.link import Link, OtherLinks
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.netlink.wire import Links
from kubenetlab.hoststate.state import Contents


class ForeignLink(Link, frozen=True):
    """An observed link that has the name of a desired link of another kind."""

    kind = ""
    event_fields = ()
    rank = 30

    observed_kind: str

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        return cls(netns, link.name, link.kind or "unknown")

    def __str__(self) -> str:
        return f"{self.observed_kind} {self.name}"

    def create(self, links: Links) -> bytes:
        raise BugError(f"{self} belongs to another program and is never created")

    change = create


def observed_links(
    netns: str,
    links: Sequence[ObservedLink],
    veths: Mapping[int, tuple[str, ObservedLink]],
    desired: Contents,
) -> Iterator[Link]:
    """Yield the links of a namespace that have the name of a desired link.

    Each is decoded by the desired link's class.

    veths: all veths of the lab by interface index.
    """
    others = OtherLinks({link.index: link.name for link in links}, veths)
    for link in links:
        desired_link = desired.get(("Link", link.name))
        if isinstance(desired_link, Link):
            is_kind = desired_link.kind in ("", link.kind)
            decoder = type(desired_link) if is_kind else ForeignLink
            yield decoder.decode(netns, link, others)
