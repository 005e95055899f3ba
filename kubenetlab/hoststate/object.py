"""Base class of all kernel objects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, Literal, NamedTuple

from msgspec import Struct

from kubenetlab.hoststate.netlink.protocols import ROUTE, NetlinkProtocol

if TYPE_CHECKING:  # commands import this module, and do without the codec
    from kubenetlab.hoststate.links.messages import ObservedLink
    from kubenetlab.hoststate.netlink.wire import Links

Key = tuple[str, ...]
"""Identity of an object within its namespace: its kind and the fields that cannot change."""

Applier = Literal["netlink", "rules", "programs", "files", "daemons"]
"""Process that applies an object: the agent (netlink, files), a node agent (rules), an app worker
or init (programs), or init (daemons)."""

KERNEL_APPLIERS: Final = frozenset(("netlink", "files"))
"""Appliers of the objects that the agent creates itself and reads back; others are reported."""

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
    needs_open_link: ClassVar[bool] = False
    """True if the kernel refuses the object while the link that it depends on is down, or removes
    it when the link is set up."""

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

    def can_become(self, desired: Object) -> bool:
        """Return True if a change turns this object into `desired`, which has the same key.

        Otherwise it is removed with all objects that depend on it, and they are created again.
        """
        return type(self) is type(desired)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        """Yield the shell commands, run as root, that create the object.

        Only objects that the agent applies by netlink, files and daemons have commands. For rules
        see `RuleBackend.commands`; programs in pods are not kernel objects.
        """
        raise NotImplementedError


class NetlinkObject(Object, frozen=True):
    """Base class of the objects that netlink messages make."""

    protocol: ClassVar[NetlinkProtocol] = ROUTE
    """Protocol of the messages; rtnetlink for all but a few kinds."""

    @abstractmethod
    def create(self, links: Links) -> bytes:
        """Return the request, or several, that creates the object; empty if none is needed."""

    @abstractmethod
    def change(self, links: Links) -> bytes:
        """Return the request that gives every changeable field its value."""

    def changes_from(self, before: Object, links: Links) -> Iterable[tuple[bytes, bool]]:
        """Return requests that turn `before` into this object, each with True if it deletes."""
        return [(self.change(links), False)]

    @abstractmethod
    def delete(self, links: Links) -> bytes:
        """Return the request that deletes the object; empty if another one takes it along."""


class LinkedObject(NetlinkObject, frozen=True):
    """Base class of the objects on a link, with which they are deleted."""

    link: str

    @property
    def depends_on(self) -> Key | None:
        return ("Link", self.link)


Decoder = Callable[[str, memoryview, Mapping[int, str]], tuple[Object, bool] | None]
"""Function that decodes one message without its nlmsghdr into an object of one kind.

Arguments: namespace, message, and link names by interface index. It returns the object, and True if
the lab created it; None for a message about something else. It may raise KeyError for an unknown
link.
"""


class ObjectMessages(NamedTuple):
    """rtnetlink messages by which the kernel lists and reports the objects of one kind."""

    added: int
    """Type of the message about a new or changed object: RTM_NEWROUTE."""
    deleted: int
    dump: bytes
    """Request that lists the objects of a namespace."""
    decode: Decoder
    deleted_key: Callable[[memoryview, Mapping[int, str]], Key | None] | None = None
    """Function that returns the key of a deleted object, where the message about the deletion lacks
    what `decode` needs; it returns None for a message about something else."""
    link_kind: str = ""
    """Kind of links that have such objects, where the kernel does not mark those of the lab: all on
    a link of the lab are the lab's. Empty: any namespace has them."""
    netns_prefixes: tuple[str, ...] = ("",)
    """Beginnings of the names of the namespaces that may have such objects; by default all may."""


UnreportedDumps = Callable[[str, Sequence["ObservedLink"]], Iterable[bytes]]
"""Function that returns the requests that list the objects of a namespace, from its name and its
links; none for a namespace without such objects."""


class UnreportedMessages(NamedTuple):
    """Messages by which the kernel lists the objects of one kind, whose changes it does not report.

    They are of another protocol than rtnetlink.
    """

    protocol: NetlinkProtocol
    dumps: UnreportedDumps
    decode: Callable[[str, Sequence[memoryview], Mapping[int, str]], Iterable[tuple[Object, bool]]]
    """Function that yields the objects in the reply to one request, each with True if the lab
    created it. Arguments: namespace, messages, and link names by interface index."""


class Origin(Struct, frozen=True):
    """Component that wants an object, and the subject it is for: `cni bridge`, `Node worker`."""

    component: str
    subject: str = ""

    def __str__(self) -> str:
        return f"{self.component}, for {self.subject}" if self.subject else self.component
