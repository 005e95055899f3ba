"""Object: one thing in the kernel, as a value."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

from msgspec import Struct

Key = tuple[str, ...]
"""What makes an object the same object: its class and the fields that cannot change; unique within a namespace."""

Hand = Literal["netlink", "rules", "programs"]
"""Who makes an object so: the agent itself, the node agent, the app workers."""

Word = Callable[[str], str]
"""A namespace → the word for it in a shell: `"$NS"`."""


class Object(Struct, frozen=True):
    """The base of all kinds of kernel objects; two are equal when nothing needs doing to turn one into the other.

    `netns` is the namespace it lives in, by the name of the sandbox that holds it. `str()` reads like iproute2 or nft.
    """

    rank: ClassVar[int]
    """Creation order within a namespace: a link before its addresses, an address before the routes that use it."""
    hand: ClassVar[Hand] = "netlink"

    netns: str

    @property
    @abstractmethod
    def key(self) -> Key:
        """Among the objects of its namespace."""

    @property
    def depends_on(self) -> Key | None:
        """The link without which it cannot be, in its own namespace: an address goes when its link goes."""
        return None

    @property
    def peer_end(self) -> tuple[str, Key] | None:
        """(namespace, link) that comes and goes with it: the other end of a pair."""
        return None

    @property
    def parts(self) -> tuple[Object, ...]:
        """What it is made of, where it stands for several objects that come and go together; else itself."""
        return (self,)

    def commands(self, word: Word) -> Iterator[str]:
        """What one would type as root to make it; only for what is told by netlink, for rules are text and programs are not of the kernel."""
        raise NotImplementedError


class Origin(Struct, frozen=True):
    """Who wants an object, and for what: `cni bridge`, `Node worker`."""

    component: str
    subject: str = ""

    def __str__(self) -> str:
        return f"{self.component}, for {self.subject}" if self.subject else self.component
