"""rtnetlink messages about links of any kind, encoded by pyroute2.

Each pod has a veth pair and a bridge port, which veth.py encodes. All other kinds of links are
encoded here: a kind is its name and its attributes (IFLA_INFO_DATA), which pyroute2 knows by their
names in include/uapi/linux/if_link.h. An object of such a kind needs no encoder of its own.
Source: net/core/rtnetlink.c (6.12).
"""

from __future__ import annotations

from collections.abc import Sequence

from kubenetlab.hoststate.links.messages import IFF_UP
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.message_classes import Attribute, MessageClass, nest

_LINK = MessageClass("pyroute2.netlink.rtnl.ifinfmsg", "ifinfmsg")


def new_link(
    kind: str,
    name: str,
    *settings: Attribute,
    index: int = 0,
    data: Sequence[Attribute] = (),
) -> bytes:
    """Return the request that creates a link, which is down.

    kind:     name of the kind: dummy, vxlan …
    settings: attributes that all kinds have: `("IFLA_MTU", 1450)`. The kernel ignores an alias.
    index:    interface index; 0: the kernel chooses.
    data:     attributes of the kind: `("IFLA_VXLAN_ID", 1)`.
    """
    info = [("IFLA_INFO_KIND", kind), *([("IFLA_INFO_DATA", nest(*data))] if data else [])]
    return _LINK.encode(
        wire.RTM_NEWLINK,
        wire.NLM_F_CREATE | wire.NLM_F_EXCL,
        {"index": index},
        [("IFLA_IFNAME", name), *settings, ("IFLA_LINKINFO", nest(*info))],
    )


def new_link_up(
    kind: str,
    name: str,
    *settings: Attribute,
    index: int,
    data: Sequence[Attribute] = (),
    alias: str = "",
    master: int = 0,
) -> bytes:
    """Return the requests that create a link and set it up.

    Arguments are those of `new_link`, and:

    alias:  description of the link; empty for none. The kernel ignores one in the first message.
    master: interface index of the bridge whose port the link becomes; 0 for none.
    """
    later = [
        *([("IFLA_IFALIAS", alias)] if alias else []),
        *([("IFLA_MASTER", master)] if master else []),
    ]
    created = new_link(kind, name, *settings, index=index, data=data)
    return created + change_link(index, *later, is_up=True)


def adopt_link(kind: str, name: str) -> bytes:
    """Return the request that creates a link unless there is one with this name.

    The kernel then looks for the link again after it has loaded the module of the kind, which may
    have created it.
    """
    info = nest(("IFLA_INFO_KIND", kind))
    attributes = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", info)]
    return _LINK.encode(wire.RTM_NEWLINK, wire.NLM_F_CREATE, {}, attributes)


def change_link(index: int, *settings: Attribute, is_up: bool | None = None) -> bytes:
    """Return the request that changes settings of a link.

    index: interface index; 0 if `settings` contain the name.
    is_up: True to set it up, False to set it down, None to leave it as it is.
    """
    flags: dict[str, int] = (
        {} if is_up is None else {"flags": IFF_UP if is_up else 0, "change": IFF_UP}
    )
    return _LINK.encode(wire.RTM_NEWLINK, 0, {"index": index, **flags}, settings)


def configure_link(index: int, mac: str, mtu: int, alias: str, *settings: Attribute) -> bytes:
    """Return the request that sets a link up, and sets what most kinds have, and `settings`."""
    own = (("IFLA_ADDRESS", mac), ("IFLA_MTU", mtu), ("IFLA_IFALIAS", alias))
    return change_link(index, *own, *settings, is_up=True)


def delete_link(name: str) -> bytes:
    """Return the request that deletes a link of the current namespace; ENODEV if there is none."""
    return _LINK.encode(wire.RTM_DELLINK, 0, {}, [("IFLA_IFNAME", name)])
