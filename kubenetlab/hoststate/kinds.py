"""Table of the kinds of objects that rtnetlink lists and reports, apart from links.

Links of all kinds have the same messages: see `links/observed.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kubenetlab.hoststate.address import ADDRESS_MESSAGES
from kubenetlab.hoststate.neighbor import NEIGHBOR_MESSAGES
from kubenetlab.hoststate.nexthop import NEXTHOP_MESSAGES
from kubenetlab.hoststate.object import Decoder, Key, Object, ObjectMessages
from kubenetlab.hoststate.route import ROUTE_MESSAGES

KINDS: Final[tuple[ObjectMessages, ...]] = (
    ADDRESS_MESSAGES,
    NEIGHBOR_MESSAGES,
    ROUTE_MESSAGES,
    NEXTHOP_MESSAGES,
)
"""In the order in which they are listed. Kinds may share their messages."""

DUMPS: Final[Mapping[bytes, tuple[Decoder, ...]]] = {
    kind.dump: tuple(other.decode for other in KINDS if other.dump == kind.dump) for kind in KINDS
}
"""Request for a list → decoders of its messages."""


def decode(
    decoders: tuple[Decoder, ...], netns: str, body: memoryview, names: Mapping[int, str]
) -> tuple[Object, bool] | None:
    """Return the result of the first decoder that knows the message; None if none does."""
    for decoder in decoders:
        if (decoded := decoder(netns, body, names)) is not None:
            return decoded
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
