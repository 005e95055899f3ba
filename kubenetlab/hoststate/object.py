"""Base class of all kernel objects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

from msgspec import Struct

Key = tuple[str, ...]
"""Identity of an object within its namespace: its kind and the fields that cannot change."""

Applier = Literal["netlink", "rules", "programs"]
"""Process that applies an object: the agent (netlink), a node agent (rules), or an app worker or
init (programs)."""

ShellName = Callable[[str], str]
"""Function that returns the shell expression for a namespace: `"$NS"`."""


class Object(Struct, frozen=True):
    """Base class of all kernel objects.

    Two objects are equal if no operation is needed to turn one into the other. `str()` reads like
    the output of iproute2 or nft.
    """

    rank: ClassVar[int]
    """Creation order within a namespace: a link comes before its addresses, an address before the
    routes that use it."""
    applier: ClassVar[Applier] = "netlink"
    """Process that applies objects of this class."""

    netns: str
    """Name of the sandbox whose network namespace contains the object."""

    @property
    @abstractmethod
    def key(self) -> Key:
        """Identity of the object among the objects of its namespace."""

    @property
    def depends_on(self) -> Key | None:
        """Key of the object in the same namespace with which it is deleted: an address's link."""
        return None

    @property
    def peer_end(self) -> tuple[str, Key] | None:
        """Namespace and key of the link created and deleted with it: the peer of a veth end."""
        return None

    @property
    def parts(self) -> tuple[Object, ...]:
        """Objects that this one groups; an object that groups none is its own only part."""
        return (self,)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        """Yield the shell commands, run as root, that create the object.

        Only objects that the agent applies by netlink have commands. For rules see
        `RuleBackend.commands`; programs are not kernel objects.
        """
        raise NotImplementedError


class Origin(Struct, frozen=True):
    """Component that wants an object, and the subject it is for: `cni bridge`, `Node worker`."""

    component: str
    subject: str = ""

    def __str__(self) -> str:
        return f"{self.component}, for {self.subject}" if self.subject else self.component
