"""Base class of the commands of a transaction."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from msgspec import Struct


class Command(Struct, frozen=True, gc=False, array_like=True, tag_field="command", tag=True):
    """One command of a transaction."""

    family: str

    @property
    @abstractmethod
    def lines(self) -> Iterable[str]:
        """Commands in nft syntax."""

    @abstractmethod
    def messages(self) -> list[bytes]:
        """Return the netlink messages; those that must be sent together are one item.

        Raises ValueError, LookupError or struct.error for values that cannot be encoded.
        """
