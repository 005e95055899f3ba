"""Secret: a key that is compared and sent to the kernel, and never shown."""

from __future__ import annotations

from base64 import b64encode
from typing import Final


class Secret:
    """Bytes of a key. `str()` and `repr()` do not contain them, and msgspec does not encode them.

    The kernel reports keys to the owner of a namespace, so that an observed key can be compared
    with the desired one.
    """

    __slots__ = ("reveal",)

    def __init__(self, value: bytes) -> None:
        self.reveal: Final = value

    @property
    def base64(self) -> str:
        """The key in base64, as WireGuard's messages have it."""
        return b64encode(self.reveal).decode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.reveal == other.reveal

    def __hash__(self) -> int:
        return hash(self.reveal)

    def __repr__(self) -> str:
        return "<secret>"
