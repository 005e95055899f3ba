"""Netlink messages that pyroute2 encodes and decodes: those of everything of which a lab has few.

Links, addresses, routes, neighbours and next hops have a codec of their own (wire.py), because
every pod needs such messages; docs/decisions/netlink-codec.md has the figures. Only pyroute2's
message classes are used: they turn values into bytes and back, and kernel/ sends the bytes on
sockets of its own. A class is imported by its first message, so a process that sends none does not
spend the time and the memory.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any, Final, NamedTuple

from kubenetlab.hoststate.netlink.wire import HEADER, NLM_F_REQUEST

PACKAGE: Final = "pyroute2"

Attribute = tuple[str, object]
"""Name of an attribute as in the kernel's headers, and its value."""


class MessageClass(NamedTuple):
    """A class of netlink messages: its module and its name."""

    module: str
    name: str

    def load(self) -> Any:
        """Import the class; do nothing if that was done before."""
        return _load(self)

    def encode(
        self,
        type_: int,
        flags: int,
        fields: Mapping[str, int],
        attributes: Sequence[Attribute] = (),
    ) -> bytes:
        """Encode a request; the sender fills in the sequence number.

        type_:  message type.
        fields: values of the family header by name; those left out are 0.
        """
        message = self.load()()
        message.update(fields)
        message["attrs"] = list(attributes)
        message["header"] |= {"type": type_, "flags": NLM_F_REQUEST | flags}
        message.encode()
        return bytes(message.data)

    def decode(self, body: memoryview) -> Any:
        """Decode a message without its nlmsghdr; return an object of pyroute2's class.

        Attributes are decoded when `get_attr` and `get_nested` read them. Parts of a message must
        not be used after the message itself is gone.
        """
        message = self.load()(HEADER.pack(HEADER.size + len(body), 0, 0, 0, 0) + bytes(body))
        message.decode()
        return message


def nest(*attributes: Attribute) -> dict[str, list[Attribute]]:
    """Return the value of an attribute that contains attributes."""
    return {"attrs": list(attributes)}


@cache
def _load(message_class: MessageClass) -> Any:
    _register_package()
    return getattr(importlib.import_module(message_class.module), message_class.name)


class _UnexecutedPackage(ModuleType):
    """A package whose modules can be imported; its `__init__` runs when other code needs it."""

    def __getattr__(self, name: str) -> object:
        spec = self.__spec__
        # `from package import module` looks for an attribute before it imports the module.
        is_module = name.startswith("__") or importlib.util.find_spec(f"{PACKAGE}.{name}")
        if is_module or spec is None or spec.loader is None:
            raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}")
        # The language reference allows this for modules; mypy does not know it.
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def _register_package() -> None:
    """Make the modules of pyroute2 importable without those that the package itself imports.

    The package's `__init__` imports all of pyroute2, with its database and its servers: 193
    modules, 60 ms and 10 MB. The modules with message classes need a third of that. Other code in
    this process may still import the package: its `__init__` runs then. The package is left as it
    is if another module has imported it already.
    """
    if PACKAGE in sys.modules:
        return
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _UnexecutedPackage
    sys.modules[PACKAGE] = package
