"""Tables of the kinds of objects that netlink lists, apart from links.

Links of all kinds have the same messages: see `links/observed.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from kubenetlab.hoststate.address import ADDRESS_MESSAGES
from kubenetlab.hoststate.encryption.wireguard import WIREGUARD_MESSAGES
from kubenetlab.hoststate.encryption.xfrm import XFRM_POLICY_MESSAGES, XFRM_STATE_MESSAGES
from kubenetlab.hoststate.fdb import FDB_MESSAGES
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.neighbor import NEIGHBOR_MESSAGES
from kubenetlab.hoststate.nexthop import NEXTHOP_MESSAGES
from kubenetlab.hoststate.object import Key, Object, ObjectMessages, UnreportedMessages
from kubenetlab.hoststate.policy_rule import POLICY_RULE_MESSAGES
from kubenetlab.hoststate.qdisc import QDISC_MESSAGES
from kubenetlab.hoststate.route import ROUTE_MESSAGES
from kubenetlab.hoststate.state import Contents

KINDS: Final[tuple[ObjectMessages, ...]] = (
    ADDRESS_MESSAGES,
    NEIGHBOR_MESSAGES,
    ROUTE_MESSAGES,
    NEXTHOP_MESSAGES,
    FDB_MESSAGES,
    POLICY_RULE_MESSAGES,
    QDISC_MESSAGES,
)
"""In the order in which they are listed. Kinds may share their messages."""

UNREPORTED_KINDS: Final[tuple[UnreportedMessages, ...]] = (
    WIREGUARD_MESSAGES,
    XFRM_STATE_MESSAGES,
    XFRM_POLICY_MESSAGES,
)
"""Kinds whose changes by others are detected only when a namespace is read again."""


def kinds_by_dump(
    netns: str, links: Sequence[ObservedLink]
) -> Iterator[tuple[bytes, tuple[ObjectMessages, ...]]]:
    """Yield each request for a list with the kinds that its messages may be about.

    links: links of the namespace.
    """
    link_kinds = {link.kind for link in links}
    kinds = [
        kind
        for kind in KINDS
        if (not kind.link_kind or kind.link_kind in link_kinds)
        and netns.startswith(kind.netns_prefixes)
    ]
    for dump in dict.fromkeys(kind.dump for kind in kinds):
        yield dump, tuple(kind for kind in kinds if kind.dump == dump)


def decode(
    kinds: Iterable[ObjectMessages],
    netns: str,
    body: memoryview,
    names: Mapping[int, str],
    desired: Contents,
) -> tuple[Object, bool] | None:
    """Return the object that a message is about, and True if it belongs to the lab.

    Return None for a message about something that the lab never creates.
    """
    for kind in kinds:
        if (decoded := kind.decode(netns, body, names)) is not None:
            obj, is_ours = decoded
            return obj, is_ours or (kind.link_kind != "" and obj.depends_on in desired)
    return None


def decode_event(
    netns: str, type_: int, body: memoryview, names: Mapping[int, str]
) -> tuple[Key, Object | None] | None:
    """Return the key and the new state of the object that a message is about.

    The state is None after a deletion. Return None for a message about something else, or about a
    link that does not belong to the lab.
    """
    for kind in KINDS:
        if type_ not in (kind.added, kind.deleted):
            continue
        try:
            if type_ == kind.deleted and kind.deleted_key is not None:
                key = kind.deleted_key(body, names)
                if key is not None:
                    return key, None
            elif (decoded := kind.decode(netns, body, names)) is not None:
                return decoded[0].key, decoded[0] if type_ == kind.added else None
        except KeyError:
            continue
    return None
