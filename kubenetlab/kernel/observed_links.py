"""Links of a namespace as objects, from what the kernel reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kubenetlab.hoststate.link import Bridge, Dummy, LinkUp, Port, Veth
from kubenetlab.hoststate.netlink.link_messages import ObservedLink
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.state import Contents


def observed_links(
    netns: str,
    links: Sequence[ObservedLink],
    veths: Mapping[int, tuple[str, ObservedLink]],
    desired: Contents,
) -> Iterable[Object]:
    """Yield the links of a namespace that have the name of a desired link.

    veths: all veths by interface index. Indexes are unique in the lab, so two veths that name
        each other are a pair.
    """
    names = {link.index: link.name for link in links}
    for link in links:
        desired_link = desired.get(("Link", link.name))
        if desired_link is None:
            continue
        if isinstance(desired_link, LinkUp):
            yield LinkUp(netns, link.name, link.is_up)
        elif link.kind == "bridge":
            yield Bridge(netns, link.name, link.mac, link.mtu, link.alias, link.is_up)
        elif link.kind == "dummy":
            yield Dummy(netns, link.name, link.mac, link.alias)
        elif link.kind == "veth" and isinstance(desired_link, Port):
            master = names.get(link.master_index, "")
            yield Port(
                netns,
                link.name,
                master,
                link.mac,
                link.mtu,
                link.alias,
                link.is_hairpin,
                link.is_up,
            )
        elif link.kind == "veth":
            peer_netns, peer = veths.get(link.peer_index, ("?", None))
            is_pair = peer is not None and peer.peer_index == link.index
            peer_end = (peer_netns, peer.name) if is_pair and peer is not None else ("?", "?")
            yield Veth(netns, link.name, link.mac, *peer_end, link.mtu, link.alias, link.is_up)
